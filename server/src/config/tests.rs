use super::{parse::parse, problem::Problem, units::Retention};

const GOOD: &str = r#"
[server]
data = "/var/lib/bootroom"
interface = "enp3s0"
address = "10.12.0.1/24"
[dhcp]
range = "10.12.0.100-10.12.0.199"
[groups.room12]
image = "debian"
macs = ["52:54:00:12:*"]
name = "r12-{n:02}"
retention = "boot"
quota = "8GiB"
[clients.teacher]
mac = "52:54:00:12:00:01"
address = "10.12.0.20"
retention = "keep"
"#;

fn problems(source: &str) -> Vec<Problem> {
    parse(source).expect_err("the text is wrong on purpose")
}

/// The one problem of GOOD with `from` replaced by `to`, and the text that it points at.
fn broken(from: &str, to: &str) -> (String, String, String) {
    assert!(GOOD.contains(from));
    let source = GOOD.replace(from, to);
    let list = problems(&source);
    assert_eq!(list.len(), 1, "{list:?}");
    let Problem { message, span, fix } = list.into_iter().next().unwrap();
    (
        message,
        source[span.unwrap_or(0..0)].to_owned(),
        fix.unwrap_or_default(),
    )
}

#[test]
fn the_example_of_the_design_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.server.nbd_port, 10809);
    let teacher = config.clients.values().next().unwrap();
    assert_eq!(teacher.settings.retention, Some(Retention::Keep));
    assert_eq!(config.groups["room12"].settings.quota.unwrap().0, 8 << 30);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    let (message, place, fix) = broken("retention = \"keep\"", "retension = \"keep\"");
    assert_eq!(message, "unknown key `retension` in [clients.teacher]");
    assert_eq!(place, "retension");
    assert_eq!(fix, "did you mean `retention`?");
}

#[test]
fn every_mistake_is_shown_at_once() {
    let list = problems("[server]\ndata = 7\ninterfaces = \"x\"\n[dchp]\n");
    let messages: Vec<_> = list
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(messages.len(), 5, "{messages:?}");
}

#[test]
fn a_mac_has_one_owner() {
    let extra = "retention = \"keep\"\n[clients.second]\nmac = \"52:54:00:12:00:01\"";
    let (message, place, _) = broken("retention = \"keep\"", extra);
    assert!(message.contains("same mac"), "{message}");
    assert_eq!(place, "\"52:54:00:12:00:01\"");
}

#[test]
fn ranges_stay_apart_and_at_home() {
    let overlap = "quota = \"8GiB\"\nrange = \"10.12.0.150-10.12.0.220\"";
    assert!(broken("quota = \"8GiB\"", overlap).0.contains("overlaps"));
    let (message, _, fix) = broken("10.12.0.100-10.12.0.199", "10.13.0.100-10.13.0.199");
    assert!(
        message.contains("outside the network 10.12.0.0/24"),
        "{message}"
    );
    assert!(fix.contains("10.12.0.0/24"));
    assert!(broken("10.12.0.20\"", "10.99.0.20\"").0.contains("outside"));
}

#[test]
fn bad_values_say_what_would_fit() {
    assert!(broken("\"8GiB\"", "\"8 gigs\"").0.contains("8GiB or 500MB"));
    assert!(broken("\"keep\"", "\"forever\"").0.contains("\"session\""));
    assert!(
        broken("\"52:54:00:12:*\"", "\"52:5*\"")
            .0
            .contains("52:54:00:12:*")
    );
    assert!(broken("r12-{n:02}", "r12").0.contains("{n:02}"));
}

#[test]
fn a_syntax_error_has_a_place() {
    let list = problems("[server]\ndata = \n");
    assert_eq!(list.len(), 1);
    assert!(list[0].span.is_some());
}

#[test]
fn rendered_problems_name_file_line_and_caret() {
    let source = GOOD.replace("retention = \"keep\"", "retension = \"keep\"");
    let list = problems(&source);
    let shown = super::Problems {
        path: "room.toml".into(),
        source,
        list,
    };
    assert_eq!(shown.line(&shown.list[0]), Some(17));
    let text = shown.to_string();
    for part in [
        "room.toml:17:1",
        "retension",
        "^^^^^^^^^",
        "did you mean `retention`?",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn tls_is_off_unless_asked_for_and_can_differ_by_group() {
    let config = parse(GOOD).unwrap();
    assert!(!config.uses_tls() && !config.server.ssh_host_keys);
    let some = GOOD.replace("retention = \"boot\"", "tls = \"on\"");
    let config = parse(&some).unwrap();
    assert!(config.uses_tls() && !config.only_tls());
    let all = GOOD.replace("[dhcp]", "tls = \"required\"\nssh_host_keys = true\n[dhcp]");
    let config = parse(&all).unwrap();
    assert!(config.only_tls() && config.server.ssh_host_keys);
}

#[test]
fn tls_that_protects_nothing_is_refused() {
    let (message, _, fix) = broken("[dhcp]", "[tls]\nclient_certificates = true\n[dhcp]");
    assert!(message.contains("does nothing"), "{message}");
    assert!(fix.contains("tls = \"required\""), "{fix}");
    let on = "tls = \"on\"\n[tls]\nclient_certificates = true\n[dhcp]";
    assert!(broken("[dhcp]", on).0.contains("may come without TLS"));
    let half = "tls = \"on\"\n[tls]\ncertificate = \"/c.pem\"\n[dhcp]";
    let (message, place, _) = broken("[dhcp]", half);
    assert!(message.contains("together"), "{message}");
    assert_eq!(place, "\"/c.pem\"");
    let (message, ..) = broken("[dhcp]", "tls = \"yes\"\n[dhcp]");
    assert!(message.contains("\"required\""), "{message}");
    let (message, ..) = broken("[dhcp]", "ssh_host_keys = \"yes\"\n[dhcp]");
    assert!(message.contains("true or false"), "{message}");
}
