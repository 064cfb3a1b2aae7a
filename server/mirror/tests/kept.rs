//! What the target of a resync held before: when it is kept, given up, and gone back to.

use bytes::Bytes;
use mirror::{
    Action, BlockRange, Body, Command, Config, Durable, Event, Fault, Generation, Incarnation,
    Item, Message, Moment, Node, NodeId, Notice, PersistId, Role, Seq, SessionId, Term, Ticket,
    VolumeId, WhyNot, Work, Yield,
};

const RUN: Incarnation = Incarnation(2);

fn name(number: u64) -> Generation {
    Generation {
        of: Incarnation(1),
        number,
    }
}

/// A server that has data of the pair.
fn has_data() -> Durable {
    Durable {
        term: Term(2),
        history: vec![name(1)],
        ..Durable::default()
    }
}

fn half_old() -> Durable {
    Durable {
        inconsistent: true,
        kept: Some(name(7)),
        ..has_data()
    }
}

/// Server B, without a witness.
struct Server {
    node: Node,
    now: u64,
    done: Vec<Action>,
}

impl Server {
    fn start(durable: Durable) -> Self {
        let config = Config {
            witness: false,
            ..Config::default()
        };
        Self {
            node: Node::start(NodeId::B, config, durable, false, RUN, Moment(0)),
            now: 0,
            done: Vec::new(),
        }
    }

    fn tell(&mut self, event: Event) {
        self.done = self.node.handle(Moment(self.now), event);
    }

    fn hear(&mut self, body: Body) {
        self.hear_in(Term(2), body);
    }

    fn hear_in(&mut self, term: Term, body: Body) {
        let from = NodeId::A;
        self.tell(Event::Received(Message { from, term, body }));
    }

    fn open(&mut self, number: u64) -> SessionId {
        let session = SessionId {
            of: Incarnation(1),
            number,
        };
        self.hear(Body::Open { session, to: RUN });
        session
    }

    fn persisted(&self) -> Option<(PersistId, Durable)> {
        self.done.iter().find_map(|action| match action {
            Action::Persist(id, state) => Some((*id, (**state).clone())),
            _ => None,
        })
    }

    fn work(&self, wanted: fn(&Work) -> bool) -> Option<Ticket> {
        self.done.iter().find_map(|action| match action {
            Action::Disk(ticket, work) if wanted(work) => Some(*ticket),
            _ => None,
        })
    }

    fn noted(&self, wanted: Notice) -> bool {
        let is = |action: &Action| matches!(action, Action::Note(notice) if *notice == wanted);
        self.done.iter().any(is)
    }

    /// Says that everything asked for so far is durable.
    fn settle(&mut self) {
        let (id, _) = self.persisted().expect("something was to be made durable");
        self.tell(Event::Persisted(id));
    }
}

#[test]
fn the_first_whole_state_is_kept_and_no_later_one() {
    let mut server = Server::start(has_data());
    server.open(1);
    let kept = server.persisted().unwrap().1.kept;
    assert!(kept.is_some());
    assert_eq!(server.node.keeps(), kept);
    server.settle();
    server.tell(Event::LinkDown);
    server.open(2);
    assert_eq!(server.persisted().unwrap().1.kept, kept);
    let mut empty = Server::start(Durable::default());
    empty.open(1);
    assert_eq!(empty.persisted().unwrap().1.kept, None);
    let mut torn = Server::start(Durable {
        kept: None,
        ..half_old()
    });
    torn.open(1);
    assert_eq!(torn.persisted().unwrap().1.kept, None, "half old already");
}

#[test]
fn what_there_is_no_room_for_is_given_up_durably_and_then_forgotten() {
    let mut server = Server::start(half_old());
    let session = server.open(1);
    server.settle();
    let item = Item::Restore {
        volume: VolumeId(1),
        range: BlockRange { start: 0, end: 1 },
        data: Bytes::new(),
    };
    let seq = Seq(1);
    server.hear(Body::Ship { session, seq, item });
    let restore = server
        .work(|work| matches!(work, Work::Restore { .. }))
        .unwrap();
    server.tell(Event::Done(restore, Err(Fault::NoSpace)));
    assert!(server.noted(Notice::KeptNoLonger));
    assert_eq!(server.persisted().unwrap().1.kept, None);
    assert_eq!(server.node.keeps(), Some(name(7)), "until that is durable");
    server.settle();
    let forget = server.work(|work| matches!(work, Work::Forget)).unwrap();
    assert_eq!(server.node.keeps(), None);
    server.now += 60_000;
    server.open(2);
    assert_eq!(
        server.node.status().role,
        Role::Seeking,
        "not before that is done"
    );
    server.tell(Event::Done(forget, Ok(Yield::Nothing)));
    assert_eq!(server.node.status().role, Role::Standby);
    assert_eq!(server.persisted().unwrap().1.kept, None);
}

