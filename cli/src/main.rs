//! The `sdq` command.
fn main() {}
