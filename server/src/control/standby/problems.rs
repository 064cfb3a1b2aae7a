//! What of a pair is not as it should be, in an admin's words.

use super::model::{PairView, RoleView, UnreadableView};
use crate::mirror::driver::say_blocks;

/// What is wrong, with what to do about it; nothing when both servers hold the same and the standby can take over.
pub fn problems(view: &PairView) -> Vec<String> {
    let mut found = Vec::new();
    if view.split_brain.is_some() {
        found.push(SPLIT.to_owned());
    }
    if view.witness.as_ref().is_some_and(|one| one.strange) {
        found.push(STRANGE.to_owned());
    }
    if let Some(why) = &view.suspended {
        found.push(format!("the machines wait: {why}"));
    }
    found.extend(view.disk_hangs_seconds.map(|span| hangs(view, span)));
    if view.split_brain.is_none() && view.own_disks == 0 {
        found.extend(not_paired(view));
    }
    found.extend(view.unreadable.iter().map(unreadable));
    let left_out = view
        .left_out
        .iter()
        .filter(|_| view.role == RoleView::Primary);
    found.extend(left_out.map(|file| format!("the standby does not get {file}")));
    if view.own_disks > 0 {
        found.push(own_disks(view.own_disks));
    }
    found.extend(view.images.trouble.as_ref().map(|trouble| {
        format!("image versions do not come over from the other server: {trouble}")
    }));
    found
}

/// What a server with disks of its own is told before it may become a standby.
pub fn own_disks(count: usize) -> String {
    format!(
        "this server has {count} disks of its own from the time when it was alone, and they would be deleted if it became \
         the standby: `bootroom standby discard` if they are to go, `bootroom standby promote` if they are the ones that count"
    )
}

/// The disk ends nothing, not even with an error.
fn hangs(view: &PairView, seconds: f64) -> String {
    let then = match (view.role, view.paired, &view.witness) {
        (RoleView::Primary, true, Some(_)) => {
            "The standby takes over as soon as it holds everything that counts and the witness says that it may. If the \
             witness does not answer: start it"
        }
        (RoleView::Primary, true, None) => {
            "The standby takes over as soon as it holds everything that counts"
        }
        (RoleView::Primary, false, _) => {
            "The machines wait for it: there is no standby that holds everything and could take over"
        }
        _ => {
            "If it was the primary it has made way for the other server, and becomes its standby when the disk goes on. If \
             the other one does not serve: `bootroom standby promote` there"
        }
    };
    format!(
        "this server's disk has ended nothing for {seconds:.0} s. {then}. Look at the storage of this server (`dmesg`, SMART)"
    )
}

/// A disk of which this server has the only copy, and cannot read it.
fn unreadable(disk: &UnreadableView) -> String {
    let first = disk.ranges.first();
    let place = first.map_or_else(String::new, |first| say_blocks(first.first, first.count));
    let more = match disk.ranges.len() {
        0 | 1 => String::new(),
        _ => format!(" and elsewhere, {} blocks in all", disk.blocks),
    };
    let of = disk.client.as_ref().map(|name| format!(" of {name}"));
    let name = disk.client.as_deref().unwrap_or("NAME");
    format!(
        "the disk {}{} cannot be read on this server, which has the only copy: in {place}{more} (of 4 KiB). The standby gets \
         everything else, and cannot take over before it has this too. It is tried again every few seconds. Look at the \
         storage below (`dmesg`, SMART). If it stays so: write these blocks anew on that machine, or give its disk up with \
         `bootroom client reset {name}`",
        disk.overlay,
        of.unwrap_or_default(),
    )
}

const SPLIT: &str = "both servers have changes of their own (split brain). Look at `bootroom standby status` on both, and \
     say `bootroom standby discard` on the one whose changes are to be given up";
const STRANGE: &str = "the witness that answers is not the one that was agreed on: it lost its record, or another was put \
     in its place. If that is right: `bootroom standby accept-witness`";

const LOW: &str = "less than 1 GiB is free where this server keeps the machines' disks. As a standby it takes what the \
     primary allowed until nothing is left; as the primary it lets only lasting disks grow. Make room";

fn not_paired(view: &PairView) -> Option<String> {
    match view.role {
        _ if view.paired => None,
        RoleView::Primary => Some(no_standby(view)),
        RoleView::Standby => Some(
            "this standby is being brought up by the primary: it cannot take over before that is done".to_owned(),
        ),
        RoleView::Seeking => Some(seeking(view)),
    }
}

fn no_standby(view: &PairView) -> String {
    let peer = view.peer;
    match (view.resync, view.linked) {
        (Some(_), _) => {
            "the standby is being brought up: it cannot take over before that is done".to_owned()
        }
        (None, true) => format!("{peer} is there, and not the standby yet"),
        (None, false) => {
            format!(
                "there is no standby: {peer} cannot be reached; is `bootroom serve` running there?"
            )
        }
    }
}

