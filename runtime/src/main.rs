//! `cofferdam`: the command line of the runtime.

fn main() {}
