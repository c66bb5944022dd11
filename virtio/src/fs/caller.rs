//! Acting for a user of the guest, and without a privilege of the server's.
//!
//! What a process in the guest may do is decided in the guest. The server does it as root of its
//! user namespace, except that what it makes belongs to the caller from the first moment: it takes
//! the caller's ids for that, and keeps the right to write into the folder (the caller may have it
//! by a group that the request does not name).
//!
//! The thread must come back to itself: where the kernel refuses that, the process ends.

use std::io;

use fuse_backend_rs::api::filesystem::Context;
use rustix::fs::{Gid, Uid};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, capabilities_secure_bits,
    set_capabilities, set_thread_res_gid, set_thread_res_uid,
};

/// What the server's thread is when it acts for nobody.
#[derive(Debug)]
pub(super) struct Identity {
    capabilities: CapabilitySets,
    /// A change of user leaves the capabilities as they are.
    fixed: bool,
}

impl Identity {
    /// The calling thread's.
    pub(super) fn current() -> io::Result<Self> {
        let bits = capabilities_secure_bits()?;
        let fixed = bits.contains(CapabilitiesSecureBits::NO_SETUID_FIXUP);
        Ok(Self { capabilities: capabilities(None)?, fixed })
    }

    /// Does something that makes a file, as its owner.
    pub(super) fn as_owner<T>(
        &self,
        owner: &Context,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if owner.uid == 0 && owner.gid == 0 {
            return act();
        }
        let done = self.become_owner(owner).and_then(|()| act());
        self.return_to_self();
        done
    }

    /// Does something with or without the right to keep set-user-ID and set-group-ID bits.
    pub(super) fn keeping_fsetid<T>(
        &self,
        keeping: bool,
        act: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if keeping {
            return act();
        }
        let effective = self.capabilities.effective - CapabilitySet::FSETID;
        set_capabilities(None, CapabilitySets { effective, ..self.capabilities })?;
        let done = act();
        or_abort(set_capabilities(None, self.capabilities));
        done
    }

    fn become_owner(&self, owner: &Context) -> io::Result<()> {
        // u32::MAX means "leave it" to the kernel, and is nobody's id.
        if owner.uid == u32::MAX || owner.gid == u32::MAX {
            return Err(rustix::io::Errno::INVAL.into());
        }
        set_thread_res_gid(None, Gid::from_raw(owner.gid), None)?;
        set_thread_res_uid(None, Uid::from_raw(owner.uid), None)?;
        if owner.uid != 0 && !self.fixed {
            let effective = self.capabilities.effective & CapabilitySet::DAC_OVERRIDE;
            set_capabilities(None, CapabilitySets { effective, ..self.capabilities })?;
        }
        Ok(())
    }

    fn return_to_self(&self) {
        or_abort(set_thread_res_uid(None, Uid::ROOT, None));
        or_abort(set_thread_res_gid(None, Gid::ROOT, None));
        if !self.fixed {
            or_abort(set_capabilities(None, self.capabilities));
        }
    }
}

/// To go on as somebody else would give the guest's next request that one's rights.
fn or_abort(done: rustix::io::Result<()>) {
    if let Err(error) = done {
        tracing::error!(%error, "the file server cannot return to its own identity");
        std::process::abort();
    }
}
