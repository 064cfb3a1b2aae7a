//! What is done to the pair: each verb says what it may cost, asks where something may be lost, and waits for what comes
//! of it.

use anyhow::bail;
use serde_json::json;

use super::{
    AskedOptions, HandOverOptions, PromoteOptions,
    outcome::{Outcome, view},
    status::kept as kept_text,
};
use crate::{
    cli::{Exit, Target, ask, output},
    config::units::ByteSize,
    control::standby::model::{DifferingView, EventKind, EventView, PairView, RoleView},
    control::{client::Control, model::Status},
};

/// How a demand ended: for scripts and for people.
struct Ended {
    done: bool,
    text: String,
}

impl Ended {
    fn well(text: impl Into<String>) -> Self {
        Self {
            done: true,
            text: text.into(),
        }
    }

    fn badly(text: impl Into<String>) -> Self {
        Self {
            done: false,
            text: text.into(),
        }
    }
}

async fn report(target: &Target, ended: Ended) -> anyhow::Result<Exit> {
    if !ended.done {
        bail!(ended.text);
    }
    if !target.json {
        say!("{}", ended.text);
        return Ok(Exit::Ok);
    }
    let view = view(&target.control()?).await?;
    output::json(&json!({ "done": true, "text": ended.text, "pair": view }))?;
    Ok(Exit::Ok)
}

/// Asks a person who was told what it costs.
pub(super) fn agreed(yes: bool, question: &str) -> anyhow::Result<()> {
    let reason = "a person has to agree to that";
    if !yes && !ask::confirm(question, reason)? {
        bail!("nothing was done");
    }
    Ok(())
}

/// `standby promote`.
pub async fn promote(options: &PromoteOptions) -> anyhow::Result<Exit> {
    let control = options.target.control()?;
    let before = view(&control).await?;
    if before.role == RoleView::Primary {
        let text = format!("this server is the primary already (term {})", before.term);
        return report(&options.target, Ended::well(text)).await;
    }
    let first = before.empty && before.consistent && !options.force;
    if first || options.force || asks(&before) {
        let reason = match first {
            true => first_promotion(&control, &before).await?,
            false if options.before_resync => lost_by_going_back(&before)?,
            false => may_be_lost(&before, options.force),
        };
        tell_on_stderr(&reason);
        agreed(options.yes, "Make this server the primary?")?;
    }
    let mut outcome = Outcome::listen(&control).await?;
    control
        .post(&format!(
            "/v1/standby/promote?force={}&before_resync={}",
            options.force, options.before_resync
        ))
        .await?;
    let ended = outcome.wait(promoted_event, follows).await?;
    let ended = match ended {
        Some(ended) => ended,
        None => no_promotion(&view(&control).await?),
    };
    report(&options.target, ended).await
}

/// What the first promotion of a pair does: who leads first has the data that both have from then on.
async fn first_promotion(control: &Control, view: &PairView) -> anyhow::Result<String> {
    let holds: Status = serde_json::from_value(control.get("/v1/status").await?)?;
    Ok(format!(
        "This server has not been one of a pair before. It holds {} machines and {} images. {} becomes its standby and holds the \
         same from then on; disks that only that one has stay until `bootroom standby discard` there gives them up.",
        holds.clients,
        holds.images.len(),
        view.peer
    ))
}

/// Whether a promotion without force may cost something that nobody but a person can know: without a witness the other
/// server may be serving the machines unseen.
fn asks(view: &PairView) -> bool {
    let heard = view.heard_seconds.is_some_and(|seconds| seconds < 1.0);
    view.witness.is_none() && !heard && !view.empty
}

fn tell_on_stderr(reason: &str) {
    eprintln!("{reason}");
}

/// What is lost by going back to what was here before a resync.
fn lost_by_going_back(view: &PairView) -> anyhow::Result<String> {
    let Some(kept) = &view.kept else {
        bail!("nothing is kept here from before a resync");
    };
    let lost = format!(
        "The disks, machines and leases of this server become what they were before the resync: {}. All that the other server, \
         {}, answered since this one was its standby last is lost here, flushed or not, and so is what of it the resync has \
         brought. The other server's data can be taken up again only as a whole, by `bootroom standby discard` here.",
        kept_text(kept),
        view.peer
    );
    let no_witness = may_be_lost(view, false);
    Ok([no_witness, lost].join("\n").trim().to_owned())
}

/// What a promotion may cost, as far as this server knows.
fn may_be_lost(view: &PairView, force: bool) -> String {
    let mut lines = Vec::new();
    if view.witness.is_none() {
        lines.push(
            "There is no witness: if the other server still serves the machines, both have changes of their own after this, \
             and those of one of them are lost. Make sure that it is off."
                .to_owned(),
        );
    }
    if force {
        lines.extend(forced(view));
    }
    lines.join("\n")
}

