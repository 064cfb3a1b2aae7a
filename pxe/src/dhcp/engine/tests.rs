mod loaders;

use super::*;

use crate::dhcp::config::Range;
use crate::dhcp::lease::NoLog;
use crate::dhcp::reply::Destination;
use crate::machine::Arch;
use crate::policy::{BootAnswer, Content, DhcpOption, FileRequest, Loader, Report};
use parking_lot::Mutex;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);
const SCRIPT: &str = "http://10.0.0.1/ipxe/02:00:00:00:00:07";

#[derive(Default)]
struct TestPolicy {
    loader: Loader,
    identity: Identity,
    stranger: Option<Mac>,
    events: Mutex<Vec<Happening>>,
}

impl Policy for TestPolicy {
    fn identify(&self, machine: &Machine) -> Option<Identity> {
        (self.stranger != Some(machine.mac)).then(|| self.identity.clone())
    }

    fn boot(&self, _: &Machine, stage: Stage) -> Option<BootAnswer> {
        assert_ne!(stage, Stage::Os, "an OS is not asked what it boots");
        Some(BootAnswer::Standard {
            loader: self.loader,
            script: SCRIPT.into(),
        })
    }

    fn file(&self, _: &FileRequest) -> Option<Content> {
        None
    }

    fn report(&self, _: &Report) -> bool {
        false
    }

    fn event(&self, event: Event) {
        self.events.lock().push(event.what);
    }
}

struct Bench {
    engine: Engine,
    leases: Arc<Leases>,
    policy: Arc<TestPolicy>,
    now: Now,
}

impl Bench {
    fn new(config: DhcpConfig, policy: TestPolicy) -> Self {
        let policy = Arc::new(policy);
        let leases = Leases::open(Box::new(NoLog)).unwrap();
        let engine = Engine::new(Arc::new(config), leases.clone(), policy.clone());
        Self {
            engine,
            leases,
            policy,
            now: Now {
                wall: UnixTime(1000),
                mono: Instant::now(),
            },
        }
    }

    fn full() -> Self {
        Self::new(config(), TestPolicy::default())
    }

    fn outcome(&mut self, packet: &Packet, source: Ipv4Addr, port: u16) -> Outcome {
        let via = Via {
            source: SocketAddrV4::new(source, 68),
            port,
        };
        self.engine.handle(packet, via, self.now)
    }

    /// The answer, and where it goes.
    fn ask(&mut self, packet: &Packet) -> Option<(Packet, Destination)> {
        let reply = self
            .outcome(packet, Ipv4Addr::UNSPECIFIED, SERVER_PORT)
            .reply?;
        Some((Packet::decode(&reply.packet).unwrap(), reply.to))
    }

    fn answer(&mut self, packet: &Packet) -> Packet {
        self.ask(packet).expect("an answer").0
    }

    /// DISCOVER, OFFER, REQUEST, ACK.
    fn lease(&mut self, mac: Mac) -> Ipv4Addr {
        let offer = self.answer(&packet(mac, MessageType::Discover));
        assert_eq!(offer.kind, MessageType::Offer);
        let ack = self.answer(&selecting(mac, offer.yiaddr));
        assert_eq!((ack.kind, ack.yiaddr), (MessageType::Ack, offer.yiaddr));
        ack.yiaddr
    }

    fn told(&self, wanted: impl Fn(&Happening) -> bool) -> usize {
        self.policy
            .events
            .lock()
            .iter()
            .filter(|e| wanted(e))
            .count()
    }
}

fn config() -> DhcpConfig {
    let mut subnet = Subnet::new("10.0.0.0/24".parse().unwrap());
    subnet.ranges = vec![Range::new(
        Ipv4Addr::new(10, 0, 0, 100),
        Ipv4Addr::new(10, 0, 0, 109),
    )];
    subnet.routers = vec![Ipv4Addr::new(10, 0, 0, 254)];
    DhcpConfig::full("eth0", SERVER, subnet)
}

fn packet(mac: Mac, kind: MessageType) -> Packet {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&mac.0);
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, kind as u8, 255]);
    Packet::decode(&bytes).unwrap()
}

fn with(mut packet: Packet, options: &[(u8, &[u8])]) -> Packet {
    for (code, value) in options {
        packet.options.set(*code, *value);
    }
    packet
}

fn selecting(mac: Mac, address: Ipv4Addr) -> Packet {
    let options: [(u8, &[u8]); 2] = [
        (code::SERVER_ID, &SERVER.octets()),
        (code::REQUESTED_ADDRESS, &address.octets()),
    ];
    with(packet(mac, MessageType::Request), &options)
}

