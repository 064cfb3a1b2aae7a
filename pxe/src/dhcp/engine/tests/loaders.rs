//! Which boot file goes to whom.

use super::*;

#[test]
fn each_firmware_gets_its_loader_and_ipxe_its_script() {
    let mut bench = Bench::full();
    for (arch, file) in [
        (0, "ipxe/undionly.kpxe"),
        (7, "ipxe/ipxe.efi"),
        (9, "ipxe/ipxe.efi"),
        (11, "grub/shimaa64.efi"),
    ] {
        let offer = bench.answer(&firmware(b"PXEClient:Arch", arch, MessageType::Discover));
        assert_eq!(
            (offer.siaddr, offer.file.as_slice()),
            (SERVER, file.as_bytes())
        );
        assert_eq!(offer.options.get(code::BOOT_FILE), Some(file.as_bytes()));
        assert_eq!(offer.options.get(code::TFTP_SERVER), Some(&b"10.0.0.1"[..]));
        assert!(
            !offer.options.has(code::VENDOR_CLASS),
            "it would send UEFI to port 4011"
        );
    }
    let http = firmware(b"HTTPClient:Arch:00016", 16, MessageType::Discover);
    let http = bench.answer(&with(http, &[(code::UUID, &[0; 17])]));
    assert!(
        !http.options.has(code::UUID) && http.file.is_empty(),
        "EDK2 would decline"
    );
    assert_eq!(
        http.options.get(code::BOOT_FILE),
        Some(&b"http://10.0.0.1/ipxe/ipxe.efi"[..])
    );
    assert_eq!(
        http.options.get(code::VENDOR_CLASS),
        Some(&b"HTTPClient"[..])
    );
    let script = bench.answer(&ipxe(FULL_IPXE));
    assert_eq!(script.file, SCRIPT.as_bytes());
    assert_eq!(script.options.get(code::IPXE), Some(&[176, 1, 1][..]));
    let by_class = with(
        firmware(b"PXEClient", 0, MessageType::Discover),
        &[(code::USER_CLASS, b"\x04iPXE")],
    );
    assert_eq!(bench.answer(&by_class).file, SCRIPT.as_bytes());
}

#[test]
fn unknown_firmware_gets_an_address_and_no_file() {
    let mut bench = Bench::full();
    let offer = bench.answer(&firmware(b"PXEClient", 12, MessageType::Discover));
    assert!(offer.file.is_empty() && !offer.options.has(code::BOOT_FILE));
    assert_eq!(
        bench.told(|e| *e
            == Happening::UnknownArch {
                arch: Some(Arch(12))
            }),
        1
    );
}

#[test]
fn an_ipxe_that_cannot_boot_linux_is_replaced_once() {
    let mut bench = Bench::full();
    let poor: &[u8] = &[19, 1, 1];
    assert_eq!(bench.answer(&ipxe(poor)).file, b"ipxe/undionly.kpxe");
    let mut request = with(
        selecting(MAC, host(100)),
        &[
            (code::IPXE, poor),
            (code::VENDOR_CLASS, b"PXEClient"),
            (code::ARCH, &[0, 0]),
        ],
    );
    request.kind = MessageType::Request;
    assert_eq!(bench.answer(&request).file, b"ipxe/undionly.kpxe");
    // Even if what it got is no better, it does not get it again.
    assert_eq!(bench.answer(&ipxe(poor)).file, SCRIPT.as_bytes());
    bench.now.wall = bench.now.wall.after(recent::SPAN + 1);
    assert_eq!(bench.answer(&ipxe(poor)).file, b"ipxe/undionly.kpxe");
}

#[test]
fn long_urls_travel_in_option_67_alone() {
    let long = format!("http://10.0.0.1/{}", "x".repeat(300));
    let extra = DhcpOption {
        code: code::BOOT_FILE,
        value: long.clone().into(),
    };
    let identity = Identity {
        options: vec![extra],
        ..Identity::default()
    };
    let mut bench = Bench::new(
        config(),
        TestPolicy {
            identity,
            ..TestPolicy::default()
        },
    );
    let roomy = with(ipxe(FULL_IPXE), &[(code::MAX_SIZE, &1500u16.to_be_bytes())]);
    assert_eq!(
        bench.answer(&roomy).options.get(code::BOOT_FILE),
        Some(long.as_bytes())
    );
}

