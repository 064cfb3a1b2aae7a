//! The ports that the server needs, and who has them.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddrV4},
};

use socket2::{Domain, Socket, Type};

use super::{Finding, Running};
use crate::config::{Config, DhcpMode};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A port that the server listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// What speaks on it.
    pub name: &'static str,
    /// By what it comes.
    pub transport: Transport,
    /// Its number.
    pub number: u16,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = match self.transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        write!(f, "{transport} {} ({})", self.number, self.name)
    }
}

/// The ports that this configuration needs.
pub fn needed(config: &Config) -> Vec<Port> {
    let port = |name, transport, number| Port {
        name,
        transport,
        number,
    };
    let mut ports = Vec::new();
    if config.dhcp.mode != DhcpMode::Off {
        ports.push(port("DHCP", Transport::Udp, 67));
    }
    if config.dhcp.mode == DhcpMode::Proxy {
        ports.push(port("proxyDHCP", Transport::Udp, 4011));
    }
    ports.push(port("TFTP", Transport::Udp, 69));
    ports.push(port("HTTP", Transport::Tcp, config.server.http_port));
    ports.push(port("NBD", Transport::Tcp, config.server.nbd_port));
    if let Some(standby) = &config.standby
        && standby.listen.ip() == config.server.ip()
    {
        ports.push(port("the pair", Transport::Tcp, standby.listen.port()));
    }
    ports
}

/// Whether each port is free, or is the server's own.
pub fn check(config: &Config, running: &Running) -> Vec<Finding> {
    let mut findings = Vec::new();
    for port in needed(config) {
        findings.extend(match running.pid {
            Some(pid) => served(port, pid),
            None => free(config, port),
        });
    }
    if findings.is_empty() {
        let message = match running.pid {
            Some(pid) => format!("the server, process {pid}, has its ports"),
            None => "the ports are free (the server does not run)".into(),
        };
        findings.push(Finding::ok("ports", message));
    }
    findings
}

/// A server that runs must have its port. Who it is cannot be seen without root.
fn served(port: Port, pid: u32) -> Option<Finding> {
    let holders = holders(port);
    let own = holders.is_empty() || holders.iter().any(|holder| holder.pid == Some(pid));
    (!own).then(|| taken(port, &holders))
}

/// Taken for real and given back at once: only that tells whether a socket on another interface is in the way.
fn free(config: &Config, port: Port) -> Option<Finding> {
    let error = take(config, port).err()?;
    match error.kind() {
        io::ErrorKind::AddrInUse => Some(taken(port, &holders(port))),
        io::ErrorKind::PermissionDenied => Some(Finding::warning(
            "ports",
            format!("{port} cannot be tried: {error}"),
            "run it as root",
        )),
        // What is wrong with the address is said where the interface is looked at.
        _ => None,
    }
}

fn take(config: &Config, port: Port) -> io::Result<()> {
    let kind = match port.transport {
        Transport::Udp => Type::DGRAM,
        Transport::Tcp => Type::STREAM,
    };
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    let dhcp = port.number == 67 && port.transport == Transport::Udp;
    socket.set_reuse_address(dhcp || port.transport == Transport::Tcp)?;
    socket.bind_device(Some(config.server.interface.value.as_bytes()))?;
    let address = match dhcp {
        true => Ipv4Addr::UNSPECIFIED,
        false => config.server.ip(),
    };
    socket.bind(&SocketAddrV4::new(address, port.number).into())?;
    match port.transport {
        Transport::Tcp => socket.listen(1),
        Transport::Udp => Ok(()),
    }
}

fn taken(port: Port, holders: &[Holder]) -> Finding {
    let names: Vec<_> = holders.iter().map(Holder::shown).collect();
    let who = match names.is_empty() {
        true => "a program that cannot be seen from here".into(),
        false => names.join(", "),
    };
    let service = holders.iter().find_map(|holder| holder.name.as_deref());
    let fix = match service {
        Some(name) => format!("stop it: systemctl disable --now {name}"),
        None => "find it as root: ss -lntup".into(),
    };
    Finding::bad("ports", format!("{port} is taken by {who}"), fix)
}

/// A process with a socket on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    pid: Option<u32>,
    name: Option<String>,
}

impl Holder {
    fn shown(&self) -> String {
        match (&self.name, self.pid) {
            (Some(name), Some(pid)) => format!("{name} (process {pid})"),
            _ => "a program of another user".into(),
        }
    }
}

/// Who has a socket on the port, in this network namespace.
fn holders(port: Port) -> Vec<Holder> {
    let table = match port.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    let mut inodes = Vec::new();
    for table in [table.to_owned(), format!("{table}6")] {
        let text = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        inodes.extend(sockets_on(&text, port));
    }
    let mut holders: Vec<Holder> = Vec::new();
    for inode in inodes {
        let holder = holder_of(inode);
        if !holders.contains(&holder) {
            holders.push(holder);
        }
    }
    holders
}

/// The inodes of the sockets in a table of /proc/net that wait on the port.
fn sockets_on(table: &str, port: Port) -> Vec<u64> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, number) = words.get(1)?.rsplit_once(':')?;
        let number = u16::from_str_radix(number, 16).ok()?;
        // State 0A of TCP is listening; the others are connections.
        let waits = port.transport == Transport::Udp || *words.get(3)? == "0A";
        (waits && number == port.number).then_some(())?;
        words.get(9)?.parse().ok()
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn holder_of(inode: u64) -> Holder {
    let wanted = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut links = files.flatten().map(|file| fs::read_link(file.path()));
        links.any(|link| link.is_ok_and(|link| link.as_os_str() == wanted.as_str()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let pid = pids.find(has);
    let name = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    Holder {
        pid,
        name: name.map(|name| name.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn the_holder_of_a_port_is_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = |address: std::net::SocketAddr| address.port();
        for (transport, number) in [
            (Transport::Tcp, number(tcp.local_addr().unwrap())),
            (Transport::Udp, number(udp.local_addr().unwrap())),
        ] {
            let port = Port {
                name: "test",
                transport,
                number,
            };
            let pids: Vec<_> = holders(port).iter().map(|holder| holder.pid).collect();
            assert_eq!(pids, [Some(std::process::id())]);
            assert_eq!(served(port, std::process::id()), None);
            let finding = served(port, 1).unwrap();
            assert!(finding.message.contains("is taken by"), "{finding:?}");
        }
    }

    #[test]
    fn connections_are_no_listeners() {
        let table = "  sl  local_address rem_address st tx rx tr tm retr uid timeout inode\n\
                     0: 0100007F:0050 00000000:0000 0A 0:0 0:0 0 0 0 11 1\n\
                     1: 0100007F:0050 0100007F:1234 01 0:0 0:0 0 0 0 12 1\n\
                     garbage\n";
        let port = Port {
            name: "HTTP",
            transport: Transport::Tcp,
            number: 80,
        };
        assert_eq!(sockets_on(table, port), [11]);
    }
}
