//! TLS against plain on the same server, beside nbdkit.

use anyhow::Context;
use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{
    client::{Client, Work},
    load::Figure,
    report::median,
    servers::{Images, Server, pin_load, pinned},
};

const ROUNDS: usize = 7;
/// How long a round of the lean load is.
const TIME: Duration = Duration::from_millis(400);
const OURS: u16 = 21990;
const THEIRS: u16 = 21991;

/// A server and its name in the table.
struct Subject {
    name: &'static str,
    port: u16,
    server: Server,
}

/// Prints the tables: a copy by nbdcopy, and the lean load, which leaves more of the time to the server. All of them, or
/// those that `chosen` name by a part of their title.
pub fn tables(chosen: &[String]) -> anyhow::Result<()> {
    let is_chosen =
        |title: &str| chosen.is_empty() || chosen.iter().any(|part| title.contains(part.as_str()));
    let images = Images::make()?;
    let pki = images.dir().join("pki");
    let subjects = start(&images, &pki)?;
    if is_chosen("nbdcopy") {
        println!("read 1 GiB with nbdcopy, whose own TLS is most of the time");
        head("plain s", "TLS s");
        compare(&subjects, |subject, secured| {
            let port = subject.port;
            let uri = match secured {
                false => format!("nbd://localhost:{port}"),
                true => format!("nbds://localhost:{port}?tls-certificates={}", pki.display()),
            };
            copy(&subject.server, &uri)
        })?;
    }
    pin_load()?;
    let config = trusting(&pki.join("ca.pem"))?;
    let loads = [
        ("4 KiB, depth 32", 4 << 10, 32),
        ("128 KiB, depth 4", 128 << 10, 4),
        ("1 MiB, depth 4", 1 << 20, 4),
    ];
    for (name, block, depth) in loads.into_iter().filter(|(name, ..)| is_chosen(name)) {
        println!("random reads of {name}, lean load: time and server time for each");
        head("plain µs", "TLS µs");
        let work = Work::random(block, depth, 100);
        compare(&subjects, |subject, secured| {
            let mut client = match secured {
                false => Client::connect(subject.port, "")?,
                true => Client::connect_secured(subject.port, "", config.clone())?,
            };
            load(&subject.server, &mut client, work)
        })?;
    }
    Ok(())
}

fn start(images: &Images, pki: &Path) -> anyhow::Result<[Subject; 2]> {
    let bootroom = bootroom_tests::binary::bootroom();
    let made = Command::new(&bootroom)
        .args(["pki", "init", "--dir"])
        .arg(pki)
        .args(["--host", "localhost"])
        .stdout(std::process::Stdio::null())
        .status()?;
    anyhow::ensure!(made.success(), "bootroom pki init failed");
    // As nbdkit and nbdcopy call them.
    std::fs::copy(pki.join("ca.pem"), pki.join("ca-cert.pem"))?;
    std::fs::copy(pki.join("server.pem"), pki.join("server-cert.pem"))?;
    std::fs::copy(pki.join("server.key"), pki.join("server-key.pem"))?;
    let mut ours = pinned(bootroom.to_str().expect("path"));
    ours.arg("export").arg(images.base());
    ours.args(["--read-only", "--tls", "on"]);
    ours.args(["--port", &OURS.to_string(), "--pki"]).arg(pki);
    let mut theirs = pinned("nbdkit");
    theirs
        .args(["-f", "-p", &THEIRS.to_string(), "--tls=on"])
        .arg(format!("--tls-certificates={}", pki.display()));
    theirs.args(["-r", "file"]).arg(images.base());
    let subject = |name, port, command| {
        let server = Server::spawn(command, port)?;
        anyhow::Ok(Subject { name, port, server })
    };
    Ok([
        subject("bootroom", OURS, ours)?,
        subject("nbdkit", THEIRS, theirs)?,
    ])
}

fn trusting(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

fn head(plain: &str, secured: &str) {
    println!(
        "{:<10}{plain:>10}{secured:>10}{:>8}{:>14}{:>10}{:>8}",
        "", "ratio", "CPU plain", "TLS", "ratio"
    );
}

/// Measures both servers without and with TLS in turns, and prints their medians.
fn compare(
    subjects: &[Subject; 2],
    mut measure: impl FnMut(&Subject, bool) -> anyhow::Result<Figure>,
) -> anyhow::Result<()> {
    let mut figures = [(); 4].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for (number, figures) in figures.iter_mut().enumerate() {
            let subject = &subjects[number / 2];
            let figure = measure(subject, number % 2 == 1);
            figures.push(figure.with_context(|| format!("{} {}", subject.name, number % 2))?);
        }
    }
    for (subject, figures) in subjects.iter().zip(figures.chunks(2)) {
        let (plain, secured) = (median(&figures[0]), median(&figures[1]));
        let (time, cpu) = (secured.rate / plain.rate, secured.cpu / plain.cpu);
        println!(
            "{:<10}{:>10.2}{:>10.2}{time:>8.2}{:>14.2}{:>10.2}{cpu:>8.2}",
            subject.name, plain.rate, secured.rate, plain.cpu, secured.cpu
        );
    }
    Ok(())
}

/// A copy to nowhere: seconds that it took, and seconds of the server's processor.
fn copy(server: &Server, uri: &str) -> anyhow::Result<Figure> {
    let before = server.cpu_of_all()?;
    let start = Instant::now();
    let mut copy = Command::new("taskset");
    copy.args(["-c", "1", "nbdcopy", "--connections=1", uri, "null:"]);
    anyhow::ensure!(copy.status()?.success(), "nbdcopy {uri} failed");
    Ok(Figure {
        rate: start.elapsed().as_secs_f64(),
        cpu: server.cpu_of_all()?.saturating_sub(before).as_secs_f64(),
    })
}

/// Microseconds for each request, and of the server's processor.
fn load(server: &Server, client: &mut Client, work: Work) -> anyhow::Result<Figure> {
    client.run(work, TIME / 8)?;
    let before = server.cpu();
    let (done, took) = client.run(work, TIME)?;
    let each = |time: Duration| time.as_secs_f64() * 1e6 / done as f64;
    Ok(Figure {
        rate: each(took),
        cpu: each(server.cpu().saturating_sub(before)),
    })
}
