//! What the specification demands of a server in the handshake, by the name of each demand. `MUSTS.md` says which test
//! of this workspace stands for which; the last test here holds it to the sources.
#![allow(missing_docs)]

use nbd::{
    Directory, ExportInfo, HeaderStyle, OptionError, OptionKind, Purpose, Refusal, ServerHandshake,
    ServerLimits, ServerStep, Session, TlsPolicy, TransmissionFlags,
};

const FLAGS: TransmissionFlags =
    TransmissionFlags::SEND_FLUSH.with(TransmissionFlags::SEND_FAST_ZERO);
const CONTEXTS: [&str; 3] = [
    "base:allocation",
    "qemu:allocation-depth",
    "qemu:dirty-bitmap:monday",
];
const ACK: u32 = 1;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;

/// `disk` for everybody, `safe` over TLS only.
struct Disks {
    secure: bool,
}

impl Directory for Disks {
    fn list(&mut self) -> Result<Vec<(String, Option<String>)>, Refusal> {
        Ok(vec![("disk".into(), None)])
    }

    fn lookup(&mut self, name: &str, _: Purpose) -> Result<ExportInfo, Refusal> {
        match name {
            "safe" if !self.secure => Err(Refusal::new(OptionError::TlsRequired, "over TLS only")),
            "safe" | "disk" => {
                let mut info = ExportInfo::new(1 << 30, FLAGS);
                info.description = Some("a disk".into());
                info.contexts = CONTEXTS.map(String::from).to_vec();
                Ok(info)
            }
            _ => Err(Refusal::unknown()),
        }
    }
}

/// A server, and how its answers are read.
struct Peer {
    server: ServerHandshake,
    disks: Disks,
    session: Option<Session>,
}

/// One reply to an option: its type and data.
type Reply = (u32, Vec<u8>);

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

impl Peer {
    fn new(policy: TlsPolicy) -> Self {
        Self::with_flags(policy, 3)
    }

    fn with_flags(policy: TlsPolicy, flags: u32) -> Self {
        let mut peer = Self {
            server: ServerHandshake::new(policy, ServerLimits::default()),
            disks: Disks { secure: false },
            session: None,
        };
        peer.server.take_output();
        peer.feed(&flags.to_be_bytes()).unwrap();
        peer
    }

    /// One that has agreed on headers.
    fn speaking(style: HeaderStyle) -> Self {
        let mut peer = Self::new(TlsPolicy::Offered);
        let option = match style {
            HeaderStyle::Simple => return peer,
            HeaderStyle::Structured => OptionKind::StructuredReply,
            HeaderStyle::Extended => OptionKind::ExtendedHeaders,
        };
        assert_eq!(peer.types(option, &[]), [ACK]);
        peer
    }

    fn feed(&mut self, bytes: &[u8]) -> nbd::Result<()> {
        match self.server.feed(bytes, &mut self.disks)? {
            ServerStep::Transmission(session) => self.session = Some(*session),
            ServerStep::StartTls => {
                self.server.tls_established();
                self.disks.secure = true;
            }
            ServerStep::More | ServerStep::Close => {}
        }
        Ok(())
    }

