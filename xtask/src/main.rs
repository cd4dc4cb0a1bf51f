//! One binary for every chore.
fn main() {}
