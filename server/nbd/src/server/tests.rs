//! The demands of the specification on a server's handshake, one by one.

use proptest::prelude::*;

use super::*;
use crate::{ClientConfig, ClientHandshake, ClientStep, ClientTls, ExportName};

struct OneDisk;

impl Directory for OneDisk {
    fn list(&mut self) -> std::result::Result<Vec<(String, Option<String>)>, Refusal> {
        Ok(vec![("disk".into(), None)])
    }

    fn lookup(&mut self, name: &str, _: Purpose) -> std::result::Result<ExportInfo, Refusal> {
        if name != "disk" {
            return Err(Refusal::unknown());
        }
        let mut info = ExportInfo::new(1 << 30, TransmissionFlags::SEND_FLUSH);
        info.contexts = vec!["base:allocation".into(), "qemu:allocation-depth".into()];
        Ok(info)
    }
}

const HELLO: [u8; 4] = [0, 0, 0, 3];

fn server(policy: TlsPolicy) -> ServerHandshake {
    let mut server = ServerHandshake::new(policy, ServerLimits::default());
    server.take_output();
    server.feed(&HELLO, &mut OneDisk).unwrap();
    server
}

fn option(kind: OptionKind, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    options::put_option(&mut bytes, kind, data);
    bytes
}

/// Types of the replies to one option.
fn ask(server: &mut ServerHandshake, kind: OptionKind, data: &[u8]) -> Vec<u32> {
    server.feed(&option(kind, data), &mut OneDisk).unwrap();
    let output = server.take_output();
    let (mut types, mut rest) = (Vec::new(), &output[..]);
    while !rest.is_empty() {
        let head = options::ReplyHead::parse(rest).unwrap();
        assert_eq!(head.option, kind);
        types.push(head.reply_type);
        rest = &rest[options::REPLY_HEAD + head.length as usize..];
    }
    types
}

fn go(name: &str) -> Vec<u8> {
    options::InfoRequest::encode(&ExportName::new(name).unwrap(), &[])
}

fn contexts(queries: &[&str]) -> Vec<u8> {
    let queries: Vec<String> = queries.iter().map(|query| (*query).to_owned()).collect();
    options::MetaRequest::encode(&ExportName::new("disk").unwrap(), &queries)
}

fn error(error: OptionError) -> Vec<u32> {
    vec![error.to_wire()]
}

#[test]
fn unknown_client_flags_must_end_the_connection() {
    let mut server = ServerHandshake::new(TlsPolicy::Off, ServerLimits::default());
    assert!(server.feed(&[0, 0, 0, 7], &mut OneDisk).is_err());
}

#[test]
fn unknown_options_must_be_answered_with_unsup() {
    let reply = ask(
        &mut server(TlsPolicy::Off),
        OptionKind::Unknown(77),
        b"data",
    );
    assert_eq!(reply, error(OptionError::Unsupported));
}

#[test]
fn options_without_data_must_reject_data() {
    for kind in [
        OptionKind::List,
        OptionKind::StructuredReply,
        OptionKind::ExtendedHeaders,
        OptionKind::StartTls,
    ] {
        let reply = ask(&mut server(TlsPolicy::Offered), kind, b"x");
        assert_eq!(reply, error(OptionError::Invalid), "{kind:?}");
    }
}

#[test]
fn forced_tls_must_answer_everything_else_with_tls_reqd() {
    for kind in [
        OptionKind::List,
        OptionKind::Info,
        OptionKind::Go,
        OptionKind::Unknown(77),
    ] {
        let reply = ask(&mut server(TlsPolicy::Required), kind, &go("disk"));
        assert_eq!(reply, error(OptionError::TlsRequired), "{kind:?}");
    }
    let name = option(OptionKind::ExportName, b"disk");
    assert!(
        server(TlsPolicy::Required)
            .feed(&name, &mut OneDisk)
            .is_err()
    );
}

#[test]
fn starttls_without_tls_is_a_matter_of_policy() {
    let reply = ask(&mut server(TlsPolicy::Off), OptionKind::StartTls, &[]);
    assert_eq!(reply, error(OptionError::Policy));
}

