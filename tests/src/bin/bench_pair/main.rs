//! A mirrored disk beside an unmirrored one, on the same box: two servers of a pair and one that is alone, each in a network
//! of its own behind one switch, get the same lean load from this program.
//!
//! `bench_pair [load] [resync] [witness] [ROW]...` prints one line for each row, when it is done; a row of the loads by its
//! name (`"write 4k d32"`) is done without the others. Loads: the medians of several rounds in
//! which both take turns, and the ratio. One box carries both servers of the pair and the load, which two boxes would share:
//! the ratios are worse than they would be there, and the round trip is shorter.

#[path = "../bench_nbd/client.rs"]
#[allow(dead_code)] // What the other benchmark needs.
mod client;
mod loads;
mod resync;
mod stage;
mod traffic;

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    let mut stage = stage::Stage::new();
    let rows = loads::rows(&wanted);
    if wants("load") || !rows.is_empty() {
        loads::run(&stage, &rows)?;
    }
    if wants("resync") {
        resync::run(&mut stage)?;
    }
    if wants("witness") {
        traffic::run(&mut stage);
    }
    Ok(())
}