fn forced(view: &PairView) -> Vec<String> {
    let mut lines = Vec::new();
    if view.empty {
        lines.push(
            "This server has no data of the pair: all that the other one has is lost.".into(),
        );
    } else if !view.consistent {
        lines.push(
            "This server was being brought up: its disks are half old and half new, and machines may find broken file systems."
                .into(),
        );
    }
    if view.kept.is_some() {
        lines.push(
            "What it held before is kept now, and is not after this: `--before-resync` goes back to it instead.".into(),
        );
    }
    if view.rolled_back {
        lines.push(
            "This server lost power: writes that were answered and not flushed may be lost.".into(),
        );
    }
    if let Some(most) = view.most_behind {
        lines.push(format!(
            "Mode \"async\": up to {most} changes that the other server answered may never have come here."
        ));
    }
    let heard = match view.heard_seconds {
        Some(seconds) => format!("It last heard of the other one {seconds:.0} s ago"),
        None => "It has not heard of the other one since it was started".into(),
    };
    lines.push(format!(
        "{heard}: what that one answered alone since they parted is lost."
    ));
    lines
}

fn promoted_event(event: &EventView) -> Option<Ended> {
    match event.event {
        EventKind::Primary => Some(Ended::well(event.text.clone())),
        EventKind::NotPromotable => Some(Ended::badly(event.text.clone())),
        _ => None,
    }
}

/// The other server was there, and primary.
fn follows(view: &PairView) -> Option<Ended> {
    (view.role == RoleView::Standby).then(|| no_promotion(view))
}

/// Nothing came of it in time.
fn no_promotion(view: &PairView) -> Ended {
    let trouble = view.witness.as_ref().and_then(|one| one.trouble.as_ref());
    match (view.role, trouble) {
        (RoleView::Primary, _) => {
            Ended::well(format!("this server is the primary (term {})", view.term))
        }
        (RoleView::Standby, _) => Ended::badly(format!(
            "not promoted: the other server, {}, is the primary, and this one is its standby again",
            view.peer
        )),
        (RoleView::Seeking, Some(trouble)) => Ended::badly(format!(
            "not promoted yet: the witness does not answer ({trouble}), and without it nobody knows whether the other server \
             serves the machines. It is asked until it answers"
        )),
        (RoleView::Seeking, None) => Ended::badly(
            "not promoted yet, and no reason was given: look at `bootroom standby status`",
        ),
    }
}

/// `standby handover`.
pub async fn hand_over(options: &HandOverOptions) -> anyhow::Result<Exit> {
    let control = options.target.control()?;
    let mut outcome = Outcome::listen(&control).await?;
    control.post("/v1/standby/handover").await?;
    let ended = outcome.wait(not_handed_over, handed_over).await?;
    let ended = match ended {
        Some(ended) => ended,
        None => still_here(&view(&control).await?),
    };
    report(&options.target, ended).await
}

fn not_handed_over(event: &EventView) -> Option<Ended> {
    match event.event {
        EventKind::NotHandedOver => Some(Ended::badly(event.text.clone())),
        _ => None,
    }
}

/// The other server has taken over when this one follows it.
fn handed_over(view: &PairView) -> Option<Ended> {
    let (peer, term) = (view.peer, view.term);
    match view.role {
        RoleView::Standby => Some(Ended::well(format!(
            "{peer} is the primary now (term {term}), and this server its standby"
        ))),
        RoleView::Primary if !view.paired => Some(Ended::badly(format!(
            "not handed over: {peer} was lost meanwhile"
        ))),
        _ => None,
    }
}

fn still_here(view: &PairView) -> Ended {
    Ended::badly(match view.role {
        RoleView::Primary => "not handed over: this server is still the primary",
        _ => {
            "this server made way, and the other one has not taken over yet: look at `bootroom standby status` there"
        }
    })
}

/// `standby discard`.
pub async fn discard(options: &AskedOptions) -> anyhow::Result<Exit> {
    let control = options.target.control()?;
    let before = view(&control).await?;
    if before.role == RoleView::Seeking {
        let reason = given_up(&before);
        tell_on_stderr(&reason);
        agreed(options.yes, "Give them up?")?;
    }
    let mut outcome = Outcome::listen(&control).await?;
    control.post("/v1/standby/discard").await?;
    let ended = outcome.wait(|_| None, taken_up).await?;
    let waits = Ended::well(format!(
        "given up: this server takes everything from {} once that is there",
        before.peer
    ));
    report(&options.target, ended.unwrap_or(waits)).await
}

