//! Plans: what a sandbox will do, made from what the spec says. Pure: no system call is made here,
//! so that a plan can be compared with a golden copy.

pub mod hardening;
