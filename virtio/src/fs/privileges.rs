//! The set-id bits of files that are written to.
//!
//! Who has `CAP_FSETID` in the guest writes to a file without a loss of its bits, but the host's
//! kernel asks for the capability in its first user namespace, which no server of ours has. So the
//! bits are given back: for a moment they are not there.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, chmodat};
use rustix::path::DecInt;

use super::attributes::{SET_ID, look};
use super::repeat::Own;
use super::tree::{State, Tree};

impl Tree {
    /// Does something to a file's content, with the loss of its set-id bits or without.
    pub(super) fn changing<T>(
        &self,
        state: &mut State,
        inode: u64,
        kill_privileges: bool,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let known = state.inodes.get(inode)?;
        let kept = if known.set_id && !kill_privileges {
            Some((known.file.try_clone()?, u32::from(look(&known.file)?.stx_mode) & SET_ID))
        } else {
            None
        };
        let done = state.own(inode, Own::File(inode), |state| {
            self.identity.keeping_fsetid(!kill_privileges, || act(state))
        })?;
        if let Some((file, bits)) = kept {
            self.give_back(&file, bits)?;
        }
        Ok(done)
    }

    fn give_back(&self, file: &OwnedFd, bits: u32) -> io::Result<()> {
        let mode = u32::from(look(file)?.stx_mode);
        if mode & bits == bits {
            return Ok(());
        }
        let mode = Mode::from_raw_mode((mode | bits) & 0o7777);
        let name = DecInt::from_fd(file);
        Ok(chmodat(&self.descriptors, name.as_c_str(), mode, AtFlags::empty())?)
    }
}
