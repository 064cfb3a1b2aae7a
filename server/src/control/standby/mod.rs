//! The pair in the control API.

pub mod model;
mod problems;
mod view;

use std::{sync::Arc, time::SystemTime};

use axum::{
    Router,
    extract::{Query, State},
    response::Response,
    routing::{get, post},
};
use futures_util::stream;
use mirror::{Command, Notice, Role};
use tokio::sync::broadcast::error::RecvError;

use super::api::{Server, answer, failure, lines};
use crate::{
    clients::error::{Error, ErrorKind},
    mirror::{driver::Mirror, pair::Pair},
};
use model::{Asked, PromoteRequest};
pub use view::line;

/// What is asked about the pair.
pub(super) fn routes() -> Router<Server> {
    Router::new()
        .route("/v1/standby", get(show))
        .route("/v1/standby/events", get(events))
        .route("/v1/standby/promote", post(promote))
        .route("/v1/standby/handover", post(hand_over))
        .route("/v1/standby/verify", post(verify))
        .route("/v1/standby/discard", post(discard))
        .route("/v1/standby/accept-witness", post(accept_witness))
}

async fn show(State(server): State<Server>) -> Response {
    answer(move || Ok(view::pair(&server.desk, server.desk.pair()?))).await
}

async fn promote(State(server): State<Server>, Query(request): Query<PromoteRequest>) -> Response {
    match wanted(request) {
        Ok(command) => demand(server, command).await,
        Err(why) => failure(&Error::new(ErrorKind::Refused, why)),
    }
}

/// What is demanded by that.
fn wanted(request: PromoteRequest) -> Result<Command, &'static str> {
    let PromoteRequest {
        force,
        before_resync,
    } = request;
    match (before_resync, force) {
        (true, false) => Err(
            "going back to what was here before the resync loses what was answered since: it needs force",
        ),
        (true, true) => Ok(Command::GoBack),
        (false, force) => Ok(Command::Promote { force }),
    }
}

async fn hand_over(State(server): State<Server>) -> Response {
    demand(server, Command::HandOver).await
}

async fn verify(State(server): State<Server>) -> Response {
    demand(server, Command::Verify).await
}

async fn discard(State(server): State<Server>) -> Response {
    demand(server, Command::Discard).await
}

async fn accept_witness(State(server): State<Server>) -> Response {
    demand(server, Command::AcceptWitness).await
}

async fn demand(server: Server, command: Command) -> Response {
    answer(move || {
        let pair = server.desk.pair()?;
        let status = pair.mirror.status();
        if let Some(why) = refusal(pair, command) {
            return Err(Error::new(ErrorKind::Refused, why));
        }
        pair.mirror.command(command);
        Ok(Asked {
            term: status.term.0,
        })
    })
    .await
}

/// Why there is no point in a demand, where that can be seen beforehand. The machine itself decides.
fn refusal(pair: &Pair, command: Command) -> Option<String> {
    let status = pair.mirror.status();
    let peer = pair.settings.peer.value;
    let text = match (command, status.role) {
        (Command::Promote { .. } | Command::GoBack, Role::Primary) => "this server is the primary already".into(),
        (Command::GoBack, _) if !status.kept => "nothing is kept here from before a resync".into(),
        (Command::HandOver, Role::Primary) if !status.paired => {
            format!("the other server, {peer}, does not hold all that this one has: it cannot take over")
        }
        (Command::Verify, Role::Primary) if !status.paired => {
            "both servers have to be in step: look at `bootroom standby status`".into()
        }
        (Command::HandOver | Command::Verify, Role::Standby | Role::Seeking) => {
            format!("this server is not the primary: say it on the other one, {peer}")
        }
        (Command::Discard, Role::Primary) => {
            "this server is the primary: its changes are the ones that count. To give them up, say `bootroom standby promote \
             --force` on the other one first"
                .into()
        }
        (Command::Discard, Role::Standby) => {
            "this server is the standby, and takes everything from the primary anyway".into()
        }
        (Command::AcceptWitness, _) if !status.strange_witness => {
            "no other witness than the agreed one has answered".into()
        }
        _ => return None,
    };
    Some(text)
}

async fn events(State(server): State<Server>) -> Response {
    let mirror = match server.desk.pair() {
        Ok(pair) => pair.mirror.clone(),
        Err(error) => return failure(&error),
    };
    let notices = mirror.notices();
    let next = async |(mirror, mut notices, stop): (Arc<Mirror>, _, _)| {
        let notice = next_notice(&mut notices, &stop).await?;
        let event = view::event(SystemTime::now(), notice, mirror.say(notice));
        Some((event, (mirror, notices, stop)))
    };
    lines(stream::unfold((mirror, notices, server.stop.clone()), next))
}

/// `None` at the end of the server.
async fn next_notice(
    notices: &mut tokio::sync::broadcast::Receiver<Notice>,
    stop: &tokio_util::sync::CancellationToken,
) -> Option<Notice> {
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            () = stop.cancelled() => return None,
        };
        match notice {
            Ok(notice) => return Some(notice),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_back_without_force() {
        let asked = |force, before_resync| {
            wanted(PromoteRequest {
                force,
                before_resync,
            })
        };
        assert!(asked(false, true).is_err_and(|why| why.contains("force")));
        assert_eq!(asked(true, true), Ok(Command::GoBack));
        for force in [false, true] {
            assert_eq!(asked(force, false), Ok(Command::Promote { force }));
        }
    }
}
