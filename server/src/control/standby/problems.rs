//! What of a pair is not as it should be, in an admin's words.

use super::model::{PairView, RoleView};

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
    if view.split_brain.is_none() {
        found.extend(not_paired(view));
    }
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

const SPLIT: &str = "both servers have changes of their own (split brain). Look at `bootroom standby status` on both, and \
     say `bootroom standby discard` on the one whose changes are to be given up";
const STRANGE: &str = "the witness that answers is not the one that was agreed on: it lost its record, or another was put \
     in its place. If that is right: `bootroom standby accept-witness`";

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
    witness.into_iter().collect()
}