fn seeking(view: &PairView) -> String {
    let by_hand = view.witness.is_none();
    let text = match view {
        view if view.empty => {
            "this server has no data of the pair yet: it takes them from the other one. On the server that has them, say \
             `bootroom standby promote` once"
        }
        view if view.kept.is_some() => {
            "this server was being brought up when it lost the other one: its disks are half old and half new, and it waits \
             for the other one. If that one is gone for good, `bootroom standby promote --force --before-resync` goes back to \
             what was here before"
        }
        view if !view.consistent => {
            "this server was being brought up when it lost the other one: its disks are half old and half new, and it waits \
             for the other one"
        }
        view if view.rolled_back => {
            "this server lost power, and the other one may have what it lost: it waits for the other one. If that one is gone \
             for good: `bootroom standby promote --force`"
        }
        _ if by_hand => {
            "this server is neither primary nor standby: it waits for the other one. If that one is dead: \
             `bootroom standby promote`"
        }
        _ => {
            "this server is neither primary nor standby: it waits for the other one or for the witness"
        }
    };
    text.to_owned()
}

/// What may need a look.
pub fn warnings(view: &PairView) -> Vec<String> {
    let trouble = view.witness.as_ref().and_then(|one| one.trouble.as_ref());
    let witness = trouble.map(|trouble| {
        format!("the witness does not answer: {trouble}. The machines run on, but nobody takes over by himself meanwhile")
    });
    let aside = view.set_aside.iter().map(|folder| {
        format!(
            "a disk was damaged on this server, and was taken from the other one as a whole. Look at this server's storage, \
             and remove what is left of it: {}",
            folder.display()
        )
    });
    let low = view.low_on_space.then(|| LOW.to_owned());
    witness.into_iter().chain(low).chain(aside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::standby::model::{
        ImagesView, KeptView, LagView, ProgressView, WitnessView,
    };

    fn well() -> PairView {
        PairView {
            version: "1".into(),
            pid: 1,
            uptime_seconds: 1,
            server: "A".into(),
            listen: "10.0.0.1:7012".parse().unwrap(),
            peer: "10.0.0.2:7012".parse().unwrap(),
            mode: "sync".into(),
            most_behind: None,
            alone: "continue".into(),
            role: RoleView::Primary,
            term: 2,
            linked: true,
            heard_seconds: Some(0.1),
            paired: true,
            consistent: true,
            kept: None,
            empty: false,
            rolled_back: false,
            suspended: None,
            disk_hangs_seconds: None,
            lag: LagView::default(),
            resync: None,
            verify: None,
            last_verify: None,
            unreadable: Vec::new(),
            left_out: Vec::new(),
            split_brain: None,
            witness: None,
            images: ImagesView::default(),
            own_disks: 0,
            low_on_space: false,
            set_aside: Vec::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
            recent: Vec::new(),
        }
    }

    /// The one problem of a view that is well but for `change`.
    fn problem(change: impl FnOnce(&mut PairView)) -> String {
        let mut view = well();
        change(&mut view);
        let mut found = problems(&view);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn witness(trouble: Option<&str>, strange: bool) -> WitnessView {
        WitnessView {
            place: "10.0.0.9:7013".into(),
            trouble: trouble.map(str::to_owned),
            strange,
            primary: Some("A".into()),
            outdated: None,
        }
    }

    #[test]
    fn in_step_nothing_is_wrong_on_either() {
        assert_eq!(problems(&well()), [""; 0]);
        let standby = PairView {
            role: RoleView::Standby,
            ..well()
        };
        assert_eq!(problems(&standby), [""; 0]);
    }

    #[test]
    fn a_primary_says_where_its_standby_is() {
        let gone = problem(|view| (view.paired, view.linked) = (false, false));
        assert!(gone.contains("10.0.0.2:7012 cannot be reached"), "{gone}");
        let resync = problem(|view| {
            view.paired = false;
            view.resync = Some(ProgressView {
                compare: false,
                blocks_done: 1,
                blocks_left: 1,
                bytes_per_second: 1,
                seconds_left: None,
            });
        });
        assert!(resync.contains("brought up"), "{resync}");
    }

    #[test]
    fn a_server_that_seeks_says_what_it_waits_for_and_what_a_person_can_do() {
        let seeking = |change: fn(&mut PairView)| {
            problem(|view| {
                (view.role, view.paired) = (RoleView::Seeking, false);
                change(view);
            })
        };
        let empty = seeking(|view| view.empty = true);
        assert!(empty.contains("`bootroom standby promote` once"), "{empty}");
        let own = seeking(|view| (view.empty, view.own_disks) = (true, 3));
        assert!(own.contains("3 disks of its own"), "{own}");
        let half = seeking(|view| view.consistent = false);
        assert!(half.contains("half old and half new"), "{half}");
        assert!(!half.contains("--before-resync"), "{half}");
        let kept = seeking(|view| {
            view.consistent = false;
            view.kept = Some(KeptView {
                begun: None,
                last_change: None,
            });
        });
        assert!(kept.contains("--before-resync"), "{kept}");
        let cut = seeking(|view| view.rolled_back = true);
        assert!(
            cut.contains("lost power") && cut.contains("--force"),
            "{cut}"
        );
        let by_hand = seeking(|_| ());
        assert!(by_hand.contains("`bootroom standby promote`"), "{by_hand}");
        let witnessed = seeking(|view| view.witness = Some(witness(None, false)));
        assert!(!witnessed.contains("promote"), "{witnessed}");
    }

    #[test]
    fn a_disk_that_cannot_be_read_is_named_with_its_machine_and_blocks() {
        use crate::control::standby::model::RangeView;
        let range = |first, count| RangeView { first, count };
        let named = |ranges: Vec<RangeView>, client: Option<&str>| {
            problem(|view| {
                view.unreadable.push(UnreadableView {
                    overlay: "525400120001-debian".into(),
                    client: client.map(str::to_owned),
                    blocks: ranges.iter().map(|range| range.count).sum(),
                    ranges,
                });
            })
        };
        let one = named(vec![range(64, 64)], Some("r12-01"));
        assert!(
            one.contains("525400120001-debian of r12-01")
                && one.contains("in blocks 64 to 127 (of 4 KiB)")
                && one.contains("`bootroom client reset r12-01`"),
            "{one}"
        );
        let more = named(vec![range(7, 1), range(64, 64)], None);
        assert!(
            more.contains("in block 7 and elsewhere, 65 blocks in all"),
            "{more}"
        );
    }

    #[test]
    fn a_file_that_the_standby_does_not_get_is_a_problem_of_the_primary() {
        let file = "pki/endless.pem: it is longer than 4 MiB";
        let text = problem(|view| view.left_out.push(file.into()));
        assert!(text.ends_with(file), "{text}");
        let standby = PairView {
            role: RoleView::Standby,
            left_out: vec![file.into()],
            ..well()
        };
        assert_eq!(problems(&standby), [""; 0]);
    }

    #[test]
    fn a_disk_that_hangs_is_told_with_who_takes_over() {
        let hangs = |change: fn(&mut PairView)| {
            let mut view = well();
            view.disk_hangs_seconds = Some(31.4);
            change(&mut view);
            problems(&view).remove(0)
        };
        let paired = hangs(|view| view.witness = Some(witness(None, false)));
        assert!(paired.contains("nothing for 31 s"), "{paired}");
        assert!(paired.contains("the witness says"), "{paired}");
        let alone = hangs(|view| view.paired = false);
        assert!(alone.contains("no standby"), "{alone}");
        let deposed = hangs(|view| (view.role, view.paired) = (RoleView::Seeking, false));
        assert!(deposed.contains("promote` there"), "{deposed}");
    }

    #[test]
    fn a_split_is_one_problem_and_not_two() {
        let split = problem(|view| {
            view.split_brain = Some(Vec::new());
            view.paired = false;
        });
        assert!(split.contains("`bootroom standby discard`"), "{split}");
    }

    #[test]
    fn machines_that_wait_and_a_strange_witness_are_problems_and_a_silent_one_is_a_warning() {
        let waits = problem(|view| view.suspended = Some("because".into()));
        assert_eq!(waits, "the machines wait: because");
        let strange = problem(|view| view.witness = Some(witness(None, true)));
        assert!(strange.contains("accept-witness"), "{strange}");
        let silent = PairView {
            witness: Some(witness(Some("refused"), false)),
            ..well()
        };
        assert_eq!(problems(&silent), [""; 0]);
        assert!(warnings(&silent)[0].contains("refused"));
    }

    #[test]
    fn little_space_is_a_warning_on_either() {
        let view = PairView {
            low_on_space: true,
            ..well()
        };
        assert_eq!(problems(&view), [""; 0]);
        assert!(warnings(&view)[0].contains("Make room"));
    }

    #[test]
    fn what_was_put_aside_is_named_until_it_is_removed() {
        let view = PairView {
            set_aside: vec!["/srv/overlays/.damaged-1".into()],
            ..well()
        };
        assert_eq!(problems(&view), [""; 0]);
        assert!(warnings(&view)[0].contains("/srv/overlays/.damaged-1"));
    }
}
