//! A pair whose witness is an etcd, by the verbs that an admin has.

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::seat::client;
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side};

const A: Side = Side::A;
const B: Side = Side::B;

/// Who the etcd has down as primary and as lacking something, as that server says; and what is wrong.
fn told(pair: &Pair, side: Side) -> Option<(String, String, String)> {
    let status = pair.host(side).status()?;
    let of = |field: &str| status["witness"][field].as_str().unwrap_or("-").to_owned();
    let problems = status["problems"].to_string();
    assert_eq!(of("place"), "etcd at http://10.80.0.9:2379");
    Some((of("primary"), of("outdated"), problems))
}

fn wait_told(pair: &Pair, side: Side, primary: &str, outdated: &str) {
    let what = format!("{side:?} to see {primary} as primary, {outdated} outdated");
    wait_for(&what, LIMIT, || {
        let (first, second, _) = told(pair, side)?;
        (first == primary && second == outdated).then_some(())
    });
}

#[test]
#[ignore = "long: make test-full"]
fn an_etcd_decides_as_the_witness_does() {
    let room = client(1, "one", "tiny");
    let mut pair = Pair::new(&Plan {
        room: &room,
        etcd: true,
        ..Plan::default()
    });
    wait_told(&pair, A, "A", "-");
    wait_told(&pair, B, "A", "-");
    let disk = pair.load(1, "one", 8);

    disk.mark();
    pair.host(A).standby_done(&["handover"]);
    disk.wait_attached(B);
    pair.wait_paired(B);
    wait_told(&pair, A, "B", "-");

    // By itself, while B is dead; B lacks what comes then.
    pair.host_mut(B).kill();
    disk.wait_attached(A);
    wait_told(&pair, A, "A", "B");
    pair.host_mut(B).start();
    pair.wait_paired(A);
    wait_told(&pair, B, "A", "-");

    // Nobody misses it while both are there.
    pair.witness.kill();
    disk.wait_for_answers(200);
    let (.., problems) = told(&pair, A).expect("it answers");
    assert_eq!(problems, "[]");
    pair.host_mut(A).kill();
    wait_for("B to be alone", LIMIT, || {
        let status = pair.host(B).status()?;
        (status["role"] == "seeking").then_some(())
    });
    // Nor is anything forced by hand without it.
    let refused = pair.host(B).standby(&["promote", "--yes"]);
    assert!(!refused.status.success(), "nobody has agreed to that");
    assert!(!pair.host(B).serves());
    pair.witness.start();
    disk.wait_attached(B);
    wait_told(&pair, B, "B", "A");
    pair.host_mut(A).start();
    pair.wait_paired(B);
    pair.compare(B);
    disk.verify_unharmed();
}