#[test]
fn nothing_kept_is_nothing_to_go_back_to() {
    let mut server = Server::start(has_data());
    server.tell(Event::Command(Command::GoBack));
    assert!(server.noted(Notice::NotPromotable(WhyNot::NothingKept)));
}

/// Says so and lets its promise run out.
fn go_back(server: &mut Server) -> Ticket {
    server.tell(Event::Command(Command::GoBack));
    server.now += 10_000;
    server.tell(Event::Tick);
    server.settle();
    assert!(server.work(|work| matches!(work, Work::GoBack)).is_none());
    let (_, state) = server.persisted().unwrap();
    assert!(!state.history.is_empty() && !state.history.contains(&name(1)));
    assert_eq!((state.inconsistent, state.complete), (true, false));
    assert_eq!(state.kept, Some(name(7)));
    server.settle();
    server.work(|work| matches!(work, Work::GoBack)).unwrap()
}

#[test]
fn who_goes_back_begins_a_past_of_its_own() {
    let mut server = Server::start(half_old());
    let back = go_back(&mut server);
    let status = server.node.status();
    assert_eq!((status.role, status.term), (Role::Primary, Term(3)));
    server.tell(Event::Done(back, Ok(Yield::Nothing)));
    let (_, state) = server.persisted().unwrap();
    assert_eq!((state.kept, state.inconsistent), (None, false));
    assert_eq!(state.history.len(), 1);
    assert!(!state.history.contains(&name(1)), "the other one has more");
    assert!(server.work(|work| matches!(work, Work::Forget)).is_none());
    server.settle();
    assert!(server.work(|work| matches!(work, Work::Forget)).is_some());
}

#[test]
fn a_disk_that_does_not_go_back_leaves_it_as_it_was() {
    let mut server = Server::start(half_old());
    let back = go_back(&mut server);
    server.tell(Event::Done(back, Err(Fault::Broken)));
    assert!(server.noted(Notice::NotPromotable(WhyNot::NotBack)));
    let status = server.node.status();
    assert_eq!((status.role, status.consistent), (Role::Seeking, false));
    assert!(status.kept, "it can be tried again");
    go_back(&mut server);
}

/// A has raised its term, and offers a session to who sent it that greeting.
fn offer(server: &mut Server, to: Incarnation) -> Role {
    let session = SessionId {
        of: Incarnation(1),
        number: 1,
    };
    let (from, term) = (NodeId::A, Term(8));
    let body = Body::Open { session, to };
    server.tell(Event::Received(Message { from, term, body }));
    server.node.status().role
}

/// As whom the server greets now.
fn greeting(server: &mut Server) -> Incarnation {
    server.now += 250;
    server.tell(Event::Tick);
    let hello = server.done.iter().find_map(|action| match action {
        Action::Send(Message {
            body: Body::Hello(hello),
            ..
        }) => hello.incarnation,
        _ => None,
    });
    hello.expect("it greets")
}

#[test]
fn an_offer_to_who_had_not_begun_to_go_back_counts_no_more_not_even_after_a_discard() {
    let mut server = Server::start(half_old());
    assert_eq!(greeting(&mut server), RUN);
    let back = go_back(&mut server);
    server.tell(Event::Done(back, Err(Fault::Broken)));
    let stray = greeting(&mut server);
    assert_eq!(
        offer(&mut server, RUN),
        Role::Seeking,
        "a late greeting's fruit"
    );
    server.tell(Event::Command(Command::Discard));
    server.settle();
    let forget = server.work(|work| matches!(work, Work::Forget)).unwrap();
    server.tell(Event::Done(forget, Ok(Yield::Nothing)));
    for late in [RUN, stray] {
        assert_eq!(offer(&mut server, late), Role::Seeking);
    }
    let empty = greeting(&mut server);
    assert_eq!(offer(&mut server, empty), Role::Standby);
}

#[test]
fn an_offer_to_who_was_not_primary_yet_counts_no_more_when_it_was() {
    let mut server = Server::start(has_data());
    server.tell(Event::Command(Command::Promote { force: true }));
    server.now += 10_000;
    server.tell(Event::Tick);
    server.settle();
    server.settle();
    assert_eq!(server.node.status().role, Role::Primary);
    server.hear_in(
        Term(8),
        Body::Hello(mirror::Hello {
            primary: true,
            ..mirror::Hello::default()
        }),
    );
    assert_eq!(server.node.status().role, Role::Seeking);
    assert_eq!(offer(&mut server, RUN), Role::Seeking, "it has more since");
}

#[test]
fn what_is_discarded_is_not_gone_back_to() {
    let mut server = Server::start(half_old());
    server.tell(Event::Command(Command::GoBack));
    server.tell(Event::Command(Command::Discard));
    server.settle();
    server.now += 60_000;
    server.tell(Event::Tick);
    assert_eq!(server.node.status().role, Role::Seeking);
    assert!(server.persisted().is_none(), "no term is raised");
}
