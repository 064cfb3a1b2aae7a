//! Things happen to a pair at random, one after the other and sometimes two at once, while two machines' disks are under
//! load. `BOOTROOM_CHAOS_SEED` repeats a run, `BOOTROOM_CHAOS_ROUNDS` says how long it is.

use std::str::FromStr;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::disk::Disk;
use bootroom_tests::pair::seat::client;
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Kill,
    Stop,
    Freeze,
    Cut,
    KillWitness,
}

const BLOWS: [Blow; 5] = [
    Blow::Kill,
    Blow::Stop,
    Blow::Freeze,
    Blow::Cut,
    Blow::KillWitness,
];

fn number<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// The pair, and what is wrong with it at the moment.
struct Scene {
    pair: Pair,
    disks: Vec<Disk>,
    frozen: Vec<Side>,
    cut: Vec<Side>,
    random: StdRng,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let names = [(1, "one"), (2, "two")];
        let room: String = names
            .map(|(number, name)| client(number, name, "tiny"))
            .concat();
        let pair = Pair::new(&Plan {
            room: &room,
            ..Plan::default()
        });
        let disks = names.map(|(number, name)| pair.load(number, name, 4));
        Self {
            pair,
            disks: disks.into(),
            frozen: Vec::new(),
            cut: Vec::new(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    fn strike(&mut self, blow: Blow, side: Side) {
        match blow {
            Blow::Kill if self.pair.host(side).is_running() => self.pair.host_mut(side).kill(),
            Blow::Stop if self.pair.host(side).is_running() && !self.frozen.contains(&side) => {
                assert!(self.pair.host_mut(side).stop().success());
            }
            Blow::Freeze if self.pair.host(side).is_running() && !self.frozen.contains(&side) => {
                self.pair.host(side).freeze();
                self.frozen.push(side);
            }
            Blow::Cut if !self.cut.contains(&side) => {
                self.pair.host(side).cut();
                self.cut.push(side);
            }
            Blow::KillWitness => self.pair.witness.kill(),
            _ => {}
        }
        let running = |side: &Side| self.pair.host(*side).is_running();
        self.frozen.retain(running);
    }

    /// Everything is whole again, in any order.
    fn mend(&mut self) {
        let mut steps = [0, 1, 2, 3];
        rand::seq::SliceRandom::shuffle(&mut steps[..], &mut self.random);
        for step in steps {
            match step {
                0 => std::mem::take(&mut self.frozen)
                    .iter()
                    .for_each(|side| self.pair.host(*side).thaw()),
                1 => std::mem::take(&mut self.cut)
                    .iter()
                    .for_each(|side| self.pair.host(*side).join()),
                2 => {
                    self.pair.witness.kill();
                    self.pair.witness.start();
                }
                _ => self.start_both(),
            }
        }
    }

    fn start_both(&mut self) {
        for side in Side::BOTH {
            if !self.pair.host(side).is_running() {
                self.pair.host_mut(side).start();
            }
        }
    }

    /// Both servers hold the same, and one of them serves: which.
    fn wait_whole(&self) -> Side {
        wait_for("the pair to be whole", LIMIT * 2, || {
            let primary = self.pair.primary()?;
            let whole = self.pair.host(primary).is_paired();
            let other = self.pair.host(primary.other());
            (whole && other.follows()).then_some(primary)
        })
    }

    /// The machines go on, or have stood still for longer than a promotion takes.
    fn let_it_sink_in(&self) {
        self.disks[0].mark();
        let before = self.disks[0].report().answered;
        wait_for("something to come of it", LIMIT, || {
            let report = self.disks[0].report();
            (report.answered > before + 2000 || report.pause > 4.0).then_some(())
        });
    }

    fn round(&mut self, number: usize) {
        let blows = match self.random.random_bool(0.4) {
            true => 2,
            false => 1,
        };
        for _ in 0..blows {
            let blow = *BLOWS.choose(&mut self.random).expect("there are some");
            let side = *Side::BOTH.choose(&mut self.random).expect("there are two");
            println!("{number}: {blow:?} {side:?}");
            self.strike(blow, side);
        }
        if self.random.random_bool(0.7) {
            self.let_it_sink_in();
        }
        self.mend();
        self.pair.compare(self.wait_whole());
        for disk in &self.disks {
            disk.wait_for_answers(50);
            disk.verify_unharmed();
        }
    }
}

#[test]
#[ignore = "long: make test-full"]
fn nothing_answered_is_lost_whatever_happens() {
    let seed = number("BOOTROOM_CHAOS_SEED").unwrap_or_else(rand::random);
    let rounds = number("BOOTROOM_CHAOS_ROUNDS").unwrap_or(20);
    println!("BOOTROOM_CHAOS_SEED={seed}");
    let mut scene = Scene::new(seed);
    for number in 0..rounds {
        scene.round(number);
    }
}