#[test]
fn a_proxy_names_files_and_gives_no_addresses() {
    let mut bench = Bench::new(DhcpConfig::proxy("eth0", SERVER), TestPolicy::default());
    let discover = firmware(b"PXEClient:Arch:00007", 7, MessageType::Discover);
    let (offer, to) = bench.ask(&discover).unwrap();
    assert_eq!(
        (offer.kind, offer.yiaddr, to),
        (
            MessageType::Offer,
            Ipv4Addr::UNSPECIFIED,
            Destination::Broadcast
        )
    );
    assert_eq!(
        (offer.siaddr, offer.file.as_slice()),
        (SERVER, &b"ipxe/ipxe.efi"[..])
    );
    assert_eq!(
        offer.options.get(code::VENDOR_CLASS),
        Some(&b"PXEClient"[..])
    );
    assert_eq!(
        offer.options.get(code::VENDOR),
        Some(&boot::USE_BOOT_FILE[..])
    );
    assert!(!offer.options.has(code::LEASE_TIME) && !offer.options.has(code::SUBNET_MASK));
    // Machines that do not boot, and requests to the site's own server, are none of its business.
    assert!(bench.ask(&packet(MAC, MessageType::Discover)).is_none());
    assert!(
        bench
            .ask(&firmware(b"PXEClient", 7, MessageType::Request))
            .is_none()
    );
    assert_eq!(bench.leases.mac_of(host(50)), None);
    bench.ask(&with(
        packet(MAC, MessageType::Request),
        &[(code::REQUESTED_ADDRESS, &host(50).octets())],
    ));
    assert_eq!(
        bench.leases.mac_of(host(50)),
        Some(MAC),
        "learned from the request to the other server"
    );
    // Port 4011 answers from there, to whence it was asked.
    let request = Packet {
        ciaddr: host(50),
        ..firmware(b"PXEClient:Arch:00007", 7, MessageType::Request)
    };
    let reply = bench.outcome(&request, host(50), BINL_PORT).reply.unwrap();
    assert_eq!(
        (reply.from_port, reply.to),
        (4011, Destination::Unicast(SocketAddrV4::new(host(50), 68)))
    );
    assert_eq!(
        Packet::decode(&reply.packet).unwrap().file,
        b"ipxe/ipxe.efi"
    );
    assert_eq!(bench.answer(&ipxe(FULL_IPXE)).file, SCRIPT.as_bytes());
}

#[test]
fn secure_boot_machines_get_shim() {
    let policy = TestPolicy {
        loader: Loader::Grub,
        ..TestPolicy::default()
    };
    let mut bench = Bench::new(config(), policy);
    assert_eq!(
        bench
            .answer(&firmware(b"PXEClient", 7, MessageType::Discover))
            .file,
        b"grub/shimx64.efi"
    );
    assert_eq!(
        bench
            .answer(&firmware(b"PXEClient", 0, MessageType::Discover))
            .file,
        b"ipxe/undionly.kpxe"
    );
}

#[test]
fn a_raspberry_pi_is_known_by_its_address_or_its_uuid() {
    let class = &b"PXEClient:Arch:00000:UNDI:002001"[..];
    let by_address = Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);
    let mut bench = Bench::full();
    for (mac, uuid) in [
        (by_address, b"\0serialserialseri"),
        (MAC, b"\0RPi4\xd0\x31\x11\xc0BBBBSSSS"),
    ] {
        let options: [(u8, &[u8]); 3] = [
            (code::VENDOR_CLASS, class),
            (code::ARCH, &[0, 0]),
            (code::UUID, uuid),
        ];
        let discover = with(packet(mac, MessageType::Discover), &options);
        let offer = bench.answer(&discover);
        says_raspberry(&offer);
        // Some of their REQUESTs do not say any more who asks; the system's have another transaction.
        let request = selecting(mac, offer.yiaddr);
        says_raspberry(&bench.answer(&request));
        let xid = [1, 2, 3, 4];
        let system = bench.answer(&Packet { xid, ..request });
        assert!(!system.options.has(code::VENDOR));
    }
}

fn says_raspberry(reply: &Packet) {
    let menu = reply.options.get(code::VENDOR).unwrap();
    assert!(menu.windows(17).any(|w| w == b"Raspberry Pi Boot"));
    assert_eq!((reply.siaddr, reply.file.len()), (SERVER, 0));
}