    fn ask(&mut self, option: OptionKind, data: &[u8]) -> Vec<Reply> {
        self.feed(&framed(option, data)).unwrap();
        let output = self.server.take_output();
        let (mut rest, mut replies) = (&output[..], Vec::new());
        while !rest.is_empty() {
            assert_eq!(rest[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
            assert_eq!(number(&rest[8..]), option.to_wire(), "what was asked");
            let length = number(&rest[16..]) as usize;
            replies.push((number(&rest[12..]), rest[20..20 + length].to_vec()));
            rest = &rest[20 + length..];
        }
        replies
    }

    fn types(&mut self, option: OptionKind, data: &[u8]) -> Vec<u32> {
        let replies = self.ask(option, data).into_iter();
        replies.map(|(kind, _)| kind).collect()
    }

    /// The contexts in the answer, with their numbers; it ends well.
    fn contexts(&mut self, option: OptionKind, queries: &[&str]) -> Vec<(u32, String)> {
        let mut replies = self.ask(option, &meta("disk", queries));
        assert_eq!(replies.pop(), Some((ACK, Vec::new())));
        let context = |(kind, data): Reply| {
            assert_eq!(kind, META_CONTEXT);
            (
                number(&data),
                String::from_utf8(data[4..].to_vec()).unwrap(),
            )
        };
        replies.into_iter().map(context).collect()
    }

    fn names(&mut self, option: OptionKind, queries: &[&str]) -> Vec<String> {
        let contexts = self.contexts(option, queries);
        contexts.into_iter().map(|(_, name)| name).collect()
    }

    fn open(mut self, name: &str) -> Session {
        self.ask(OptionKind::Go, &go(name, &[]));
        self.session.expect("the transmission phase begins")
    }
}

fn framed(option: OptionKind, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [
        b"IHAVEOPT",
        &option.to_wire().to_be_bytes()[..],
        &length,
        data,
    ]
    .concat()
}

fn counted(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn go(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = counted(name.as_bytes());
    data.extend((infos.len() as u16).to_be_bytes());
    infos
        .iter()
        .for_each(|info| data.extend(info.to_be_bytes()));
    data
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = counted(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    let queries = queries.iter();
    queries.for_each(|query| data.extend(counted(query.as_bytes())));
    data
}

fn error(error: OptionError) -> Vec<u32> {
    vec![error.to_wire()]
}

#[test]
fn no_zeroes_must_leave_the_padding_out() {
    for (flags, length) in [(3, 10), (1, 10 + 124)] {
        let mut peer = Peer::with_flags(TlsPolicy::Off, flags);
        peer.feed(&framed(OptionKind::ExportName, b"disk")).unwrap();
        assert_eq!(peer.server.take_output().len(), length);
    }
}

#[test]
fn go_must_not_be_followed_by_padding() {
    let mut peer = Peer::with_flags(TlsPolicy::Off, 1);
    let replies = peer.ask(OptionKind::Go, &go("disk", &[]));
    assert_eq!(replies.last(), Some(&(ACK, Vec::new())));
    assert!(peer.session.is_some());
}

#[test]
fn info_and_go_must_tell_the_export_and_the_same_of_it() {
    let asked = go("disk", &[1, 2, 3]);
    let mut peer = Peer::speaking(HeaderStyle::Structured);
    let info = peer.ask(OptionKind::Info, &asked);
    assert_eq!(info, peer.ask(OptionKind::Go, &asked));
    let kind = |reply: &Reply| u16::from_be_bytes([reply.1[0], reply.1[1]]);
    let (ack, infos) = info.split_last().unwrap();
    assert_eq!(ack, &(ACK, Vec::new()));
    assert!(infos.iter().all(|(kind, _)| *kind == INFO));
    let lengths: Vec<_> = infos
        .iter()
        .map(|info| (kind(info), info.1.len()))
        .collect();
    assert_eq!(lengths, [(0, 12), (1, 2 + 4), (2, 2 + 6), (3, 14)]);
}

#[test]
fn unknown_information_requests_must_be_ignored() {
    let mut peer = Peer::new(TlsPolicy::Off);
    let types = peer.types(OptionKind::Info, &go("disk", &[77, 0xffff]));
    assert_eq!(types.last(), Some(&ACK));
}

#[test]
fn the_message_after_an_unknown_one_must_be_understood() {
    let mut peer = Peer::new(TlsPolicy::Off);
    let unknown = framed(OptionKind::Unknown(99), &[7; 500]);
    let both = [unknown, framed(OptionKind::List, &[])].concat();
    peer.feed(&both).unwrap();
    let output = peer.server.take_output();
    assert_eq!(number(&output[12..]), OptionError::Unsupported.to_wire());
    let next = 20 + number(&output[16..]) as usize;
    assert_eq!(number(&output[next + 8..]), OptionKind::List.to_wire());
}

#[test]
fn has_flags_must_be_set_and_fast_zero_must_not_without_write_zeroes() {
    let session = Peer::speaking(HeaderStyle::Structured).open("disk");
    let flags = session.info.flags;
    assert!(flags.contains(TransmissionFlags::HAS_FLAGS));
    assert!(!flags.contains(TransmissionFlags::SEND_FAST_ZERO));
}

#[test]
fn df_must_be_offered_exactly_with_chunked_replies() {
    let offers = |style| {
        let flags = Peer::speaking(style).open("disk").info.flags;
        flags.contains(TransmissionFlags::SEND_DF)
    };
    assert!(!offers(HeaderStyle::Simple));
    assert!(offers(HeaderStyle::Structured) && offers(HeaderStyle::Extended));
}

#[test]
fn block_status_payload_must_not_be_offered_without_extended_headers() {
    for (style, offered) in [
        (HeaderStyle::Structured, false),
        (HeaderStyle::Extended, true),
    ] {
        let mut peer = Peer::speaking(style);
        peer.contexts(OptionKind::SetMetaContext, &["base:allocation"]);
        let flags = peer.open("disk").info.flags;
        let payload = TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        assert_eq!(flags.contains(payload), offered);
    }
}

#[test]
fn the_greeting_must_say_fixed_newstyle_and_nothing_unknown() {
    let greeting = ServerHandshake::new(TlsPolicy::Off, ServerLimits::default()).take_output();
    assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn no_queries_must_list_all_contexts_and_select_none() {
    let mut peer = Peer::speaking(HeaderStyle::Structured);
    assert_eq!(peer.names(OptionKind::ListMetaContext, &[]), CONTEXTS);
    assert_eq!(peer.names(OptionKind::SetMetaContext, &[]), [""; 0]);
    assert!(peer.open("disk").contexts.is_empty());
}

#[test]
fn queries_of_unknown_namespaces_and_leaves_must_be_ignored() {
    let queries = [
        "x-strange:thing",
        "base:unheard-of",
        "qemu:dirty-bitmap:sunday",
        "base:allocation",
    ];
    let mut peer = Peer::speaking(HeaderStyle::Structured);
    for option in [OptionKind::ListMetaContext, OptionKind::SetMetaContext] {
        assert_eq!(peer.names(option, &queries), ["base:allocation"]);
    }
}

#[test]
fn wildcards_must_list_what_they_cover_and_select_nothing() {
    let mut peer = Peer::speaking(HeaderStyle::Extended);
    let mut lists = |query| peer.names(OptionKind::ListMetaContext, &[query]);
    assert_eq!(lists("base:"), CONTEXTS[..1]);
    assert_eq!(lists("qemu:"), CONTEXTS[1..]);
    assert_eq!(lists("qemu:dirty-bitmap:"), CONTEXTS[2..]);
    let wild = ["base:", "qemu:", "qemu:dirty-bitmap:"];
    assert_eq!(peer.names(OptionKind::SetMetaContext, &wild), [""; 0]);
}

#[test]
fn selected_contexts_must_have_different_numbers() {
    let mut peer = Peer::speaking(HeaderStyle::Structured);
    let contexts = peer.contexts(OptionKind::SetMetaContext, &CONTEXTS);
    let mut ids: Vec<_> = contexts.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CONTEXTS.len());
    let session = peer.open("disk");
    let told = session.contexts.iter().map(|c| (c.id.0, c.name.clone()));
    assert!(told.eq(contexts));
}

#[test]
fn the_last_selection_must_count_and_only_for_its_export() {
    let mut peer = Peer::speaking(HeaderStyle::Structured);
    peer.contexts(OptionKind::SetMetaContext, &CONTEXTS);
    peer.contexts(OptionKind::SetMetaContext, &CONTEXTS[..1]);
    assert_eq!(peer.open("disk").contexts.len(), 1);
    let mut peer = Peer::new(TlsPolicy::Required);
    assert_eq!(peer.types(OptionKind::StartTls, &[]), [ACK]);
    assert_eq!(peer.types(OptionKind::StructuredReply, &[]), [ACK]);
    peer.contexts(OptionKind::SetMetaContext, &CONTEXTS);
    assert!(peer.open("safe").contexts.is_empty());
}

#[test]
fn malformed_options_must_get_invalid() {
    let long = "x".repeat(4097);
    let broken: [Vec<u8>; 7] = [
        vec![],
        vec![0, 0, 0, 9, b'd'],                  // a name longer than the data
        [counted(b"disk"), vec![0, 9]].concat(), // more announced than sent
        [go("disk", &[]), vec![1]].concat(),     // something behind the end
        go("di\0sk", &[]),
        go(&long, &[]),
        [counted(&[0xff, 0xfe]), vec![0, 0]].concat(), // no UTF-8
    ];
    let options = [
        OptionKind::Info,
        OptionKind::Go,
        OptionKind::SetMetaContext,
        OptionKind::ListMetaContext,
    ];
    let invalid = error(OptionError::Invalid);
    let mut peer = Peer::speaking(HeaderStyle::Structured);
    for data in &broken {
        for option in options {
            assert_eq!(peer.types(option, data), invalid, "{option:?}: {data:?}");
        }
    }
    let beyond = [counted(b"disk"), vec![0, 0, 0, 1, 0, 0, 0, 99, b'b']].concat();
    assert_eq!(peer.types(OptionKind::SetMetaContext, &beyond), invalid);
}

#[test]
fn tls_reqd_must_only_be_said_to_info_and_go_where_tls_can_be_had() {
    let policy = error(OptionError::Policy);
    let mut peer = Peer::speaking(HeaderStyle::Structured);
    for option in [OptionKind::Info, OptionKind::Go] {
        let required = error(OptionError::TlsRequired);
        assert_eq!(peer.types(option, &go("safe", &[])), required);
    }
    for option in [OptionKind::SetMetaContext, OptionKind::ListMetaContext] {
        assert_eq!(peer.types(option, &meta("safe", &CONTEXTS)), policy);
    }
    let mut plain = Peer::new(TlsPolicy::Off);
    assert_eq!(plain.types(OptionKind::Go, &go("safe", &[])), policy);
}

#[test]
fn over_tls_nothing_must_be_answered_with_tls_reqd() {
    let mut peer = Peer::new(TlsPolicy::Required);
    assert_eq!(peer.types(OptionKind::StartTls, &[]), [ACK]);
    // As if the directory insisted on more than there is.
    peer.disks.secure = false;
    let policy = error(OptionError::Policy);
    assert_eq!(peer.types(OptionKind::Go, &go("safe", &[])), policy);
    let again = peer.types(OptionKind::StartTls, &[]);
    assert_eq!(again, error(OptionError::Invalid));
}

#[test]
fn export_name_of_a_tls_only_export_must_end_the_session() {
    let mut peer = Peer::new(TlsPolicy::Offered);
    let asked = framed(OptionKind::ExportName, b"safe");
    peer.feed(&asked).unwrap_err();
    assert!(peer.server.take_output().is_empty());
}

#[test]
fn starttls_must_make_extended_headers_be_negotiated_anew() {
    let mut peer = Peer::speaking(HeaderStyle::Extended);
    assert_eq!(peer.types(OptionKind::StartTls, &[]), [ACK]);
    assert_eq!(peer.open("disk").style, HeaderStyle::Simple);
}

#[test]
fn go_must_be_known_after_extended_headers() {
    let mut peer = Peer::speaking(HeaderStyle::Extended);
    let types = peer.types(OptionKind::Go, &go("nothing", &[]));
    assert_eq!(types, error(OptionError::Unknown));
    assert_eq!(peer.open("disk").style, HeaderStyle::Extended);
}

/// Every test that the table names is there, in the file that it names.
#[test]
fn the_table_of_demands_names_tests_that_exist() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    let is_row = |line: &&str| line.starts_with("| ") && line.contains("::");
    let mut tests = 0;
    for row in include_str!("../MUSTS.md").lines().filter(is_row) {
        let (_, proofs) = row.trim_end_matches([' ', '|']).rsplit_once('|').unwrap();
        for proof in proofs.split(',') {
            let proof = proof.trim().trim_matches('`');
            let (file, test) = proof.split_once("::").expect(row);
            let source = std::fs::read_to_string(format!("{root}{file}"));
            let source = source.unwrap_or_else(|error| panic!("{file}: {error}"));
            let there = source.contains(&format!("fn {test}("));
            assert!(there, "{file} has no test {test}");
            tests += 1;
        }
    }
    assert!(tests > 60, "{tests} tests named");
}