#[test]
fn starttls_must_drop_what_was_negotiated_and_not_come_twice() {
    let mut server = server(TlsPolicy::Offered);
    ask(&mut server, OptionKind::StructuredReply, &[]);
    ask(
        &mut server,
        OptionKind::SetMetaContext,
        &contexts(&["base:allocation"]),
    );
    ask(&mut server, OptionKind::StartTls, &[]);
    server.tls_established();
    assert_eq!(
        ask(&mut server, OptionKind::StartTls, &[]),
        error(OptionError::Invalid)
    );
    let step = server
        .feed(&option(OptionKind::Go, &go("disk")), &mut OneDisk)
        .unwrap();
    let ServerStep::Transmission(session) = step else {
        panic!("no session")
    };
    assert_eq!(
        (session.style, session.contexts.len()),
        (HeaderStyle::Simple, 0)
    );
    assert!(!session.info.flags.contains(TransmissionFlags::SEND_DF));
}

#[test]
fn abort_must_be_acknowledged() {
    let mut server = server(TlsPolicy::Required);
    let step = server
        .feed(&option(OptionKind::Abort, b"bye"), &mut OneDisk)
        .unwrap();
    assert!(matches!(step, ServerStep::Close));
    assert!(!server.take_output().is_empty());
}

#[test]
fn contexts_must_not_be_selected_before_structured_replies() {
    let reply = ask(
        &mut server(TlsPolicy::Off),
        OptionKind::SetMetaContext,
        &contexts(&["base:allocation"]),
    );
    assert_eq!(reply, error(OptionError::Invalid));
}

#[test]
fn a_failed_selection_must_replace_the_one_before() {
    let mut server = server(TlsPolicy::Off);
    ask(&mut server, OptionKind::StructuredReply, &[]);
    let chosen = ask(
        &mut server,
        OptionKind::SetMetaContext,
        &contexts(&["base:allocation"]),
    );
    assert_eq!(chosen, [REP_META_CONTEXT, REP_ACK]);
    ask(&mut server, OptionKind::SetMetaContext, b"broken");
    assert!(server.selection.contexts.is_empty());
}

#[test]
fn wildcards_list_contexts_and_must_not_select_any() {
    let mut server = server(TlsPolicy::Off);
    ask(&mut server, OptionKind::StructuredReply, &[]);
    let listed = ask(
        &mut server,
        OptionKind::ListMetaContext,
        &contexts(&["base:"]),
    );
    assert_eq!(listed, [REP_META_CONTEXT, REP_ACK]);
    let all = ask(&mut server, OptionKind::ListMetaContext, &contexts(&[]));
    assert_eq!(all, [REP_META_CONTEXT, REP_META_CONTEXT, REP_ACK]);
    let unknown = ask(
        &mut server,
        OptionKind::ListMetaContext,
        &contexts(&["x-other:thing"]),
    );
    assert_eq!(unknown, [REP_ACK]);
    let set = ask(
        &mut server,
        OptionKind::SetMetaContext,
        &contexts(&["base:"]),
    );
    assert_eq!(set, [REP_ACK]);
}

#[test]
fn extended_headers_take_precedence_and_rule_out_export_name() {
    let mut server = server(TlsPolicy::Off);
    assert_eq!(
        ask(&mut server, OptionKind::ExtendedHeaders, &[]),
        [REP_ACK]
    );
    let downgrade = ask(&mut server, OptionKind::StructuredReply, &[]);
    assert_eq!(downgrade, error(OptionError::ExtendedHeadersRequired));
    assert!(
        server
            .feed(&option(OptionKind::ExportName, b"disk"), &mut OneDisk)
            .is_err()
    );
}

#[test]
fn an_unknown_export_must_end_export_name_and_be_told_to_go() {
    assert_eq!(
        ask(&mut server(TlsPolicy::Off), OptionKind::Go, &go("other")),
        error(OptionError::Unknown)
    );
    let name = option(OptionKind::ExportName, b"other");
    assert!(server(TlsPolicy::Off).feed(&name, &mut OneDisk).is_err());
}

