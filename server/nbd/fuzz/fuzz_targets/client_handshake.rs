//! Any bytes from a server, behind a proper greeting.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{ClientConfig, ClientHandshake, ClientStep, ClientTls, HeaderStyle};

fuzz_target!(|input: (u8, Vec<Vec<u8>>)| {
    let (choice, pieces) = input;
    let config = ClientConfig {
        tls: [ClientTls::Off, ClientTls::IfOffered, ClientTls::Required][usize::from(choice % 3)],
        headers: [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][usize::from(choice / 3 % 3)],
        contexts: vec!["base:allocation".into()],
        ..ClientConfig::default()
    };
    let mut client = ClientHandshake::new(config);
    let _ = client.feed(b"NBDMAGICIHAVEOPT\0\x03");
    for piece in pieces {
        match client.feed(&piece) {
            Ok(ClientStep::NeedTls) => client.tls_established(),
            Ok(ClientStep::More) => {}
            _ => return,
        }
        client.take_output();
    }
});
