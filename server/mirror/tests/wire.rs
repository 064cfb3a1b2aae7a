//! Messages survive the wire, and nothing that arrives does harm.

use bytes::Bytes;
use mirror::{
    BlockRange, Blocks, Body, Durable, ErrorKind, FRAME_HEAD, Generation, Hello, Incarnation, Item,
    ItemAnswer, MAX_FRAME, Message, Moment, NodeId, Op, Record, Revision, Seq, SessionId, Swap,
    Term, VolumeId, WitnessAnswer, WitnessId, WitnessRequest, WitnessState, frame_length,
};
use proptest::{option, prelude::*};

fn node() -> impl Strategy<Value = NodeId> {
    prop_oneof![Just(NodeId::A), Just(NodeId::B)]
}

fn data() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = BlockRange> {
    (0..1000u64, 1..100u64).prop_map(|(start, length)| BlockRange {
        start,
        end: start + length,
    })
}

fn volume() -> impl Strategy<Value = VolumeId> {
    any::<u64>().prop_map(VolumeId)
}

fn blocks() -> impl Strategy<Value = Blocks> {
    prop::collection::vec((volume(), range()), 0..10).prop_map(|list| {
        let mut blocks = Blocks::default();
        list.into_iter()
            .for_each(|(volume, range)| blocks.insert(volume, range));
        blocks
    })
}

fn history() -> impl Strategy<Value = Vec<Generation>> {
    let generation = any::<(u64, u64)>().prop_map(|(of, number)| Generation {
        of: Incarnation(of),
        number,
    });
    prop::collection::vec(generation, 0..64)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (volume(), any::<u64>(), any::<u64>(), data()).prop_map(
            |(volume, offset, length, data)| Op::Write {
                volume,
                offset,
                length,
                data
            }
        ),
        (volume(), any::<u64>(), any::<u64>(), any::<bool>()).prop_map(
            |(volume, offset, length, trim)| Op::Zero {
                volume,
                offset,
                length,
                trim
            }
        ),
        (option::of(volume()), data()).prop_map(|(volume, record)| Op::Meta { volume, record }),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        op().prop_map(Item::Op),
        (volume(), range(), data()).prop_map(|(volume, range, data)| Item::Restore {
            volume,
            range,
            data
        }),
        data().prop_map(Item::Metadata),
        volume().prop_map(Item::Flush),
        (volume(), any::<u64>()).prop_map(|(volume, upto)| Item::Confirmed {
            volume,
            upto: Seq(upto)
        }),
        (volume(), range()).prop_map(|(volume, range)| Item::Sum { volume, range }),
        Just(Item::Survey),
        (any::<bool>(), history())
            .prop_map(|(complete, history)| Item::Synced { complete, history }),
        any::<u64>().prop_map(|id| Item::Adopt(WitnessId(id))),
    ]
}

