//! The servers: a pair, and one alone, with the same image.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use bootroom_tests::namespace::Namespace;
use bootroom_tests::pair::seat::{Seat, client};
use bootroom_tests::pair::{Pair, Plan, Side, image};
use bootroom_tests::server::Server;

/// Size of the disk. Bytes.
pub const DISK: u64 = 256 << 20;
/// Where the server that is alone is.
const ALONE: &str = "10.80.0.3";
const PORT: u16 = 10809;

/// A disk, as the load reaches it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The server.
    pub address: &'static str,
    /// The export.
    pub export: String,
}

impl Place {
    /// Where to connect.
    pub fn socket(&self) -> (&'static str, u16) {
        (self.address, PORT)
    }
}

/// All of it.
pub struct Stage {
    /// Where the load runs, in both rooms.
    pub seat: Seat,
    /// The mirrored disk, on A.
    pub mirrored: Place,
    /// The one that is not.
    pub alone: Place,
    _server: Server,
    _namespace: Namespace,
    /// The pair.
    pub pair: Pair,
}

impl Stage {
    /// Starts everything.
    pub fn new() -> Self {
        let room = client(1, "one", "bench");
        let mut pair = Pair::unstarted(&Plan {
            room: &room,
            ..Plan::default()
        });
        let disk = pair.path("bench.disk");
        image::make_disk(&disk, DISK >> 20);
        image::import_disk(pair.host(Side::A), "bench", &disk);
        let (namespace, server) = alone(&pair, &room);
        pair.start();
        let seat = pair.seat(1);
        seat.lease();
        let place = |address: &'static str| Place {
            address,
            export: seat.export(address, "one"),
        };
        Self {
            mirrored: place(Side::A.address()),
            alone: place(ALONE),
            seat,
            _server: server,
            _namespace: namespace,
            pair,
        }
    }
}

/// A server that mirrors nothing, with the same image; it gives no addresses.
fn alone(pair: &Pair, room: &str) -> (Namespace, Server) {
    let namespace = Namespace::new();
    pair.switch.plug("server-alone", &namespace);
    namespace.ip(&format!("address add {ALONE}/24 dev eth0"));
    let dir = pair.path("alone");
    fs::create_dir_all(dir.join("data")).expect("a data directory");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(pair.host(Side::A).data().join("images"))
        .arg(dir.join("data"))
        .status();
    assert!(copied.expect("cp runs").success());
    let text = |path: PathBuf| format!("{:?}", path.display().to_string());
    let configuration = format!(
        "[server]\ndata = {}\ncontrol = {}\ninterface = \"eth0\"\naddress = \"{ALONE}/24\"\n\
         [dhcp]\nmode = \"off\"\n{room}",
        text(dir.join("data")),
        text(dir.join("control.sock"))
    );
    let config = dir.join("bootroom.toml");
    fs::write(&config, configuration).expect("it is written");
    let mut command = Server::command(&namespace, &config);
    command.stderr(Stdio::null());
    let server = Server::spawn(command, &dir.join("control.sock"), |server| {
        server.ask(&["status", "--json"]).status.success()
    });
    (namespace, server)
}
