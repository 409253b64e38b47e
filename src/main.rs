//! Parse arguments, call app, exit code.
fn main() {}
