//! What the witness has to do: what goes over its wire, as its kernel counts it.

use std::net::TcpStream;
use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::Side;
use bootroom_tests::pair::witness::Traffic;

use super::stage::Stage;

const IDLE: Duration = Duration::from_secs(20);

/// Prints it.
pub fn run(stage: &mut Stage) {
    stage.pair.wait_paired(Side::A);
    let before = stage.pair.witness.traffic();
    std::thread::sleep(IDLE);
    let after = stage.pair.witness.traffic();
    let per_minute = 60.0 / IDLE.as_secs_f64();
    println!(
        "witness, both servers there: {:.0} bytes and {:.0} packets a minute",
        (after.bytes - before.bytes) as f64 * per_minute,
        (after.packets - before.packets) as f64 * per_minute
    );
    let spent = fail_over(stage);
    println!(
        "witness, a failover: {} bytes and {} packets in all",
        spent.bytes, spent.packets
    );
    stage.pair.host_mut(Side::A).start();
    stage.pair.wait_paired(Side::B);
}

/// Nobody asks the servers how they are meanwhile: they would ask the witness.
fn fail_over(stage: &mut Stage) -> Traffic {
    let before = stage.pair.witness.traffic();
    stage.pair.host_mut(Side::A).kill();
    let place = (Side::B.address(), stage.mirrored.socket().1);
    stage.seat.namespace().inside(|| {
        wait_for("B to serve", Duration::from_secs(30), || {
            TcpStream::connect(place).ok()
        });
    });
    let after = stage.pair.witness.traffic();
    Traffic {
        bytes: after.bytes - before.bytes,
        packets: after.packets - before.packets,
    }
}
