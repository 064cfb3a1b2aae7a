//! `[standby]`.

use mirror::{Alone, Mode, NodeId};

use super::{
    super::tests::{GOOD, parse, problems},
    Standby, check_secret,
};
use crate::mirror::asking::WitnessPlace;

const PAIR: &str = "
[standby]
peer = \"10.12.0.2:7012\"
";

/// The table of GOOD with `lines` in it.
fn read(lines: &str) -> Standby {
    let config = parse(&format!("{GOOD}{PAIR}{lines}")).expect("a good table");
    config.standby.expect("one of a pair")
}

/// The one problem of the table with `lines` in it: what it says, the text that it points at, what to do.
fn wrong(lines: &str) -> (String, String, String) {
    wrong_table(&format!("{PAIR}{lines}"))
}

fn wrong_table(table: &str) -> (String, String, String) {
    let text = format!("{GOOD}{table}");
    let list = problems(&text);
    assert_eq!(list.len(), 1, "{list:?}");
    let problem = &list[0];
    let place = text[problem.span.clone().unwrap_or(0..0)].to_owned();
    (
        problem.message.clone(),
        place,
        problem.fix.clone().unwrap_or_default(),
    )
}

#[test]
fn a_peer_is_enough_and_the_rest_is_as_most_want_it() {
    let standby = read("");
    assert_eq!(standby.listen.to_string(), "10.12.0.1:7012");
    assert_eq!(standby.mode, Mode::Sync);
    assert_eq!(standby.alone, Alone::Continue);
    assert!(standby.witness.is_none());
    assert_eq!(standby.secret.to_str(), Some("/etc/bootroom/pair.secret"));
    assert_eq!(standby.me(), NodeId::A);
    assert!(parse(GOOD).unwrap().standby.is_none());
}

#[test]
fn the_two_servers_agree_who_is_who() {
    let other = GOOD.replace("10.12.0.1/24", "10.12.0.2/24");
    let table = PAIR.replace("10.12.0.2", "10.12.0.1");
    let config = parse(&format!("{other}{table}")).unwrap();
    assert_eq!(config.standby.unwrap().me(), NodeId::B);
    // By number, not by text.
    let table = PAIR.replace("10.12.0.2", "9.12.0.1");
    let config = parse(&format!("{GOOD}{table}")).unwrap();
    assert_eq!(config.standby.unwrap().me(), NodeId::B);
}

#[test]
fn everything_can_be_said() {
    let standby = read(
        "address = \"10.12.0.3\"\nlisten = \"10.99.0.1:7000\"\nsecret = \"/s\"\nmode = \"async\"\nlag = 9\nalone = \"suspend\"\n\
         witness = \"10.12.0.9:7013\"\n",
    );
    assert_eq!(standby.address.to_string(), "10.12.0.3");
    assert_eq!(standby.listen.to_string(), "10.99.0.1:7000");
    assert_eq!(standby.secret.to_str(), Some("/s"));
    assert_eq!(standby.mode, Mode::Async { lag: 9 });
    assert_eq!(standby.alone, Alone::Suspend);
    let witness = WitnessPlace::Bootroom("10.12.0.9:7013".parse().unwrap());
    assert_eq!(standby.witness, Some(witness));
    let etcd = read("etcd = [\"http://10.12.0.9:2379\", \"http://10.12.0.8:2379\"]\n");
    assert!(
        matches!(etcd.witness, Some(WitnessPlace::Etcd { endpoints, .. }) if endpoints.len() == 2)
    );
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    let (message, place, fix) = wrong("witnes = \"10.12.0.9:7013\"\n");
    assert_eq!(message, "unknown key `witnes` in [standby]");
    assert_eq!(place, "witnes");
    assert_eq!(fix, "did you mean `witness`?");
}

#[test]
fn values_that_cannot_be_are_pointed_at() {
    let (message, place, _) = wrong("mode = \"fast\"\n");
    assert!(message.contains("\"sync\" or \"async\""), "{message}");
    assert_eq!(place, "\"fast\"");
    let (message, place, _) = wrong("alone = \"stop\"\n");
    assert!(message.contains("\"continue\" or \"suspend\""), "{message}");
    assert_eq!(place, "\"stop\"");
    assert_eq!(wrong("lag = 0\n").1, "0");
    let (_, place, _) = wrong_table("\n[standby]\npeer = \"10.12.0.2\"\n");
    assert_eq!(place, "\"10.12.0.2\"", "a port is missing");
    let (message, ..) = wrong_table("\n[standby]\nmode = \"sync\"\n");
    assert!(message.contains("peer"), "{message}");
}

#[test]
fn a_server_is_not_its_own_peer() {
    let (message, place, fix) = wrong_table("\n[standby]\npeer = \"10.12.0.1:7012\"\n");
    assert!(message.contains("this server itself"), "{message}");
    assert_eq!(place, "\"10.12.0.1:7012\"");
    assert!(fix.contains("other server"), "{fix}");
}

#[test]
fn both_ends_speak_the_same_kind_of_address() {
    let (message, place, fix) = wrong("listen = \"[fd00::1]:7012\"\n");
    assert!(message.contains("different kinds"), "{message}");
    assert_eq!(place, "\"10.12.0.2:7012\"");
    assert!(fix.contains("same kind"), "{fix}");
}

#[test]
fn one_decides_and_on_a_third_box() {
    let (message, place, fix) =
        wrong("witness = \"10.12.0.9:7013\"\netcd = [\"http://10.12.0.9:2379\"]\n");
    assert!(message.contains("only one of them"), "{message}");
    assert_eq!(place, "\"10.12.0.9:7013\"");
    assert!(fix.contains("remove one"), "{fix}");
    for own in ["10.12.0.1:7013", "10.12.0.2:7013"] {
        let (message, _, fix) = wrong(&format!("witness = \"{own}\"\n"));
        assert!(message.contains("one of the two servers"), "{message}");
        assert!(fix.contains("third box"), "{fix}");
    }
}

#[test]
fn an_export_that_is_written_to_and_stays_behind_is_consented_to() {
    let export = |lines: &str| format!("[exports.e]\nfile = \"/f\"\nallow = [\"*\"]\n{lines}");
    let written = "mode = \"read-write\"\n";
    let (message, place, fix) = wrong(&export(written));
    assert!(message.contains("gets nothing of it"), "{message}");
    assert_eq!(place, "e");
    assert!(fix.contains("mirrored = false"), "{fix}");
    let consents = format!("{written}mirrored = false\n");
    read(&export(&consents));
    read(&export(""));
    read(&export("mode = \"copy-on-write\"\n"));
    let (message, ..) = wrong(&export("mirrored = true\n"));
    assert!(
        message.contains("only the machines' disks are"),
        "{message}"
    );
    let alone = format!("{GOOD}{}", export(written));
    assert!(parse(&alone).is_ok(), "there is no other server");
}

#[test]
fn a_reload_changes_nothing_of_it() {
    let (old, new) = (read(""), read("mode = \"async\"\n"));
    assert!(old.is_same(&read("")) && !old.is_same(&new));
    assert!(!read("witness = \"10.12.0.9:7013\"\n").is_same(&old));
}

#[test]
fn a_secret_that_is_not_there_is_a_problem_with_its_fix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pair.secret");
    let standby = read(&format!("secret = \"{}\"\n", file.display()));
    let problem = check_secret(&standby).unwrap();
    let fix = problem.fix.unwrap();
    assert!(
        fix.contains(&format!("bootroom standby secret {}", file.display())),
        "{fix}"
    );
    crate::mirror::secret::PairSecret::make(&file).unwrap();
    assert!(check_secret(&standby).is_none());
}
