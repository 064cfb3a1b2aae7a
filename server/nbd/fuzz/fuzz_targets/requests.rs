//! Any stream of requests: what may be served lies within the export, and what is answered can be read by a client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nbd::{
    ContextId, HeaderStyle, MetaContext, Operation, ReplyBody, ReplyDecoder, Request, Rules, TransmissionFlags,
    Verdict, reply, status_filter,
};

const MAX: u32 = 32 << 20;

/// A server's answer must be one that a client of the same style understands, for the same request.
fn check_answer(style: HeaderStyle, request: &Request, verdict: Verdict) {
    let (head, expected) = match verdict {
        Verdict::Refuse(error) => (reply::error(style, request, error), ReplyBody::Error(error)),
        Verdict::Serve(_) => (reply::done(style, request), ReplyBody::Done),
        _ => return,
    };
    let decoded = ReplyDecoder::new(style, MAX).decode(head.as_bytes(), |_| Some(0));
    let (answer, used) = decoded.expect("a good reply").expect("a whole reply");
    assert_eq!((used, answer.cookie, answer.last), (head.as_bytes().len(), request.cookie, true));
    assert_eq!(answer.body, expected);
}

fn check_range(rules: &Rules, request: &Request, verdict: Verdict) {
    let Verdict::Serve(operation) = verdict else { return };
    let filtered = matches!(operation, Operation::BlockStatus { payload: true, .. });
    let end = request.offset.checked_add(request.length);
    assert!(filtered || end.is_some_and(|end| end <= rules.size));
    assert!(request.payload_len(rules.style) <= u64::from(MAX));
    let read_only = rules.flags.contains(TransmissionFlags::READ_ONLY);
    let writes = matches!(operation, Operation::Write { .. } | Operation::Trim { .. } | Operation::WriteZeroes { .. });
    assert!(!(read_only && writes));
}

fuzz_target!(|input: (u8, u16, u64, Vec<([u8; 28], Vec<u8>)>)| {
    let (style, flags, size, requests) = input;
    let style = [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended][usize::from(style % 3)];
    let magic: u32 = if style == HeaderStyle::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let flags = TransmissionFlags::from_bits(flags);
    let rules = Rules { size, flags, minimum_block: 512, max_payload: MAX, style, has_contexts: true };
    let context = |id, name: &str| MetaContext { id: ContextId(id), name: name.into() };
    let selected = [context(1, "base:allocation"), context(2, "qemu:dirty-bitmap:monday")];
    let mut stream = Vec::new();
    for (header, payload) in &requests {
        stream.extend(magic.to_be_bytes());
        stream.extend(header);
        stream.extend(payload);
    }
    let mut rest = &stream[..];
    while let Ok(Some(request)) = Request::decode(style, rest) {
        let verdict = rules.judge(&request);
        check_range(&rules, &request, verdict);
        check_answer(style, &request, verdict);
        rest = &rest[Request::header_len(style)..];
        let payload = rest.len().min(usize::try_from(request.payload_len(style)).unwrap_or(usize::MAX));
        let (payload, next) = rest.split_at(payload);
        if let Some((_, wanted)) = status_filter(payload, &selected) {
            assert!(!wanted.is_empty() && wanted.len() <= selected.len());
        }
        rest = next;
    }
});
