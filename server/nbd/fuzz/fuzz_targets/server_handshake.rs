//! Any bytes from a client, as they are or as well-formed options, under each TLS policy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{Directory, ExportInfo, Purpose, Refusal, ServerHandshake, ServerLimits, ServerStep, TlsPolicy, TransmissionFlags};

struct OneDisk;

impl Directory for OneDisk {
    fn list(&mut self) -> Result<Vec<(String, Option<String>)>, Refusal> {
        Ok(vec![("disk".into(), Some("a disk".into()))])
    }

    fn lookup(&mut self, name: &str, _: Purpose) -> Result<ExportInfo, Refusal> {
        if name.len() > 4 {
            return Err(Refusal::unknown());
        }
        let mut info = ExportInfo::new(1 << 30, TransmissionFlags::SEND_FLUSH);
        info.contexts = vec!["base:allocation".into(), "qemu:dirty-bitmap:monday".into()];
        Ok(info)
    }
}

/// What a client sends next: an option with any data, one of names and queries, or anything at all.
fn message(choice: u8, data: &[u8]) -> Vec<u8> {
    let option = u32::from(choice % 16);
    match choice / 16 {
        0..8 => framed(option, data),
        8..12 => framed(option, &with_queries(choice, data)),
        12..14 => framed(option, &[&4u32.to_be_bytes()[..], b"disk", data].concat()),
        _ => data.to_vec(),
    }
}

fn framed(option: u32, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [b"IHAVEOPT", &option.to_be_bytes()[..], &length, data].concat()
}

fn with_queries(choice: u8, data: &[u8]) -> Vec<u8> {
    let queries = ["base:", "base:allocation", "qemu:dirty-bitmap:", "qemu:dirty-bitmap:monday"];
    let own = std::str::from_utf8(data).unwrap_or("x:y");
    let asked = [queries[usize::from(choice % 4)], own];
    let mut out = [&4u32.to_be_bytes()[..], b"disk", &2u32.to_be_bytes()].concat();
    for query in asked {
        out.extend((query.len() as u32).to_be_bytes());
        out.extend(query.as_bytes());
    }
    out
}

fuzz_target!(|input: (u8, u32, Vec<(u8, Vec<u8>)>)| {
    let (policy, flags, messages) = input;
    let policy = [TlsPolicy::Off, TlsPolicy::Offered, TlsPolicy::Required][usize::from(policy % 3)];
    let mut server = ServerHandshake::new(policy, ServerLimits::default());
    let hello = (flags % 5).to_be_bytes().to_vec();
    let messages = messages.iter().map(|(choice, data)| message(*choice, data));
    for piece in std::iter::once(hello).chain(messages) {
        match server.feed(&piece, &mut OneDisk) {
            Ok(ServerStep::StartTls) => server.tls_established(),
            Ok(ServerStep::More) => {}
            Ok(ServerStep::Transmission(session)) => {
                assert!(session.contexts.len() <= 2);
                return;
            }
            _ => return,
        }
        // An answer is never longer than what was asked allows.
        assert!(server.take_output().len() < 1 << 20);
    }
});
