//! Memory of idle clients, and growth over many connections.

use std::time::Duration;

use super::{
    client::{Client, Work},
    servers::{Images, Server, pinned},
};

const PORT: u16 = 21950;

fn server(images: &Images) -> anyhow::Result<Server> {
    let bootroom = bootroom_tests::binary::bootroom();
    let mut command = pinned(bootroom.to_str().expect("path"));
    let port = PORT.to_string();
    command.arg("export").arg(images.base()).args([
        "--read-only",
        "--per-peer",
        "2000",
        "--port",
        &port,
    ]);
    Server::spawn(command, PORT)
}

/// 1000 clients that have worked once and then rest.
pub fn idle_clients() -> anyhow::Result<()> {
    let images = Images::make()?;
    let server = server(&images)?;
    let before = server.memory()?;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        let mut client = Client::connect(PORT, "")?;
        client.run(Work::random(4 << 10, 32, 100), Duration::from_millis(1))?;
        clients.push(client);
    }
    let busy = server.memory()?;
    // The server gives buffers back after two seconds without a request; this waits for that, with a deadline.
    let mut idle = busy;
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(100));
        idle = idle.min(server.memory()?);
    }
    println!(
        "1000 clients: {} KiB each after work, {} KiB each idle",
        (busy - before) >> 20,
        (idle - before) / 1000 / 1024
    );
    Ok(())
}

/// 100,000 connections one after the other.
pub fn cycles() -> anyhow::Result<()> {
    let images = Images::make()?;
    let server = server(&images)?;
    for _ in 0..1000 {
        Client::connect(PORT, "")?;
    }
    let before = server.memory()?;
    for count in 1..=100_000u32 {
        Client::connect(PORT, "")?;
        if count.is_multiple_of(25_000) {
            println!(
                "after {count} connections: {} KiB, at first {} KiB",
                server.memory()? >> 10,
                before >> 10
            );
        }
    }
    println!(
        "threads left: {}",
        std::fs::read_dir(format!("/proc/{}/task", server.pid()))?.count()
    );
    Ok(())
}