fn session() -> impl Strategy<Value = SessionId> {
    any::<(u64, u64)>().prop_map(|(of, number)| SessionId {
        of: Incarnation(of),
        number,
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    let flags = any::<(bool, bool, bool, bool, bool)>();
    (option::of(any::<u64>()), flags, history()).prop_map(|(run, flags, history)| Hello {
        incarnation: run.map(Incarnation),
        primary: flags.0,
        history,
        inconsistent: flags.1,
        rolled_back: flags.2,
        last_primary: flags.3,
        resting: flags.4,
    })
}

fn answer() -> impl Strategy<Value = ItemAnswer> {
    prop_oneof![
        Just(ItemAnswer::Done),
        any::<u64>().prop_map(ItemAnswer::Sum),
        blocks().prop_map(ItemAnswer::Blocks),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        hello().prop_map(Body::Hello),
        (session(), any::<u64>()).prop_map(|(session, to)| Body::Open {
            session,
            to: Incarnation(to)
        }),
        (session(), any::<bool>(), blocks()).prop_map(|(session, complete, dirty)| Body::Opened {
            session,
            complete,
            dirty
        }),
        (session(), any::<u64>(), item()).prop_map(|(session, seq, item)| Body::Ship {
            session,
            seq: Seq(seq),
            item
        }),
        (session(), any::<u64>(), answer()).prop_map(|(session, seq, answer)| Body::Ack {
            session,
            seq: Seq(seq),
            answer
        }),
        (session(), any::<u64>(), any::<u64>()).prop_map(|(session, number, sent)| Body::Ping {
            session,
            number,
            sent: Moment(sent)
        }),
        (session(), any::<u64>(), any::<u64>()).prop_map(|(session, number, sent)| Body::Pong {
            session,
            number,
            sent: Moment(sent)
        }),
        session().prop_map(|session| Body::Failed { session }),
        session().prop_map(|session| Body::Yield { session }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    (node(), any::<u64>(), body()).prop_map(|(from, term, body)| Message {
        from,
        term: Term(term),
        body,
    })
}

fn record() -> impl Strategy<Value = Record> {
    (any::<u64>(), node(), option::of(node())).prop_map(|(term, holder, outdated)| Record {
        term: Term(term),
        holder,
        outdated,
    })
}

fn request() -> impl Strategy<Value = WitnessRequest> {
    let swap = (any::<u64>(), any::<u64>(), record(), any::<bool>()).prop_map(
        |(id, expect, record, force)| Swap {
            witness: WitnessId(id),
            expect: Revision(expect),
            record,
            force,
        },
    );
    (any::<u64>(), node(), option::of(swap)).prop_map(|(number, from, swap)| WitnessRequest {
        number,
        from,
        swap,
    })
}

/// Takes the one frame that these bytes are.
fn frame(bytes: Vec<u8>) -> Bytes {
    let length = frame_length(bytes[..FRAME_HEAD].try_into().unwrap()).unwrap();
    assert_eq!(length, bytes.len() - FRAME_HEAD);
    Bytes::from(bytes).slice(FRAME_HEAD..)
}

proptest! {
    #[test]
    fn messages_come_back(message in message()) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        prop_assert_eq!(Message::decode(frame(bytes)).unwrap(), message);
    }

    #[test]
    fn messages_come_back_together(messages in prop::collection::vec(message(), 0..5), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes).unwrap());
        let whole = Bytes::from(bytes);
        prop_assert_eq!(&Message::decode_all(&whole).unwrap(), &messages);
        if !whole.is_empty() {
            let part = Message::decode_all(&whole.slice(..cut.index(whole.len())));
            prop_assert!(part.is_err() || messages.starts_with(&part.unwrap()));
        }
    }

    #[test]
    fn what_is_cut_short_is_refused_or_shorter(message in message(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes).unwrap();
        let whole = frame(bytes);
        let part = whole.slice(..cut.index(whole.len()));
        prop_assert_ne!(Message::decode(part).ok(), Some(message));
    }

    #[test]
    fn noise_does_no_harm(kind in 0u8..12, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = vec![kind, 0];
        bytes.extend(noise);
        let bytes = Bytes::from(bytes);
        let _ = WitnessRequest::decode(bytes.clone());
        let _ = WitnessAnswer::decode(bytes.clone());
        let _ = Durable::decode(bytes.clone());
        let _ = WitnessState::decode(bytes.clone());
        if let Ok(message) = Message::decode(bytes.clone()) {
            let mut again = Vec::new();
            message.encode(&mut again).unwrap();
            prop_assert_eq!(Message::decode(frame(again)).unwrap(), message);
        }
    }

    #[test]
    fn the_witness_is_understood(request in request(), revision in any::<u64>(), record in option::of(record())) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes).unwrap();
        prop_assert_eq!(WitnessRequest::decode(frame(bytes)).unwrap(), request);
        let (witness, revision) = (WitnessId(request.number), Revision(revision));
        let answer = WitnessAnswer { number: request.number, witness, revision, record };
        let mut bytes = Vec::new();
        answer.encode(&mut bytes).unwrap();
        prop_assert_eq!(WitnessAnswer::decode(frame(bytes)).unwrap(), answer);
        let state = WitnessState { id: witness, revision, record };
        prop_assert_eq!(WitnessState::decode(state.encode().into()).unwrap(), state);
    }

    #[test]
    fn durable_states_come_back(
        term in any::<u64>(), witness in option::of(any::<u64>()), history in history(), marks in blocks(),
        flags in any::<(bool, bool, bool, bool, bool, bool)>(), kept in option::of(any::<(u64, u64)>()),
    ) {
        let state = Durable {
            term: Term(term),
            witness: witness.map(WitnessId),
            history,
            shared: flags.0,
            inconsistent: flags.1,
            kept: kept.map(|(of, number)| Generation { of: Incarnation(of), number }),
            paired: flags.2,
            complete: flags.3,
            rolled_back: flags.4,
            last_primary: flags.5,
            marks,
        };
        prop_assert_eq!(Durable::decode(state.encode().into()).unwrap(), state);
    }
}

#[test]
fn a_count_that_promises_more_than_there_is_allocates_nothing() {
    let mut bytes = Vec::new();
    let session = SessionId {
        of: Incarnation(1),
        number: 1,
    };
    let body = Body::Opened {
        session,
        complete: true,
        dirty: Blocks::default(),
    };
    let (from, term) = (NodeId::B, Term(3));
    Message { from, term, body }.encode(&mut bytes).unwrap();
    let length = bytes.len();
    bytes[length - 8..].copy_from_slice(&u64::MAX.to_le_bytes());
    let error = Message::decode(frame(bytes)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Length);
}

#[test]
fn frames_have_a_limit_on_both_sides() {
    let long = Bytes::from(vec![0; MAX_FRAME]);
    let session = SessionId {
        of: Incarnation(1),
        number: 1,
    };
    let body = Body::Ship {
        session,
        seq: Seq(1),
        item: Item::Metadata(long),
    };
    let (from, term) = (NodeId::A, Term(2));
    let mut out = vec![7];
    let error = Message { from, term, body }.encode(&mut out).unwrap_err();
    assert_eq!((error.kind(), out), (ErrorKind::TooLong, vec![7]));
    assert_eq!(
        frame_length([255; 4]).unwrap_err().kind(),
        ErrorKind::TooLong
    );
}
