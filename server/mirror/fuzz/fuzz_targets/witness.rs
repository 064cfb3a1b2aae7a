//! Any bytes to the witness, from it, and where it or a server keeps its state. What is understood is the same bytes when it
//! is written again; and whatever a witness in whatever state is asked, its record only moves as the rules allow.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use mirror::{
    Durable, FRAME_HEAD, NodeId, Record, Revision, Swap, Term, Witness, WitnessAnswer, WitnessId, WitnessRequest,
    WitnessState,
};

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

fn node(b: bool) -> NodeId {
    if b { NodeId::B } else { NodeId::A }
}

type AnyRecord = (u64, bool, Option<bool>);

fn record((term, holder, outdated): AnyRecord) -> Record {
    Record { term: Term(term), holder: node(holder), outdated: outdated.map(node) }
}

/// A request that fits the state in what the bits of `how` say: numbers of 64 bits do not meet by chance.
fn aimed(how: u8, state: &WitnessState, from: bool, (id, revision, new): (u64, u64, AnyRecord)) -> WitnessRequest {
    let fits = |bit: u8| how & 1 << bit != 0;
    let (from, mut record) = (node(from), record(new));
    if fits(0) {
        record.holder = from;
    }
    if let Some(old) = state.record.filter(|_| fits(1)) {
        record.term.0 = old.term.0.wrapping_add(new.0 % 4).wrapping_sub(1);
    }
    let swap = Swap {
        witness: if fits(2) { state.id } else { WitnessId(id) },
        expect: if fits(3) { state.revision } else { Revision(revision) },
        record,
        force: fits(4),
    };
    WitnessRequest { number: id ^ revision, from, swap: Some(swap).filter(|_| !fits(5)) }
}

type AnyState = (u64, u64, Option<AnyRecord>);

fn state((id, revision, old): AnyState) -> WitnessState {
    WitnessState { id: WitnessId(id), revision: Revision(revision), record: old.map(record) }
}

fuzz_target!(|input: (u8, bool, AnyState, AnyState, &[u8])| {
    let (how, from, kept, wanted, bytes) = input;
    let kept = state(kept);
    let wanted = (wanted.0, wanted.1, wanted.2.unwrap_or_default());
    let request = aimed(how, &kept, from, wanted);
    assert_eq!(WitnessState::decode(kept.encode().into()).expect("our own words"), kept);
    assert_eq!(WitnessRequest::decode(framed(|out| request.encode(out)).into()).expect("our own words"), request);
    ask(kept, request);
    decode(bytes);
});

fn decode(bytes: &[u8]) {
    let shared = || Bytes::copy_from_slice(bytes);
    if let Ok(state) = WitnessState::decode(shared()) {
        assert_eq!(state.encode(), bytes);
    }
    if let Ok(answer) = WitnessAnswer::decode(shared()) {
        assert_eq!(framed(|out| answer.encode(out)), bytes);
    }
    if let Ok(request) = WitnessRequest::decode(shared()) {
        assert_eq!(framed(|out| request.encode(out)), bytes);
    }
    if let Ok(durable) = Durable::decode(shared()) {
        assert_eq!(Durable::decode(durable.encode().into()).expect("our own words"), durable);
    }
}
