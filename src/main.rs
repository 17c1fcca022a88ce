//! The `gearmand` program.
fn main() {}
