//! The device as a driver and a host see it: packets on one side, descriptors on the other.

mod churn;
mod closing;
mod flow;
mod guest;
mod handshake;
mod hostile;
mod restore;
mod tcp;
