//! Changes of the host's files that the guest's programs are to hear of: the monitor's file server
//! sends them one at a time, as frames ([`crate::frame`]), and the agent repeats each.
//!
//! ```text
//!  monitor ── connects to CHANGES_PORT ──▶ agent
//!          ◀── the id of the thread that repeats (u32, little-endian) ──
//!          ── Change ──▶        ◀── one byte: it was repeated ──
//! ```

use serde::{Deserialize, Serialize};

/// A file name, as the kernel has it.
pub type Name = Vec<u8>;

/// What happened in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub folder: Place,
    /// What.
    pub event: ChangeEvent,
}

/// A folder that the guest knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where it is now, below the root of the shares.
    pub path: Name,
    /// Its inode number, in case another is there by then.
    pub inode: u64,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeEvent {
    /// There is something by a name.
    Appeared {
        /// The name.
        name: Name,
        /// Its type, as `st_mode` has it.
        mode: u32,
    },
    /// There is nothing by a name any more.
    Vanished {
        /// The name.
        name: Name,
        /// It was a folder.
        is_folder: bool,
    },
    /// It has another name.
    Moved {
        /// The old name.
        from: Name,
        /// The new name's folder.
        to_folder: Place,
        /// The new name.
        to: Name,
    },
    /// Its content is another.
    Modified {
        /// The name.
        name: Name,
    },
    /// Its attributes are others.
    Attributes {
        /// The name.
        name: Name,
    },
    /// Who wrote it has closed it.
    Written {
        /// The name.
        name: Name,
    },
}