/// What is lost by giving up this server's changes.
fn given_up(view: &PairView) -> String {
    let disks = view.split_brain.as_deref().unwrap_or_default();
    let first = match (&view.split_brain, view.own_disks) {
        (Some(_), _) => {
            "These disks were changed on this server alone; they become as they are on the other one:".to_owned()
        }
        (None, 0) => {
            "No split brain was seen. All data of this server are taken anew from the other one.".to_owned()
        }
        (None, own) => format!(
            "{own} disks that this server has from the time when it was alone are deleted. `bootroom client list` there shows \
             whose disks the other one has."
        ),
    };
    let lines = disks.iter().map(disk_line);
    [first]
        .into_iter()
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A disk and how much of it is meant.
pub fn disk_line(disk: &DifferingView) -> String {
    let name = disk.client.as_ref().map(|name| format!(" ({name})"));
    format!(
        "  {}{}: up to {}",
        disk.overlay,
        name.unwrap_or_default(),
        ByteSize(disk.bytes)
    )
}

fn taken_up(view: &PairView) -> Option<Ended> {
    (view.role == RoleView::Standby).then(|| {
        Ended::well(format!(
            "given up: {} sends its data, `bootroom standby status` there shows how far it is",
            view.peer
        ))
    })
}

/// `standby accept-witness`.
pub async fn accept_witness(options: &AskedOptions) -> anyhow::Result<Exit> {
    let control = options.target.control()?;
    let before = view(&control).await?;
    if before.witness.as_ref().is_some_and(|one| one.strange) {
        let reason = "If the other server can reach the old witness, or another record, both may become primary at once: say \
                      this on one server, while the other one is its standby or off.";
        tell_on_stderr(reason);
        agreed(
            options.yes,
            "Does the witness that answers count from here on?",
        )?;
    }
    control.post("/v1/standby/accept-witness").await?;
    report(
        &options.target,
        Ended::well("the witness that answers counts from here on"),
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(change: serde_json::Value) -> PairView {
        let mut view = serde_json::json!({
            "version": "1", "pid": 1, "uptime_seconds": 1, "server": "B", "listen": "10.0.0.2:7012",
            "peer": "10.0.0.1:7012", "mode": "sync", "most_behind": null, "alone": "continue", "role": "seeking",
            "term": 2, "linked": false, "heard_seconds": 7.0, "paired": false, "consistent": true, "empty": false,
            "rolled_back": false, "suspended": null,
            "lag": { "items": 0, "bytes": 0, "unsent_bytes": 0, "seconds": 0.0 },
            "resync": null, "verify": null, "last_verify": null, "split_brain": null, "witness": null,
            "images": { "lacking": 0, "permille": null, "trouble": null },
            "problems": [], "warnings": [], "recent": [],
        });
        let fields = view.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        serde_json::from_value(view).unwrap()
    }

    fn witness() -> serde_json::Value {
        json!({ "witness": { "place": "w", "trouble": null, "strange": false, "primary": "A", "outdated": null } })
    }

    #[test]
    fn what_a_promotion_may_cost_is_said() {
        let plain = may_be_lost(&view(json!({})), true);
        for part in ["no witness", "make sure", "7 s ago"] {
            assert!(plain.to_lowercase().contains(part), "{part}: {plain}");
        }
        let asynchronous = view(json!({ "mode": "async", "most_behind": 4096 }));
        assert!(may_be_lost(&asynchronous, true).contains("up to 4096 changes"));
        let half = view(json!({ "consistent": false }));
        assert!(may_be_lost(&half, true).contains("half old and half new"));
        let empty = view(json!({ "empty": true, "consistent": false }));
        assert!(may_be_lost(&empty, true).contains("all that the other one has is lost"));
        assert!(!may_be_lost(&view(witness()), true).contains("no witness"));
    }

    #[test]
    fn what_going_back_costs_is_said() {
        assert!(lost_by_going_back(&view(json!({ "consistent": false }))).is_err());
        let kept = json!({ "consistent": false, "kept": { "begun": 0, "last_change": 0 } });
        let text = lost_by_going_back(&view(kept)).unwrap();
        for part in ["no witness", "last changed", "10.0.0.1:7012", "lost"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn without_force_only_what_nobody_decides_is_asked() {
        assert!(asks(&view(json!({}))));
        assert!(!asks(&view(witness())), "the witness decides");
        assert!(
            asks(&view(json!({ "linked": true }))),
            "a wire that was cut"
        );
        assert!(
            !asks(&view(json!({ "heard_seconds": 0.2 }))),
            "the other one says what it is"
        );
        assert!(
            !asks(&view(json!({ "empty": true }))),
            "the first of a pair"
        );
    }

    #[test]
    fn a_demand_ends_as_the_server_became() {
        assert!(no_promotion(&view(json!({ "role": "primary" }))).done);
        let standby = view(json!({ "role": "standby" }));
        assert!(!no_promotion(&standby).done && handed_over(&standby).is_some_and(|e| e.done));
        let still = view(json!({ "role": "primary", "paired": true }));
        assert!(handed_over(&still).is_none(), "not yet");
        let lost = view(json!({ "role": "primary" }));
        assert!(handed_over(&lost).is_some_and(|ended| !ended.done));
    }

    #[test]
    fn disks_that_are_given_up_are_named() {
        let split =
            json!([{ "overlay": "525400120001-debian", "client": "r12-01", "bytes": 8 << 20 }]);
        let text = given_up(&view(json!({ "split_brain": split })));
        assert!(
            text.contains("525400120001-debian (r12-01): up to 8 MiB"),
            "{text}"
        );
        assert!(given_up(&view(json!({}))).contains("No split brain"));
    }
}
