//! Any bytes to the witness, from it, and where it or a server keeps its state. What is understood is the same bytes when it
//! is written again; and whatever a witness in whatever state is asked, its record only moves as the rules allow.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mirror::{Durable, FRAME_HEAD, Witness, WitnessAnswer, WitnessRequest, WitnessState};

fn ask(state: WitnessState, request: WitnessRequest) {
    let mut witness = Witness::new(state);
    let answer = witness.handle(request);
    let after = witness.state();
    assert_eq!((answer.number, answer.witness), (request.number, state.id));
    assert_eq!((answer.revision, answer.record), (after.revision, after.record));
    if after == state {
        return;
    }
    let (swap, new) = (request.swap.expect("a change was wanted"), after.record.expect("a record"));
    assert_eq!((swap.witness, swap.expect, swap.record), (state.id, state.revision, new));
    assert_eq!((after.id, after.revision.0), (state.id, state.revision.0 + 1));
    assert!(new.holder == request.from && new.outdated != Some(new.holder));
    let Some(old) = state.record else { return };
    assert!(new.term >= old.term);
    let passed_on = new.holder != old.holder;
    assert!(!passed_on || new.term > old.term);
    assert!(!passed_on || swap.force || old.outdated != Some(new.holder));
}

fn framed(encode: impl FnOnce(&mut Vec<u8>) -> mirror::Result<()>) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(&mut frame).expect("it fits into a frame");
    frame.split_off(FRAME_HEAD)
}

fuzz_target!(|input: (&[u8], &[u8])| {
    let (one, other) = input;
    let bytes = || Bytes::copy_from_slice(one);
    let state = WitnessState::decode(bytes());
    if let Ok(state) = &state {
        assert_eq!(state.encode(), one);
    }
    if let Ok(answer) = WitnessAnswer::decode(bytes()) {
        assert_eq!(framed(|out| answer.encode(out)), one);
    }
    if let Ok(durable) = Durable::decode(bytes()) {
        let kept = durable.encode();
        assert_eq!(Durable::decode(kept.into()).expect("our own words"), durable);
    }
    if let Ok(request) = WitnessRequest::decode(Bytes::copy_from_slice(other)) {
        assert_eq!(framed(|out| request.encode(out)), other);
        if let Ok(state) = state {
            ask(state, request);
        }
    }
});
