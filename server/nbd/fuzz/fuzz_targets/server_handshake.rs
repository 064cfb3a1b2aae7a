//! Any bytes from a client, in two pieces, under each TLS policy.
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
        info.contexts = vec!["base:allocation".into()];
        Ok(info)
    }
}

fuzz_target!(|input: (u8, usize, Vec<u8>)| {
    let (policy, cut, bytes) = input;
    let policy = [TlsPolicy::Off, TlsPolicy::Offered, TlsPolicy::Required][usize::from(policy % 3)];
    let mut server = ServerHandshake::new(policy, ServerLimits::default());
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    for piece in [&[0, 0, 0, 3], first, second] {
        match server.feed(piece, &mut OneDisk) {
            Ok(ServerStep::StartTls) => server.tls_established(),
            Ok(ServerStep::More) => {}
            _ => return,
        }
        // An answer is never longer than what was asked allows.
        assert!(server.take_output().len() < 1 << 20);
    }
});