#[test]
fn while_shutting_down_options_get_err_shutdown() {
    let mut server = server(TlsPolicy::Off);
    server.shut_down();
    assert_eq!(
        ask(&mut server, OptionKind::List, &[]),
        error(OptionError::Shutdown)
    );
}

#[test]
fn overlong_option_data_is_skipped_and_told() {
    let mut server = server(TlsPolicy::Off);
    let reply = ask(&mut server, OptionKind::List, &vec![0; 100_000]);
    assert_eq!(reply, error(OptionError::TooBig));
    assert_eq!(
        ask(&mut server, OptionKind::List, &[]),
        [REP_SERVER, REP_ACK]
    );
}

#[test]
fn without_fixed_newstyle_there_is_only_export_name() {
    let fresh = || {
        let mut server = ServerHandshake::new(TlsPolicy::Off, ServerLimits::default());
        server.take_output();
        server.feed(&[0; 4], &mut OneDisk).unwrap();
        server
    };
    assert!(
        fresh()
            .feed(&option(OptionKind::List, &[]), &mut OneDisk)
            .is_err()
    );
    let mut server = fresh();
    server
        .feed(&option(OptionKind::ExportName, b"disk"), &mut OneDisk)
        .unwrap();
    assert_eq!(server.take_output().len(), 10 + EXPORT_NAME_PADDING);
}

/// Runs our client against our server until both are in the transmission phase.
fn meet(headers: HeaderStyle, tls: ClientTls, policy: TlsPolicy) -> (crate::Negotiated, Session) {
    let export = ExportName::new("disk").unwrap();
    let contexts = vec!["base:allocation".into()];
    let mut client = ClientHandshake::new(ClientConfig {
        export,
        tls,
        headers,
        contexts,
    });
    let mut server = ServerHandshake::new(policy, ServerLimits::default());
    let mut session = None;
    for _ in 0..20 {
        match client.feed(&server.take_output()).unwrap() {
            ClientStep::Done(agreed) => return (*agreed, session.unwrap()),
            ClientStep::NeedTls => {
                client.tls_established();
                server.tls_established();
            }
            ClientStep::More => {}
        }
        if let ServerStep::Transmission(opened) =
            server.feed(&client.take_output(), &mut OneDisk).unwrap()
        {
            session = Some(*opened);
        }
    }
    panic!("the handshake does not end");
}

#[test]
fn both_sides_agree_on_every_style_with_and_without_tls() {
    for headers in [
        HeaderStyle::Simple,
        HeaderStyle::Structured,
        HeaderStyle::Extended,
    ] {
        for (tls, policy) in [
            (ClientTls::Off, TlsPolicy::Off),
            (ClientTls::Required, TlsPolicy::Required),
        ] {
            let (client, server) = meet(headers, tls, policy);
            assert_eq!((client.headers, server.style), (headers, headers));
            assert_eq!(
                (client.flags, client.size),
                (server.info.flags, server.info.size)
            );
            assert_eq!(client.contexts, server.contexts);
        }
    }
}

proptest! {
    #[test]
    fn the_server_survives_any_bytes(options in prop::collection::vec((0u32..14, prop::collection::vec(any::<u8>(), 0..80)), 0..20), noise: Vec<u8>) {
        let mut server = server(TlsPolicy::Offered);
        for (kind, data) in options {
            if server.feed(&option(OptionKind::from_wire(kind), &data), &mut OneDisk).is_err() {
                return Ok(());
            }
        }
        let _ = server.feed(&noise, &mut OneDisk);
    }

    #[test]
    fn the_client_survives_any_bytes(replies in prop::collection::vec((1u32..12, any::<u32>(), prop::collection::vec(any::<u8>(), 0..80)), 0..20)) {
        let config = ClientConfig { headers: HeaderStyle::Extended, ..ClientConfig::default() };
        let mut client = ClientHandshake::new(config);
        client.feed(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
        for (kind, reply_type, data) in replies {
            let mut bytes = Vec::new();
            options::put_reply(&mut bytes, OptionKind::from_wire(kind), reply_type % 6, &data);
            if client.feed(&bytes).is_err() {
                return Ok(());
            }
        }
    }
}