fn init_reboot(address: Ipv4Addr) -> Packet {
    with(
        packet(MAC, MessageType::Request),
        &[(code::REQUESTED_ADDRESS, &address.octets())],
    )
}

fn renewing(address: Ipv4Addr) -> Packet {
    Packet {
        ciaddr: address,
        ..packet(MAC, MessageType::Request)
    }
}

fn firmware(class: &[u8], arch: u16, kind: MessageType) -> Packet {
    with(
        packet(MAC, kind),
        &[
            (code::VENDOR_CLASS, class),
            (code::ARCH, &arch.to_be_bytes()),
        ],
    )
}

fn ipxe(features: &[u8]) -> Packet {
    with(
        firmware(b"PXEClient:Arch:00000", 0, MessageType::Discover),
        &[(code::IPXE, features)],
    )
}

const FULL_IPXE: &[u8] = &[19, 1, 1, 24, 1, 1];

fn host(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

#[test]
fn one_machine_keeps_one_address_whatever_client_ids_it_sends() {
    let mut bench = Bench::full();
    let address = bench.lease(MAC);
    for id in [&b"\x01\x02\0\0\0\0\x07"[..], b"\xff\0\0\0\0uuid", b"\0name"] {
        let offer = bench.answer(&with(
            packet(MAC, MessageType::Discover),
            &[(code::CLIENT_ID, id)],
        ));
        assert_eq!(offer.yiaddr, address);
        assert_eq!(
            offer.options.get(code::CLIENT_ID),
            Some(id),
            "echoed as RFC 6842 has it"
        );
    }
    assert_ne!(bench.lease(Mac([2, 0, 0, 0, 0, 8])), address);
}

#[test]
fn an_ack_is_written_down_and_says_everything() {
    let identity = Identity {
        hostname: Some("r12-01".into()),
        ..Identity::default()
    };
    let mut bench = Bench::new(
        config(),
        TestPolicy {
            identity,
            ..TestPolicy::default()
        },
    );
    let offered = bench.outcome(
        &packet(MAC, MessageType::Discover),
        Ipv4Addr::UNSPECIFIED,
        SERVER_PORT,
    );
    assert_eq!(offered.changes, []);
    assert_eq!(offered.probe, Some((MAC, host(100))));
    let outcome = bench.outcome(
        &selecting(MAC, host(100)),
        Ipv4Addr::UNSPECIFIED,
        SERVER_PORT,
    );
    let expires = UnixTime(1000 + 12 * 3600);
    let lease = Lease {
        mac: MAC,
        address: host(100),
        expires,
        hostname: Some("r12-01".into()),
    };
    assert_eq!(outcome.changes, [LeaseChange::Put(lease)]);
    let ack = Packet::decode(&outcome.reply.unwrap().packet).unwrap();
    for (code, value) in [
        (code::SERVER_ID, &SERVER.octets()[..]),
        (code::LEASE_TIME, &43_200u32.to_be_bytes()),
        (code::SUBNET_MASK, &[255, 255, 255, 0]),
        (code::ROUTER, &[10, 0, 0, 254]),
        (code::BROADCAST, &[10, 0, 0, 255]),
        (code::HOSTNAME, b"r12-01"),
    ] {
        assert_eq!(ack.options.get(code), Some(value), "option {code}");
    }
    assert!(!ack.options.has(code::BOOT_FILE), "an OS boots nothing");
}

#[test]
fn requests_in_all_four_states() {
    let mut bench = Bench::full();
    let address = bench.lease(MAC);
    // INIT-REBOOT, RENEWING and REBINDING with the right address.
    let rebooted = bench.ask(&init_reboot(address)).unwrap();
    assert_eq!(
        (rebooted.0.kind, rebooted.1),
        (
            MessageType::Ack,
            Destination::Hardware { mac: MAC, address }
        )
    );
    let renewed = bench.ask(&renewing(address)).unwrap();
    assert_eq!(renewed.0.kind, MessageType::Ack);
    assert_eq!(renewed.0.ciaddr, address);
    assert_eq!(
        renewed.1,
        Destination::Unicast(SocketAddrV4::new(address, 68))
    );
    // A wrong address, on this network and from another one.
    for wrong in [host(200), Ipv4Addr::new(192, 168, 0, 9)] {
        let (nak, to) = bench.ask(&init_reboot(wrong)).unwrap();
        assert_eq!((nak.kind, to), (MessageType::Nak, Destination::Broadcast));
        assert_eq!(nak.yiaddr, Ipv4Addr::UNSPECIFIED);
        assert_eq!(nak.options.address(code::SERVER_ID), Some(SERVER));
    }
    // SELECTING what another machine has.
    let theirs = bench.lease(Mac([2, 0, 0, 0, 0, 8]));
    assert_eq!(bench.answer(&selecting(MAC, theirs)).kind, MessageType::Nak);
    // INIT-REBOOT is a step of a boot; a renewal is none.
    for (request, expected) in [(init_reboot(address), false), (renewing(address), true)] {
        let event = bench.outcome(&request, address, SERVER_PORT).event.unwrap();
        let Happening::Ack { renewal, .. } = event.what else {
            panic!("{event:?}")
        };
        assert_eq!(renewal, expected);
    }
}

#[test]
fn a_lost_lease_file_is_made_good_by_its_clients_where_we_are_alone() {
    let mut alone = Bench::full();
    assert_eq!(alone.answer(&renewing(host(105))).kind, MessageType::Ack);
    let guest = DhcpConfig {
        authoritative: false,
        ..config()
    };
    let mut guest = Bench::new(guest, TestPolicy::default());
    assert!(guest.ask(&renewing(host(105))).is_none());
    assert!(guest.ask(&init_reboot(host(105))).is_none());
}

#[test]
fn an_offer_of_another_server_taken_frees_ours_and_is_told_once() {
    let mut bench = Bench::full();
    let offered = bench.answer(&packet(MAC, MessageType::Discover)).yiaddr;
    let other = with(
        selecting(MAC, host(9)),
        &[(code::SERVER_ID, &[10, 0, 0, 66])],
    );
    assert!(bench.ask(&other).is_none());
    assert!(bench.ask(&other).is_none());
    assert_eq!(
        bench.told(|e| *e == Happening::OtherServer { server: host(66) }),
        1
    );
    let wish = with(
        packet(Mac([2, 0, 0, 0, 0, 8]), MessageType::Discover),
        &[(code::REQUESTED_ADDRESS, &offered.octets())],
    );
    assert_eq!(bench.answer(&wish).yiaddr, offered);
}

#[test]
fn release_must_come_from_the_address_and_decline_sets_it_aside() {
    let mut bench = Bench::full();
    let address = bench.lease(MAC);
    let release = Packet {
        ciaddr: address,
        ..packet(MAC, MessageType::Release)
    };
    assert!(
        bench
            .outcome(&release, host(66), SERVER_PORT)
            .changes
            .is_empty()
    );
    assert_eq!(
        bench.outcome(&release, address, SERVER_PORT).changes.len(),
        1
    );
    assert_eq!(bench.lease(MAC), address);
    let decline = with(
        packet(MAC, MessageType::Decline),
        &[(code::REQUESTED_ADDRESS, &address.octets())],
    );
    let foreign = Packet {
        chaddr: packet(Mac([2, 0, 0, 0, 0, 9]), MessageType::Decline).chaddr,
        ..decline.clone()
    };
    assert!(
        bench
            .outcome(&foreign, Ipv4Addr::UNSPECIFIED, SERVER_PORT)
            .changes
            .is_empty()
    );
    let changes = bench
        .outcome(&decline, Ipv4Addr::UNSPECIFIED, SERVER_PORT)
        .changes;
    assert_eq!(changes, [LeaseChange::Remove(address)]);
    assert_ne!(bench.lease(MAC), address);
}

#[test]
fn a_conflict_found_by_probing_leads_to_another_address() {
    let mut bench = Bench::full();
    let first = bench.answer(&packet(MAC, MessageType::Discover)).yiaddr;
    bench.engine.conflict(MAC, first, bench.now);
    let second = bench.answer(&packet(MAC, MessageType::Discover)).yiaddr;
    assert_ne!(first, second);
    assert_eq!(
        bench.told(|e| *e == Happening::Conflict { address: first }),
        1
    );
}

#[test]
fn inform_gets_options_and_no_lease() {
    let mut bench = Bench::full();
    let inform = Packet {
        ciaddr: host(50),
        ..packet(MAC, MessageType::Inform)
    };
    let (ack, to) = bench.ask(&inform).unwrap();
    assert_eq!(
        (ack.kind, ack.yiaddr),
        (MessageType::Ack, Ipv4Addr::UNSPECIFIED)
    );
    assert_eq!(to, Destination::Unicast(SocketAddrV4::new(host(50), 68)));
    assert!(!ack.options.has(code::LEASE_TIME) && ack.options.has(code::ROUTER));
}

#[test]
fn strangers_and_exhaustion_are_told_and_nothing_more() {
    let policy = TestPolicy {
        stranger: Some(MAC),
        ..TestPolicy::default()
    };
    let mut bench = Bench::new(config(), policy);
    for _ in 0..3 {
        assert!(bench.ask(&packet(MAC, MessageType::Discover)).is_none());
    }
    assert_eq!(bench.told(|e| matches!(e, Happening::NotServed { .. })), 1);
    for n in 100..110 {
        bench.lease(Mac([2, 0, 0, 0, 1, n]));
    }
    assert!(
        bench
            .ask(&packet(Mac([2, 0, 0, 0, 2, 1]), MessageType::Discover))
            .is_none()
    );
    assert_eq!(bench.told(|e| *e == Happening::Exhausted), 1);
}

#[test]
fn relays_choose_the_network_and_get_option_82_back_last() {
    let mut config = config();
    let mut far = Subnet::new("10.9.0.0/16".parse().unwrap());
    far.ranges = vec![Range::new(
        Ipv4Addr::new(10, 9, 1, 0),
        Ipv4Addr::new(10, 9, 1, 9),
    )];
    config.subnets.push(far);
    let mut bench = Bench::new(config, TestPolicy::default());
    let relay = Ipv4Addr::new(10, 9, 0, 1);
    let agent: &[u8] = b"\x01\x05port7\x02\x03abc";
    let discover = Packet {
        giaddr: relay,
        hops: 1,
        ..with(packet(MAC, MessageType::Discover), &[(code::RELAY, agent)])
    };
    let (offer, to) = bench.ask(&discover).unwrap();
    assert_eq!(offer.yiaddr, Ipv4Addr::new(10, 9, 1, 0));
    assert_eq!(
        (offer.giaddr, to),
        (relay, Destination::Unicast(SocketAddrV4::new(relay, 67)))
    );
    assert_eq!(offer.options.iter().last(), Some((code::RELAY, agent)));
    // Renewing goes past the relay.
    let mut request = selecting(MAC, offer.yiaddr);
    request.giaddr = relay;
    assert_eq!(bench.answer(&request).kind, MessageType::Ack);
    let (ack, to) = bench.ask(&renewing(offer.yiaddr)).unwrap();
    assert_eq!(
        (ack.kind, to),
        (
            MessageType::Ack,
            Destination::Unicast(SocketAddrV4::new(offer.yiaddr, 68))
        )
    );
    // RFC 3527 link selection and RFC 5107 server identifier override.
    let special: &[u8] = &[5, 4, 10, 0, 0, 0, 11, 4, 10, 9, 0, 1];
    let discover = with(
        Packet {
            giaddr: Ipv4Addr::new(172, 16, 0, 1),
            ..packet(Mac([2, 0, 0, 0, 0, 9]), MessageType::Discover)
        },
        &[(code::RELAY, special)],
    );
    let offer = bench.answer(&discover);
    assert_eq!(
        (offer.yiaddr, offer.options.address(code::SERVER_ID)),
        (host(100), Some(relay))
    );
    // A network that nobody configured.
    let unknown = Packet {
        giaddr: Ipv4Addr::new(172, 16, 0, 1),
        ..packet(MAC, MessageType::Discover)
    };
    assert!(bench.ask(&unknown).is_none());
    // RFC 3011: which network was chosen is said back.
    let chosen: &[u8] = &[10, 9, 0, 0];
    let offer = bench.answer(&with(unknown, &[(code::SUBNET_SELECTION, chosen)]));
    assert_eq!(offer.yiaddr.octets()[..2], [10, 9]);
    assert_eq!(offer.options.get(code::SUBNET_SELECTION), Some(chosen));
}

#[test]
fn answers_go_where_a_machine_without_an_address_hears_them() {
    let mut bench = Bench::full();
    let (offer, to) = bench.ask(&packet(MAC, MessageType::Discover)).unwrap();
    assert_eq!(
        to,
        Destination::Hardware {
            mac: MAC,
            address: offer.yiaddr
        }
    );
    let wants_broadcast = Packet {
        broadcast: true,
        ..packet(MAC, MessageType::Discover)
    };
    assert_eq!(
        bench.ask(&wants_broadcast).unwrap().1,
        Destination::Broadcast
    );
}

#[test]
fn a_flood_of_machines_cannot_take_more_than_there_is() {
    let mut bench = Bench::full();
    let address = bench.lease(MAC);
    for n in 0..5000u16 {
        let [a, b] = n.to_be_bytes();
        bench.ask(&packet(Mac([6, 6, 6, 6, a, b]), MessageType::Discover));
    }
    assert_eq!(bench.lease(MAC), address, "who has an address keeps it");
}
