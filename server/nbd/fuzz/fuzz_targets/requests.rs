//! Any request header: what may be served lies within the export.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{ContextId, HeaderStyle, MetaContext, Operation, Request, Rules, TransmissionFlags, Verdict, status_filter};

fuzz_target!(|input: (u8, u16, u64, [u8; 28], Vec<u8>)| {
    let (style, flags, size, tail, payload) = input;
    let style = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][usize::from(style % 3)];
    let magic: u32 = if style == HeaderStyle::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(tail);
    let Ok(Some(request)) = Request::decode(style, &bytes) else { return };
    let rules = Rules {
        size,
        flags: TransmissionFlags::from_bits(flags),
        minimum_block: 512,
        max_payload: 32 << 20,
        style,
        has_contexts: true,
    };
    if let Verdict::Serve(operation) = rules.judge(&request) {
        let filtered = matches!(operation, Operation::BlockStatus { payload: true, .. });
        assert!(filtered || request.offset.checked_add(request.length).is_some_and(|end| end <= size));
        assert!(request.payload_len(style) <= 32 << 20);
    }
    let selected = [MetaContext { id: ContextId(1), name: "base:allocation".into() }];
    let _ = status_filter(&payload, &selected);
});
