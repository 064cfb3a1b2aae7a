//! Any bytes from a server, as they are or as well-formed replies to the option just sent, behind a proper greeting.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{ClientConfig, ClientHandshake, ClientStep, ClientTls, HeaderStyle};

/// Types of option replies that a client knows, and two that it does not.
const TYPES: [u32; 10] =
    [1, 2, 3, 4, 0x8000_0001, 0x8000_0003, 0x8000_0005, 0x8000_0006, 9, 0x8000_0077];

/// The number of the option that `sent` ends with.
fn last_option(sent: &[u8]) -> u32 {
    let magic = sent.windows(8).rposition(|bytes| bytes == b"IHAVEOPT");
    let number = magic.and_then(|at| sent.get(at + 8..)?.first_chunk());
    number.map_or(0, |number| u32::from_be_bytes(*number))
}

fn reply(option: u32, choice: u8, data: &[u8]) -> Vec<u8> {
    if choice >= 200 {
        return data.to_vec();
    }
    let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    out.extend(option.to_be_bytes());
    out.extend(TYPES[usize::from(choice) % TYPES.len()].to_be_bytes());
    out.extend((data.len() as u32).to_be_bytes());
    out.extend(data);
    out
}

fuzz_target!(|input: (u8, u8, Vec<(u8, Vec<u8>)>)| {
    let (choice, flags, replies) = input;
    let config = ClientConfig {
        tls: [ClientTls::Off, ClientTls::IfOffered, ClientTls::Required][usize::from(choice % 3)],
        headers: [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][usize::from(choice / 3 % 3)],
        contexts: vec!["base:allocation".into()],
        ..ClientConfig::default()
    };
    let mut client = ClientHandshake::new(config);
    let greeting = [b"NBDMAGICIHAVEOPT\0", &[flags % 4][..]].concat();
    let _ = client.feed(&greeting);
    for (choice, data) in replies {
        let option = last_option(&client.take_output());
        match client.feed(&reply(option, choice, &data)) {
            Ok(ClientStep::NeedTls) => client.tls_established(),
            Ok(ClientStep::More) => {}
            _ => return,
        }
    }
});
