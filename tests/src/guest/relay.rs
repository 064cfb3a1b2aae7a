//! A wire between guest and server that a test can cut: forwards a port, and resets every connection when told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A forwarded port. Ends with the test's process.
pub struct Relay {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    /// Forwards a new port of the loopback address to `to`.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let open = Arc::<Mutex<Vec<TcpStream>>>::default();
        let known = Arc::clone(&open);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if let Ok(far) = TcpStream::connect(to) {
                    known
                        .lock()
                        .expect("no forwarder panicked")
                        .extend(near.try_clone());
                    forward(near, far);
                }
            }
        });
        Self { port, open }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Resets all connections (RST, not FIN), wherever in a message they are. Returns how many there were.
    ///
    /// # Panics
    /// When a forwarder has panicked.
    pub fn reset(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().expect("no forwarder panicked"));
        for stream in &open {
            let lingering =
                rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO));
            lingering.expect("the socket is open");
            let _ = stream.shutdown(Shutdown::Both);
        }
        open.len()
    }
}

fn forward(near: TcpStream, far: TcpStream) {
    let (near_read, far_read) = (near.try_clone(), far.try_clone());
    let (Ok(near_read), Ok(far_read)) = (near_read, far_read) else {
        return;
    };
    std::thread::spawn(move || copy(near_read, far));
    std::thread::spawn(move || copy(far_read, near));
}

/// Copies until either side ends; then both do.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut chunk = [0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
