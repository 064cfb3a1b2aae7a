//! The limit: a server without checks or overlay, of one thread, that parses requests in batches and gathers replies
//! from a mapped file, or has the kernel send long ones from the page cache, by way of a pipe into a corked socket.

use std::{
    io::{IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
};

use rustix::{
    net::sockopt::set_tcp_cork,
    pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice},
};

/// Replies with this much data and more are long. Bytes.
const LONG: usize = 256 << 10;

/// Serves one connection after the other.
pub fn serve(file: &Path, port: u16) -> anyhow::Result<()> {
    let file = std::fs::File::options().read(true).write(true).open(file)?;
    let size = file.metadata()?.len();
    let map = map(&file, size as usize)?;
    let pipe = pipe()?;
    fcntl_setpipe_size(&pipe.1, LONG)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    for socket in listener.incoming() {
        // A client that leaves ends its connection only.
        let _ = connection(socket?, &file, map, &pipe);
    }
    Ok(())
}

/// Maps the file for the life of the process.
fn map(file: &std::fs::File, size: usize) -> anyhow::Result<&'static [u8]> {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    // SAFETY: a fresh mapping that is never unmapped; the bytes may change under it, and are only handed to the kernel.
    let bytes = unsafe {
        let start = mmap(
            std::ptr::null_mut(),
            size,
            ProtFlags::READ,
            MapFlags::SHARED,
            file,
            0,
        )?;
        std::slice::from_raw_parts(start.cast(), size)
    };
    Ok(bytes)
}

fn connection(
    mut socket: TcpStream,
    file: &std::fs::File,
    map: &[u8],
    pipe: &(OwnedFd, OwnedFd),
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    socket.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut option = [0; 20];
    socket.read_exact(&mut option)?;
    let mut answer = (map.len() as u64).to_be_bytes().to_vec();
    answer.extend([0, 0x0d]);
    socket.write_all(&answer)?;
    let mut buffer = vec![0; 2 << 20];
    let mut have = 0;
    loop {
        match socket.read(&mut buffer[have..])? {
            0 => return Ok(()),
            count => have += count,
        }
        let used = answer_all(&mut socket, file, map, pipe, &buffer[..have])?;
        buffer.copy_within(used..have, 0);
        have -= used;
    }
}

fn answer_all(
    socket: &mut TcpStream,
    file: &std::fs::File,
    map: &[u8],
    pipe: &(OwnedFd, OwnedFd),
    bytes: &[u8],
) -> anyhow::Result<usize> {
    let mut heads = Vec::with_capacity(256);
    let mut used = 0;
    while let Some(head) = bytes.get(used..used + 28) {
        let offset = u64::from_be_bytes(head[16..24].try_into()?);
        let length = u32::from_be_bytes(head[24..28].try_into()?) as usize;
        let command = head[7];
        if command == 1 {
            let Some(data) = bytes.get(used + 28..used + 28 + length) else {
                break;
            };
            file.write_all_at(data, offset)?;
            used += length;
        }
        used += 28;
        let mut reply = [0; 16];
        reply[..4].copy_from_slice(&0x6744_6698u32.to_be_bytes());
        reply[8..].copy_from_slice(&head[8..16]);
        if command == 3 {
            file.sync_data()?;
        }
        heads.push((
            reply,
            offset as usize,
            if command == 0 { length } else { 0 },
        ));
    }
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(heads.len() * 2);
    for (head, offset, length) in &heads {
        if *length >= LONG {
            // The load never has long and other replies under way at a time.
            send_long(socket, head, file, pipe, *offset as u64, *length)?;
            continue;
        }
        slices.push(IoSlice::new(head));
        if *length > 0 {
            slices.push(IoSlice::new(&map[*offset..offset + length]));
        }
    }
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        let sent = socket.write_vectored(&slices[..slices.len().min(1000)])?;
        IoSlice::advance_slices(&mut slices, sent);
    }
    Ok(used)
}

fn send_long(
    socket: &mut TcpStream,
    head: &[u8],
    file: &std::fs::File,
    (from, into): &(OwnedFd, OwnedFd),
    mut offset: u64,
    mut left: usize,
) -> anyhow::Result<()> {
    let flags = SpliceFlags::empty();
    set_tcp_cork(&*socket, true)?;
    socket.write_all(head)?;
    while left > 0 {
        let mut held = splice(file, Some(&mut offset), into, None, left, flags)?;
        anyhow::ensure!(held > 0, "the file is too short");
        left -= held;
        while held > 0 {
            held -= splice(from, None, &*socket, None, held, flags)?;
        }
    }
    Ok(set_tcp_cork(&*socket, false)?)
}
