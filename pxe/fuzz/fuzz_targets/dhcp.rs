//! Any bytes as a DHCP packet, through the decoder and the server's logic: no panic, and what is answered can be read.
#![no_main]

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use pxe::dhcp::engine::{Engine, Now, Via};
use pxe::dhcp::packet::Packet;
use pxe::dhcp::{DhcpConfig, Leases, NoLog, Range, Subnet, UnixTime};
use pxe::{BootAnswer, Content, Event, FileRequest, Identity, Loader, Machine, Policy, Report, Stage};

struct Everyone;

impl Policy for Everyone {
    fn identify(&self, machine: &Machine) -> Option<Identity> {
        Some(Identity { hostname: machine.hostname.clone(), ..Identity::default() })
    }
    fn boot(&self, _: &Machine, _: Stage) -> Option<BootAnswer> {
        Some(BootAnswer::Standard { loader: Loader::Ipxe, script: "http://10.0.0.1/ipxe".into() })
    }
    fn file(&self, _: &FileRequest) -> Option<Content> {
        None
    }
    fn report(&self, _: &Report) -> bool {
        false
    }
    fn event(&self, _: Event) {}
}

fn engine(proxy: bool) -> Engine {
    let server = Ipv4Addr::new(10, 0, 0, 1);
    let config = if proxy {
        DhcpConfig::proxy("eth0", server)
    } else {
        let mut subnet = Subnet::new("10.0.0.0/24".parse().unwrap());
        subnet.ranges = vec![Range::new(Ipv4Addr::new(10, 0, 0, 100), Ipv4Addr::new(10, 0, 0, 199))];
        DhcpConfig::full("eth0", server, subnet)
    };
    Engine::new(Arc::new(config), Leases::open(Box::new(NoLog)).unwrap(), Arc::new(Everyone))
}

thread_local! {
    static ENGINES: RefCell<[Engine; 2]> = RefCell::new([engine(false), engine(true)]);
}

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (seconds, mut bytes) = input;
    // Past the cookie, or nearly no input would get to the options.
    if bytes.len() >= 240 {
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        bytes[1..3].copy_from_slice(&[1, 6]);
    }
    let Ok(packet) = Packet::decode(&bytes) else { return };
    ENGINES.with_borrow_mut(|engines| {
        for (engine, port) in engines.iter_mut().zip([67, 4011]) {
            let source = SocketAddrV4::new(packet.ciaddr, 68);
            let now = Now { wall: UnixTime(seconds.into()), mono: Instant::now() };
            let outcome = engine.handle(&packet, Via { source, port }, now);
            if let Some(reply) = outcome.reply {
                let answer = Packet::decode(&reply.packet).expect("answers can be read");
                assert!(reply.packet.len() >= 300 && answer.reply && answer.xid == packet.xid);
            }
        }
    });
});
