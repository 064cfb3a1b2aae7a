//! What a boot that got stuck is most likely waiting for, read off its events.

use std::time::{Duration, Instant};

use crate::machine::Stage;
use crate::policy::{Event, Happening, Outcome, Protocol};

/// Silence that is normal between two steps of a boot.
const PATIENCE: Duration = Duration::from_secs(10);
/// iPXE first waits for an IPv6 router, 16 s, before it fetches what DHCP told it.
const ROUTER: Duration = Duration::from_secs(25);
/// A loader and firmware take longer to start what they were given.
const START: Duration = Duration::from_secs(40);

/// A machine that goes no further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The step it is at.
    pub step: &'static str,
    /// For how long.
    pub since: Duration,
    /// What is likely wrong, and what to look at.
    pub advice: String,
}

/// Looks at the events of one machine, oldest first. None: it gets on, or has arrived where this crate sees no further
/// (a kernel that was sent whole).
pub fn stuck(events: &[Event], now: Instant) -> Option<Stuck> {
    let events = &events[last_start(events)..];
    let last = events
        .iter()
        .rfind(|e| !matches!(e.what, Happening::TransferProgress { .. }))?;
    let heard = events.last()?.at;
    let since = now.saturating_duration_since(heard);
    let (step, advice, patience) = judge(events, &last.what)?;
    (since >= patience).then_some(Stuck {
        step,
        since,
        advice,
    })
}

/// Where the current boot begins: the last DISCOVER that came after something else than DISCOVERs and OFFERs. What was
/// before belongs to an earlier stage or boot.
fn last_start(events: &[Event]) -> usize {
    let opening = |e: &Event| {
        matches!(
            e.what,
            Happening::Discover { .. }
                | Happening::Offer { .. }
                | Happening::Conflict { .. }
                | Happening::Exhausted
        )
    };
    let last = events
        .iter()
        .rposition(|e| matches!(e.what, Happening::Discover { .. }))
        .unwrap_or(0);
    events[..last]
        .iter()
        .rposition(|e| !opening(e))
        .map_or(0, |at| at + 1)
}

