//! The tree as requests see it, and the device as a driver sees it.
//!
//! To be run as root: ownership is part of what is tested.

mod changes;
mod confinement;
mod device;
mod devices;
mod files;
mod fixture;
mod folders;
mod ownership;
mod restore;
mod room;
mod shares;
mod unnamed;
