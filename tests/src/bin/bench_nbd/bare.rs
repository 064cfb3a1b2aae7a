//! The limit: a server without checks or overlay, of one thread, that parses requests in batches and gathers replies
//! from a mapped file.

use std::{
    io::{IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
};

/// Serves one connection after the other.
pub fn serve(file: &Path, port: u16) -> anyhow::Result<()> {
    let file = std::fs::File::options().read(true).write(true).open(file)?;
    let size = file.metadata()?.len();
    let map = map(&file, size as usize)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    for socket in listener.incoming() {
        // A client that leaves ends its connection only.
        let _ = connection(socket?, &file, map);
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

fn connection(mut socket: TcpStream, file: &std::fs::File, map: &[u8]) -> anyhow::Result<()> {
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
        let used = answer_all(&mut socket, file, map, &buffer[..have])?;
        buffer.copy_within(used..have, 0);
        have -= used;
    }
}

fn answer_all(
    socket: &mut TcpStream,
    file: &std::fs::File,
    map: &[u8],
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
