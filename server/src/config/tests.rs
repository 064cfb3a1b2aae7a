use super::{
    Config,
    problem::{Problem, Sources},
    units::Retention,
};

pub(super) const GOOD: &str = r#"
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

fn sources(files: &[(&str, &str)]) -> Sources {
    let mut sources = Sources::default();
    files
        .iter()
        .for_each(|(path, text)| sources.add(path, *text));
    sources
}

pub(super) fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    super::parse::parse(&sources(&[("room.toml", text)]))
}

pub(super) fn problems(source: &str) -> Vec<Problem> {
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

/// The one problem of GOOD with `more` behind it: what it says, and what to do.
fn added(more: &str) -> (String, String) {
    let list = problems(&format!("{GOOD}{more}"));
    assert_eq!(list.len(), 1, "{list:?}");
    let problem = list.into_iter().next().unwrap();
    (problem.message, problem.fix.unwrap_or_default())
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
        sources: sources(&[("room.toml", &source)]),
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

/// GOOD with these lines at its end.
fn with(more: &str) -> String {
    format!("{GOOD}{more}")
}

/// The messages of what is wrong with GOOD and these lines.
fn wrong_with(more: &str) -> Vec<String> {
    let list = problems(&with(more));
    list.iter()
        .map(|problem| {
            format!(
                "{}: {}",
                problem.message,
                problem.fix.as_deref().unwrap_or("")
            )
        })
        .collect()
}

const FAR: &str = r#"
[[dhcp.subnets]]
network = "10.13.0.0/24"
range = ["10.13.0.50-10.13.0.99", "10.13.0.150-10.13.0.199"]
exclude = ["10.13.0.60-10.13.0.69", "10.13.0.75"]
router = "10.13.0.254"
ntp = ["10.13.0.2"]
options = { 150 = "ip:10.13.0.3,10.13.0.4", 252 = "text:http://wpad/wpad.dat" }
[dhcp.options]
26 = "u16:1400"
150 = "hex:0a:0c:00:01"
[groups.far]
image = "debian"
macs = ["52:54:00:13:*"]
range = "10.13.0.200-10.13.0.220"
options = { 67 = "text:own" }
"#;

#[test]
fn networks_behind_relays_inherit_what_they_do_not_say() {
    let text = with(FAR).replace(
        "range = \"10.12.0.100",
        "dns = \"10.12.0.2\"\nlease = \"1h\"\nrange = \"10.12.0.100",
    );
    let config = parse(&text).unwrap();
    let subnets = config.pxe_subnets();
    let [near, far] = subnets.as_slice() else {
        panic!("{subnets:?}");
    };
    assert_eq!(near.ranges.len(), 1);
    let names: Vec<_> = far
        .ranges
        .iter()
        .map(|range| range.name.as_deref())
        .collect();
    assert_eq!(names, [None, None, Some("far")]);
    assert_eq!(far.exclude[0].size() + far.exclude[1].size(), 11);
    assert_eq!(far.dns, near.dns);
    assert_eq!((near.ntp.len(), far.ntp.len()), (0, 1));
    assert_eq!((near.routers.len(), far.routers.len()), (0, 1));
    assert_eq!(far.lease_time, std::time::Duration::from_secs(3600));
    let value = |subnet: &pxe::dhcp::Subnet, code| {
        let option = subnet.options.iter().find(|option| option.code == code);
        option.unwrap().value.to_vec()
    };
    assert_eq!(value(far, 150), [10, 13, 0, 3, 10, 13, 0, 4]);
    assert_eq!(value(near, 150), [10, 12, 0, 1]);
    assert_eq!(value(far, 26), 1400_u16.to_be_bytes());
    assert_eq!(config.groups["far"].settings.options[0].value, "own");
    let peer = "10.13.0.50".parse().unwrap();
    assert_eq!(config.network_of(peer).unwrap().0.prefix_len(), 24);
}

#[test]
fn networks_that_contradict_each_other_are_refused() {
    let subnet = |lines: &str| format!("[[dhcp.subnets]]\n{lines}\n");
    for (lines, words) in [
        ("network = \"10.12.0.128/25\"", "overlaps 10.12.0.0/24"),
        (
            "network = \"10.13.0.0/24\"\nrouter = \"10.12.0.254\"",
            "outside the network 10.13.0.0/24",
        ),
        (
            "network = \"10.13.0.0/24\"\nrange = \"10.14.0.1-10.14.0.9\"",
            "choose addresses in 10.13.0.0/24",
        ),
        (
            "network = \"10.13.0.0/24\"\nexclude = \"10.12.0.1\"",
            "exclude lies outside",
        ),
        (
            "network = \"10.13.0.0/24\"\noptions = { 53 = \"u8:1\" }",
            "`53` is no DHCP option",
        ),
        (
            "network = \"10.13.0.0/24\"\noptions = { 26 = \"1400\" }",
            "\"u16:1400\"",
        ),
        (
            "network = \"10.13.0.0/24\"\noptions = { 26 = \"hex:123\" }",
            "no option value",
        ),
        ("netwrok = \"10.13.0.0/24\"", "did you mean `network`?"),
    ] {
        let found = wrong_with(&subnet(lines));
        assert!(
            found.iter().any(|one| one.contains(words)),
            "{words}: {found:?}"
        );
    }
    let found = wrong_with("[dhcp.subnets]\nnetwork = \"10.13.0.0/24\"\n");
    assert!(
        found[0].contains("[[dhcp.subnets]], with two brackets"),
        "{found:?}"
    );
    assert!(
        broken("[dhcp]", "[dhcp]\nmode = \"proxy\"")
            .0
            .contains("mode is not")
    );
}

const MENU: &str = r#"
[clients.teacher.menu]
timeout = "30s"
default = "Two"
[[clients.teacher.menu.entries]]
title = "One"
image = "debian"
[[clients.teacher.menu.entries]]
title = "Two"
local = true
"#;

#[test]
fn a_menu_has_entries_that_boot_one_thing_each() {
    let config = parse(&with(MENU)).unwrap();
    let teacher = config.clients.values().next().unwrap();
    let menu = teacher.settings.menu.as_ref().unwrap();
    assert_eq!(
        (menu.default, menu.timeout.0, menu.remember),
        (1, 30, false)
    );
    assert_eq!(menu.default_image().unwrap().value.to_string(), "debian");
    for (from, to, words) in [
        (
            "default = \"Two\"",
            "default = \"Tow\"",
            "did you mean `Two`?",
        ),
        (
            "local = true",
            "local = true\nimage = \"x\"",
            "boots one thing",
        ),
        ("local = true", "", "boots one thing"),
        (
            "title = \"Two\"",
            "title = \"One\"",
            "two entries are called",
        ),
        (
            "title = \"Two\"",
            "title = \"Zw\u{f6}lf\"",
            "60 ASCII characters",
        ),
        (
            "local = true",
            "image = \"debian@3\"",
            "versions of one image",
        ),
        ("local = true", "local = \"yes\"", "true or false"),
        (
            "[clients.teacher.menu]",
            "[clients.teacher.menu]\nentrys = 1",
            "did you mean `entries`?",
        ),
    ] {
        assert!(MENU.contains(from));
        let found = wrong_with(&MENU.replace(from, to));
        assert!(
            found.iter().any(|one| one.contains(words)),
            "{words}: {found:?}"
        );
    }
    let found = wrong_with("[clients.teacher.menu]\n");
    assert!(found[0].contains("without entries"), "{found:?}");
}

const EXPORTS: &str = r#"
[tls]
folder = "/etc/bootroom/pki"
[listeners.backup]
address = "10.12.0.1:10810"
tls = "required"
client_certificates = "required"
[listeners.local]
unix = "/run/bootroom/nbd.sock"
[exports.vm7]
device = "/dev/vg0/vm7"
mode = "read-write"
allow = ["10.12.0.0/24", "10.13.0.7", "unix"]
[exports.golden]
image = "debian@3"
mode = "copy-on-write"
quota = "2GiB"
certificates = ["backup"]
"#;

#[test]
fn exports_listeners_and_certificates_are_read() {
    use super::exports::{Allowed, ListenPlace, Mode, TlsMode};
    let config = parse(&format!("{GOOD}{EXPORTS}")).unwrap();
    let tls = config.tls.as_ref().unwrap();
    assert_eq!(
        tls.key,
        std::path::Path::new("/etc/bootroom/pki/server.key")
    );
    assert_eq!(config.listeners["backup"].tls.mode(), TlsMode::Required);
    let unix = ListenPlace::Unix("/run/bootroom/nbd.sock".into());
    assert_eq!(config.listeners["local"].place.value, unix);
    let vm = &config.exports["vm7"].spec;
    assert_eq!((vm.mode, vm.allow.len()), (Mode::ReadWrite, 3));
    assert_eq!(vm.allow[2], Allowed::Unix);
    assert!(!vm.needs_tls());
    assert!(config.exports["golden"].spec.needs_tls());
}

#[test]
fn an_export_says_where_from_what_for_and_for_whom() {
    let disk = "[exports.d]\nfile = \"/srv/d\"\n";
    let (message, fix) = added(disk);
    assert!(
        message.contains("nobody") && fix.contains("allow"),
        "{message}"
    );
    let open = format!("{disk}allow = [\"*\"]\n");
    let (message, _) = added(&format!("{open}image = \"debian\"\n"));
    assert!(message.contains("exactly one of"), "{message}");
    let (message, _) = added(&format!("{open}shared = true\n"));
    assert!(message.contains("nobody writes"), "{message}");
    let (message, _) = added(&format!("{open}quota = \"1GiB\"\n"));
    assert!(message.contains("quota"), "{message}");
    let (message, fix) = added(&format!("{open}tls = \"required\"\n"));
    assert!(message.contains("nothing listens with TLS") && fix.contains("[server]"));
    let (message, _) =
        added("[exports.d]\nimage = \"debian\"\nmode = \"read-write\"\nallow = [\"*\"]\n");
    assert!(message.contains("never changes"), "{message}");
    let (message, _) = added("[exports.\"client/x\"]\nfile = \"/d\"\nallow = [\"*\"]\n");
    assert!(message.contains("machines' own"), "{message}");
    let (message, _) = added("[exports.d]\nfile = \"/d\"\nallow = [\"10.12.0.0/33\"]\n");
    assert!(message.contains("10.12.0.0/24"), "{message}");
}

#[test]
fn listeners_stay_apart() {
    let (message, _) = added("[listeners.a]\naddress = \"0.0.0.0:10809\"\n");
    assert!(message.contains("[server] (nbd_port)"), "{message}");
    let (message, _) = added("[listeners.a]\nunix = \"/a\"\naddress = \"10.12.0.1:1\"\n");
    assert!(message.contains("either an address or"), "{message}");
    let (message, _) = added("[tls]\ncertificate = \"/c\"\n");
    assert!(message.contains("no certificate and key"), "{message}");
}

#[test]
fn a_name_that_two_files_give_is_an_error_with_both_places() {
    let more = "[groups.other]\n[exports.d]\nfile = \"/d\"\nallow = [\"unix\"]\n[groups.room12]\n";
    let sources = sources(&[("room.toml", GOOD), ("conf.d/more.toml", more)]);
    let list = super::parse::parse(&sources).expect_err("room12 is there twice");
    assert_eq!(list.len(), 1, "{list:?}");
    let shown = super::Problems { sources, list };
    assert_eq!(shown.line(&shown.list[0]), Some(5));
    let text = shown.to_string();
    for part in [
        "conf.d/more.toml:5:9",
        "is in room.toml:8 already",
        "[groups.room12]",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn conf_d_adds_exports_groups_and_clients_only() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    let main = write("bootroom.toml", GOOD);
    write(
        "conf.d/10-disk.toml",
        "[exports.d]\nfile = \"/d\"\nallow = [\"unix\"]\n",
    );
    write("conf.d/notes.txt", "not TOML");
    let config = super::load(&main).unwrap();
    assert!(config.exports.contains_key("d"));
    let stray = write("conf.d/20-server.toml", "\n[server]\ndata = \"/other\"\n");
    let problems = super::load(&main).expect_err("[server] is not for conf.d");
    assert_eq!(problems.list.len(), 1, "{problems}");
    assert_eq!(problems.file(&problems.list[0]), stray);
    assert_eq!(problems.line(&problems.list[0]), Some(2));
    assert!(
        problems
            .to_string()
            .contains("known here: groups, clients, exports")
    );
}

#[test]
fn a_group_can_say_otherwise_of_tls_as_far_as_the_server_lets_it() {
    let config = parse(GOOD).unwrap();
    assert!(!config.server.ssh_host_keys);
    let with = |server: &str, group: &str| {
        let text = GOOD.replace("[dhcp]", &format!("{server}\nssh_host_keys = true\n[dhcp]"));
        parse(&text.replace("retention = \"boot\"", group))
    };
    let config = with("tls = \"on\"", "tls = \"required\"").unwrap();
    assert!(config.server.ssh_host_keys && config.tls.unwrap().own);
    let told = |server, group| with(server, group).unwrap_err().remove(0).message;
    assert!(told("", "tls = \"on\"").contains("speaks no TLS"));
    let message = told("tls = \"required\"", "tls = \"off\"");
    assert!(message.contains("nobody without TLS"), "{message}");
    assert!(told("", "tls = \"yes\"").contains("\"required\""));
}

proptest::proptest! {
    /// Whatever stands in the files, it is read or every mistake can be shown.
    #[test]
    fn no_text_is_too_odd_to_be_complained_about(
        junk in "[\\[\\]\"'=#.a-zä\\n\\\\0-9]{0,12}",
        at in 0..1000_usize,
        length in 0..40_usize,
        in_main: bool,
    ) {
        let mut texts = [GOOD.to_owned(), EXPORTS.replace("[tls]", "[more]")];
        let text = &mut texts[usize::from(!in_main)];
        let at = at.min(text.len());
        let end = (at + length).min(text.len());
        text.replace_range(at..end, &junk);
        let sources = sources(&[("room.toml", &texts[0]), ("conf.d/ä.toml", &texts[1])]);
        if let Err(list) = super::parse::parse(&sources) {
            let shown = super::Problems { sources, list };
            proptest::prop_assert!(!shown.list.is_empty());
            proptest::prop_assert!(!shown.render(true).is_empty() && !shown.to_string().is_empty());
        }
    }
}
