//! `bootroom-attach`: keeps a network disk attached for as long as the machine runs.

fn main() {}
