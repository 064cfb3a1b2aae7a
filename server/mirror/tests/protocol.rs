//! PROTOCOL.md says what the code does.

use mirror::{
    Blocks, Body, Command, Hello, Incarnation, Item, ItemAnswer, MAX_FRAME, Millis, Moment, Op,
    Seq, SessionId, Timing, VolumeId,
};

const PAGE: &str = include_str!("../PROTOCOL.md");

/// The rows of the table whose first heading is `heading`, cell by cell.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = PAGE.lines().map(cells);
    let begun = lines.skip_while(|row| !row.join(" ").starts_with(heading));
    begun.skip(2).take_while(|row| !row.is_empty()).collect()
}

fn cells(line: &'static str) -> Vec<&'static str> {
    let inner = line
        .strip_prefix('|')
        .and_then(|rest| rest.strip_suffix('|'));
    inner.map_or_else(Vec::new, |inner| inner.split('|').map(str::trim).collect())
}

#[test]
fn the_spans_are_the_defaults() {
    let Timing {
        ping,
        silence,
        promise,
        lease,
        courtesy,
        ask,
        stall,
        flush,
        rest,
        hang,
    } = Timing::default();
    let code = [
        ("ping", ping),
        ("silence", silence),
        ("promise", promise),
        ("lease", lease),
        ("courtesy", courtesy),
        ("ask", ask),
        ("stall", stall),
        ("flush", flush),
        ("rest", rest),
        ("hang", hang),
    ];
    let page: Vec<_> = table("name")
        .iter()
        .map(|row| (row[0], Millis(row[1].parse().unwrap())))
        .collect();
    assert_eq!(page, code);
}

#[test]
fn every_lie_is_on_the_page() {
    let source = include_str!("simulation/lies.rs");
    let list = source.split("pub const LIES").nth(1).unwrap();
    let code: Vec<_> = list
        .split("Lie::")
        .skip(1)
        .map(|rest| rest.split(',').next().unwrap())
        .collect();
    let page: Vec<_> = table("lie").iter().map(|row| row[0]).collect();
    assert_eq!(page, code);
}

#[test]
fn every_command_is_on_the_page() {
    let all = [
        Command::Promote { force: false },
        Command::GoBack,
        Command::HandOver,
        Command::AcceptWitness,
        Command::Discard,
        Command::Verify,
    ];
    for command in all {
        match command {
            // A new one belongs into the list above.
            Command::Promote { .. }
            | Command::GoBack
            | Command::HandOver
            | Command::AcceptWitness
            | Command::Discard
            | Command::Verify => {}
        }
    }
    let page: Vec<_> = table("command").iter().map(|row| row[0]).collect();
    assert_eq!(page, all.iter().map(name).collect::<Vec<_>>());
}

/// Number and name as the page has them.
fn numbered(heading: &str) -> Vec<(u8, &'static str)> {
    let rows = table(heading).into_iter();
    rows.map(|row| (row[0].parse().unwrap(), row[1])).collect()
}

/// The name of a variant.
fn name(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '(', '{']).next().unwrap().to_owned()
}

#[test]
fn the_numbers_of_messages_and_items_are_those_of_the_page() {
    let session = SessionId {
        of: Incarnation(1),
        number: 1,
    };
    let (seq, number, sent) = (Seq(1), 1, Moment(1));
    let bodies = [
        Body::Hello(Hello::default()),
        Body::Open {
            session,
            to: Incarnation(1),
        },
        Body::Opened {
            session,
            complete: true,
            dirty: Blocks::default(),
        },
        Body::Ship {
            session,
            seq,
            item: Item::Survey,
        },
        Body::Ack {
            session,
            seq,
            answer: ItemAnswer::Done,
        },
        Body::Ping {
            session,
            number,
            sent,
        },
        Body::Pong {
            session,
            number,
            sent,
        },
        Body::Failed { session },
        Body::Yield { session },
    ];
    let code: Vec<_> = bodies
        .iter()
        .map(|body| (body.kind(), name(body)))
        .collect();
    let page: Vec<_> = numbered("kind")
        .into_iter()
        .map(|(n, s)| (n, s.to_owned()))
        .collect();
    assert_eq!(page, code);

    let volume = VolumeId(1);
    let range = mirror::BlockRange { start: 0, end: 1 };
    let data = bytes::Bytes::new();
    let items = [
        Item::Op(Op::Meta {
            volume: None,
            record: data.clone(),
        }),
        Item::Restore {
            volume,
            range,
            data: data.clone(),
        },
        Item::Metadata(data),
        Item::Flush(volume),
        Item::Confirmed { volume, upto: seq },
        Item::Sum { volume, range },
        Item::Survey,
        Item::Synced {
            complete: true,
            history: Vec::new(),
        },
        Item::Adopt(mirror::WitnessId(1)),
    ];
    let code: Vec<_> = items.iter().map(|item| (item.kind(), name(item))).collect();
    let page: Vec<_> = numbered("item")
        .into_iter()
        .map(|(n, s)| (n, s.to_owned()))
        .collect();
    assert_eq!(page, code);
    assert!(PAGE.contains(&format!("at most {MAX_FRAME})")));
}