/// The step, the advice, and how long to wait before giving it.
type Judgement = (&'static str, String, Duration);

fn judge(events: &[Event], last: &Happening) -> Option<Judgement> {
    let count = |wanted: fn(&Happening) -> bool| events.iter().filter(|e| wanted(&e.what)).count();
    Some(match last {
        Happening::Discover { .. } => (
            "dhcp",
            "its DISCOVER got no answer; see the server's log".into(),
            PATIENCE,
        ),
        Happening::NotServed { reason } => (
            "dhcp",
            format!("it is not served: {reason}"),
            Duration::ZERO,
        ),
        Happening::Exhausted => (
            "dhcp",
            "no address is free: widen the range or shorten the leases".into(),
            Duration::ZERO,
        ),
        Happening::UnknownArch { arch } => {
            let arch = arch.map_or("unknown".into(), |a| a.to_string());
            (
                "dhcp",
                format!("no boot loader is known for its firmware, {arch}"),
                Duration::ZERO,
            )
        }
        Happening::Offer { .. } => {
            let offers = count(|h| matches!(h, Happening::Offer { .. }));
            ("dhcp", unanswered_offer(offers), PATIENCE)
        }
        Happening::Nak { reason } => (
            "dhcp",
            format!("its address was refused ({reason}); it should ask anew"),
            PATIENCE,
        ),
        Happening::Decline | Happening::Conflict { .. } => (
            "dhcp",
            "its address is in use by another machine; look for a fixed address inside the range"
                .into(),
            PATIENCE,
        ),
        Happening::OtherServer { server } => (
            "dhcp",
            format!(
                "it took the address of another DHCP server, {server}: stop that one, or use mode = \"proxy\""
            ),
            Duration::ZERO,
        ),
        Happening::Ack {
            boot: Some(file), ..
        } => {
            let url = file.starts_with("http");
            ("dhcp", unfetched(file), if url { ROUTER } else { PATIENCE })
        }
        _ => return judge_transfer(events, last),
    })
}

fn judge_transfer(events: &[Event], last: &Happening) -> Option<Judgement> {
    Some(match last {
        Happening::NotFound { path, .. } => (
            step_of(last),
            format!("it asked for `{path}`, which is not here"),
            PATIENCE,
        ),
        Happening::TransferStart { protocol, path, .. } => {
            let same =
                |h: &Happening| matches!(h, Happening::TransferStart { path: p, .. } if p == path);
            let times = events.iter().filter(|e| same(&e.what)).count();
            (
                step_of(last),
                unacknowledged(*protocol, path, times),
                PATIENCE,
            )
        }
        Happening::TransferEnd {
            path,
            done,
            outcome,
            ..
        } => return ended(events, last, path, *done, outcome),
        _ => return None,
    })
}

fn unanswered_offer(offers: usize) -> String {
    format!(
        "it was offered an address {offers} time(s) and never asked for it: another server's offer was taken, or our \
         answers do not arrive (VLAN, a switch port still in spanning tree's learning, a firewall on UDP 68)"
    )
}

fn unfetched(file: &str) -> String {
    let port = if file.starts_with("http") {
        "TCP port of the HTTP service"
    } else {
        "UDP port 69"
    };
    format!(
        "it was told to fetch `{file}` and never asked for it: a firewall on {port}, or a route that is missing"
    )
}

fn unacknowledged(protocol: Protocol, path: &str, times: usize) -> String {
    match protocol {
        Protocol::Tftp => format!(
            "it asked for `{path}` {times} time(s) and never acknowledged block 1: a firewall that drops UDP from high \
             ports, or an MTU too small on the way"
        ),
        Protocol::Http => {
            format!("it asked for `{path}` and takes nothing: an MTU too small on the way?")
        }
    }
}

fn ended(
    events: &[Event],
    last: &Happening,
    path: &str,
    done: u64,
    outcome: &Outcome,
) -> Option<Judgement> {
    let step = step_of(last);
    Some(match outcome {
        Outcome::TimedOut if done == 0 => {
            let times = events
                .iter()
                .filter(|e| matches!(e.what, Happening::TransferStart { .. }))
                .count();
            (
                step,
                unacknowledged(Protocol::Tftp, path, times),
                Duration::ZERO,
            )
        }
        Outcome::TimedOut => (
            step,
            format!("it fell silent after {done} bytes of `{path}`: cable, switch, or power"),
            PATIENCE,
        ),
        Outcome::Aborted(words) => (
            step,
            format!("it broke off `{path}` after {done} bytes: {words}"),
            PATIENCE,
        ),
        Outcome::ReadError(words) => (
            step,
            format!("`{path}` cannot be read here: {words}"),
            Duration::ZERO,
        ),
        Outcome::SizeProbe => (
            step,
            format!(
                "it asked for the size of `{path}` and then for nothing more: too large for it?"
            ),
            PATIENCE,
        ),
        Outcome::Complete if is_loader(path) => (step, unstarted(events, path), START),
        Outcome::Complete | Outcome::Shutdown => return None,
    })
}

/// By the endings of loaders: scripts and configurations lie beside them.
fn is_loader(path: &str) -> bool {
    let endings = [".efi", ".kpxe", ".kkpxe", ".pxe", ".0"];
    endings.iter().any(|end| path.ends_with(end))
}

fn unstarted(events: &[Event], path: &str) -> String {
    let uefi = events.iter().any(|e| {
        matches!(e.what, Happening::Discover { stage: Stage::Pxe | Stage::HttpBoot, arch: Some(arch) } if arch.0 != 0)
    });
    let secure = if uefi && path.starts_with("ipxe/") {
        ": Secure Boot refuses iPXE; use loader = \"grub\" for it"
    } else {
        ""
    };
    format!("`{path}` arrived whole and did not start{secure}")
}

fn step_of(what: &Happening) -> &'static str {
    match what {
        Happening::TransferStart { protocol, .. }
        | Happening::TransferEnd { protocol, .. }
        | Happening::NotFound { protocol, .. } => {
            if *protocol == Protocol::Tftp {
                "tftp"
            } else {
                "http"
            }
        }
        _ => "dhcp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Arch;
    use std::net::Ipv4Addr;

    const DISCOVER: Happening = Happening::Discover {
        stage: Stage::Pxe,
        arch: Some(Arch::EFI_X64),
    };

    fn offer() -> Happening {
        Happening::Offer {
            address: Ipv4Addr::LOCALHOST,
            boot: None,
        }
    }

    fn ack(file: &str) -> Happening {
        Happening::Ack {
            address: Ipv4Addr::LOCALHOST,
            lease: PATIENCE,
            boot: Some(file.into()),
            renewal: false,
        }
    }

    fn start() -> Happening {
        Happening::TransferStart {
            protocol: Protocol::Tftp,
            path: "ipxe/ipxe.efi".into(),
            size: 9,
        }
    }

    fn end(done: u64, outcome: Outcome) -> Happening {
        Happening::TransferEnd {
            protocol: Protocol::Tftp,
            path: "ipxe/ipxe.efi".into(),
            done,
            outcome,
        }
    }

    /// One event a second, then `silence` seconds of nothing.
    fn after(what: Vec<Happening>, silence: u64) -> Option<Stuck> {
        let begin = Instant::now();
        let at = |n: usize| begin + Duration::from_secs(n as u64);
        let now = at(what.len().saturating_sub(1)) + Duration::from_secs(silence);
        let events: Vec<_> = what
            .into_iter()
            .enumerate()
            .map(|(n, what)| Event {
                at: at(n),
                mac: None,
                ip: None,
                what,
            })
            .collect();
        stuck(&events, now)
    }

    #[test]
    fn each_way_to_get_stuck_has_its_advice() {
        for (what, word) in [
            (vec![DISCOVER], "no answer"),
            (vec![DISCOVER, offer(), DISCOVER, offer()], "2 time(s)"),
            (vec![DISCOVER, offer(), ack("ipxe/ipxe.efi")], "UDP port 69"),
            (vec![DISCOVER, offer(), ack("http://x/y")], "TCP port"),
            (
                vec![ack("x"), start(), start(), start()],
                "3 time(s) and never acknowledged block 1",
            ),
            (
                vec![ack("x"), start(), end(0, Outcome::TimedOut)],
                "never acknowledged",
            ),
            (
                vec![ack("x"), start(), end(5, Outcome::TimedOut)],
                "fell silent after 5",
            ),
            (
                vec![
                    ack("x"),
                    start(),
                    end(5, Outcome::Aborted("no memory".into())),
                ],
                "no memory",
            ),
            (
                vec![DISCOVER, ack("x"), start(), end(9, Outcome::Complete)],
                "Secure Boot",
            ),
            (
                vec![Happening::NotFound {
                    protocol: Protocol::Http,
                    path: "vmlinuz".into(),
                }],
                "`vmlinuz`",
            ),
            (vec![DISCOVER, Happening::Exhausted], "widen the range"),
        ] {
            let said = after(what.clone(), 60).unwrap_or_else(|| panic!("{what:?} is stuck"));
            assert!(said.advice.contains(word), "{what:?}: {}", said.advice);
        }
    }

    #[test]
    fn a_boot_that_gets_on_is_left_alone() {
        assert_eq!(after(vec![], 60), None);
        assert_eq!(after(vec![DISCOVER], 5), None);
        assert_eq!(after(vec![DISCOVER, offer(), ack("x"), start()], 5), None);
        assert_eq!(after(vec![DISCOVER, offer(), ack("http://x/y")], 20), None);
        assert_eq!(after(vec![start(), end(9, Outcome::Complete)], 20), None);
        let kernel = Happening::TransferEnd {
            protocol: Protocol::Http,
            path: "vmlinuz".into(),
            done: 9,
            outcome: Outcome::Complete,
        };
        assert_eq!(after(vec![kernel], 600), None);
        // A person may sit before a menu for as long as it waits.
        let menu = Happening::TransferEnd {
            protocol: Protocol::Http,
            path: "ipxe/52-54-00-12-00-01".into(),
            done: 9,
            outcome: Outcome::Complete,
        };
        assert_eq!(after(vec![menu], 600), None);
    }

    #[test]
    fn an_earlier_boot_does_not_count() {
        let said = after(
            vec![
                start(),
                start(),
                end(9, Outcome::Complete),
                DISCOVER,
                offer(),
            ],
            60,
        )
        .unwrap();
        assert!(said.advice.contains("1 time(s)"), "{}", said.advice);
    }
}
