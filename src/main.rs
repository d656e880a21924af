//! The `handclip` binary.

fn main() {}
