//! A sandbox that is a microVM: a monitor process with a guest kernel.
