//! What a seed decides before anything happens.

use mirror::{Alone, Config, Millis, Mode, Timing};

use crate::random::Random;

/// As the defaults, but faster, so that more happens.
const TIMING: Timing = Timing {
    ping: Millis(100),
    silence: Millis(400),
    promise: Millis(800),
    lease: Millis(640),
    courtesy: Millis(200),
    ask: Millis(200),
    stall: Millis(3000),
    flush: Millis(300),
    rest: Millis(500),
    hang: Millis(4000),
};

/// What a seed decides.
pub struct Setup {
    pub config: Config,
    pub volumes: u64,
    pub drift: [i64; 2],
    /// The clock of a stopped machine stands still, as that of a virtual machine does.
    pub clocks_stop: bool,
    /// Between two failures on average, in microseconds.
    pub fault_every: u64,
    pub active_for: u64,
    /// How long a client waits for any answer before it tries the next server, in microseconds.
    pub patience: u64,
    /// One in so many targets of a resync finds that it cannot read a volume; 0 for none.
    pub damages: u64,
}

impl Setup {
    pub fn new(random: &mut Random) -> Self {
        let mut aside = random.aside();
        let (patient, damaged) = (aside.one_in(4), aside.one_in(4));
        let lag = random.between(1, 8) as usize;
        let config = Config {
            mode: if random.one_in(7) {
                Mode::Async { lag }
            } else {
                Mode::Sync
            },
            alone: if random.one_in(8) {
                Alone::Suspend
            } else {
                Alone::Continue
            },
            witness: true,
            region: 2,
            chunk: random.between(1, 3),
            chunks: random.between(1, 8) as usize,
            window: random.between(2, 40) as usize,
            timing: TIMING,
        };
        assert_eq!(config.check(), Ok(()));
        let drift = [
            random.between(0, 80_000) as i64 - 40_000,
            random.between(0, 80_000) as i64 - 40_000,
        ];
        Self {
            config,
            volumes: 2,
            drift,
            clocks_stop: random.one_in(3),
            fault_every: random.between(80_000, 900_000),
            active_for: random.between(2_000_000, 8_000_000),
            damages: if damaged { 6 } else { 0 },
            patience: if patient { 8_000_000 } else { 700_000 },
        }
    }

    pub fn is_sync(&self) -> bool {
        self.config.mode == Mode::Sync
    }
}
