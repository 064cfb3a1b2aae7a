mod clients;
mod config;
mod trace;
fn main() {}
