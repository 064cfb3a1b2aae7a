//! PROTOCOL.md says what the code does.

use mirror::{Millis, Timing};

const PAGE: &str = include_str!("../PROTOCOL.md");

/// The rows of the table whose first heading is `heading`, cell by cell.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let lines = PAGE.lines().map(cells);
    let begun = lines.skip_while(|row| row.first() != Some(&heading));
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
