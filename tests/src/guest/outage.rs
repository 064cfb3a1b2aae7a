//! What happens to servers and networks: the events that every client of a network disk is put through.

use std::time::Duration;

use super::disk::DiskServer;
use super::scene::Scene;
use crate::deadline::wait_for;
use rustix::process::Signal;

/// One kind of event. It is over when the server can be reached again.
#[derive(Clone, Copy)]
pub struct Outage {
    /// For the table of pauses.
    pub name: &'static str,
    /// Makes it happen.
    pub happen: fn(&mut Scene),
    /// How soon after its end the disk has to work again.
    pub back_within: Duration,
}

/// The server listens again: the agent dials all the time.
const DIALLED: Duration = Duration::from_secs(2);
/// Nothing ended the connection, but packets were lost: TCP sends them again after as long as the outage took, unless
/// the agent's patience of ten seconds ends first, which it finds within half a second; and only after up to a second and a
/// half more does the kernel see that a request has to be sent again.
const SENT_AGAIN: Duration = Duration::from_secs(8);
/// An attempt that was under way in the dark has to be given up first.
const GIVEN_UP: Duration = Duration::from_secs(4);

/// The server is killed and started again at once.
pub const RESTART: Outage = Outage {
    name: "server restarted",
    happen: |scene| {
        scene.server.kill();
        scene.server.up();
    },
    back_within: DIALLED,
};

/// The server crashes and stays away for a while.
pub const KILLED: Outage = Outage {
    name: "kill -9, back after 10 s",
    happen: |scene| killed_for(scene, 10),
    back_within: DIALLED,
};

/// The same for a minute.
pub const KILLED_FOR_A_MINUTE: Outage = Outage {
    name: "kill -9, back after 60 s",
    happen: |scene| killed_for(scene, 60),
    back_within: DIALLED,
};

/// The server stands still, with its connections open, and goes on.
pub const FROZEN: Outage = Outage {
    name: "frozen for 20 s (SIGSTOP)",
    happen: |scene| frozen_for(scene, 20),
    back_within: GIVEN_UP,
};

/// The server stands still for so short that it may just be slow.
pub const SLOW: Outage = Outage {
    name: "frozen for 6 s (SIGSTOP)",
    happen: |scene| frozen_for(scene, 6),
    back_within: DIALLED,
};

/// The machine's cable is pulled, for so short that the connection could survive.
pub const CABLE_SHORT: Outage = Outage {
    name: "cable out for 5 s",
    happen: |scene| unplugged_for(scene, 5),
    back_within: SENT_AGAIN,
};

/// The machine's cable is pulled.
pub const CABLE: Outage = Outage {
    name: "cable out for 45 s",
    happen: |scene| unplugged_for(scene, 45),
    back_within: GIVEN_UP,
};

/// The machine's cable is pulled, and nobody comes for a while.
pub const CABLE_LONG: Outage = Outage {
    name: "cable out for 10 min",
    happen: |scene| unplugged_for(scene, 600),
    back_within: GIVEN_UP,
};

/// The server comes back at another address.
pub const MOVED: Outage = Outage {
    name: "server moved to another address",
    happen: |scene| {
        scene.server.kill();
        let options = scene.server.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        scene.server = DiskServer::start(&scene.image, scene.second, &options);
    },
    back_within: DIALLED,
};

/// One restart after another.
pub const TWENTY_RESTARTS: Outage = Outage {
    name: "20 restarts in a row",
    happen: |scene| {
        for _ in 0..20 {
            (RESTART.happen)(scene);
            // Some get through the handshake, some do not.
            std::thread::sleep(Duration::from_millis(u64::from(rand::random::<u8>()) * 8));
        }
    },
    back_within: DIALLED,
};

/// Every connection is reset, wherever in a message it is. For a scene with a relay.
pub const RESET: Outage = Outage {
    name: "TCP reset",
    happen: |scene| {
        std::thread::sleep(Duration::from_millis(u64::from(rand::random::<u8>()) * 4));
        let relay = scene.relay.as_ref().expect("the scene has a relay");
        wait_for("a connection to reset", Duration::from_secs(10), || {
            (relay.reset() > 0).then_some(())
        });
    },
    back_within: DIALLED,
};

fn killed_for(scene: &mut Scene, seconds: u64) {
    scene.server.kill();
    hold(seconds);
    scene.server.up();
}

fn frozen_for(scene: &mut Scene, seconds: u64) {
    scene.server.signal(Signal::STOP);
    hold(seconds);
    scene.server.signal(Signal::CONT);
}

fn unplugged_for(scene: &mut Scene, seconds: u64) {
    scene.guest.set_link(false);
    hold(seconds);
    scene.guest.set_link(true);
}

/// The event itself is that time passes.
pub fn hold(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}
