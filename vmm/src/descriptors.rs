//! What the monitor inherits: the descriptors that its `VmConfig` names, and no other.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use cofferdam_protocol::bounds::MAX_VM_CONFIG_BYTES;
use cofferdam_protocol::frame::{self, FrameError};
use cofferdam_protocol::vm_config::{
    Descriptor, InvalidVmConfig, RestoreFiles, ShareKind, VmConfig,
};

use crate::sys;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("The configuration cannot be read")]
    Read(#[source] FrameError),
    /// A value is out of its bounds.
    #[error("The configuration is invalid")]
    Invalid(#[source] InvalidVmConfig),
    /// A descriptor is not there, or named twice.
    #[error(
        "The configuration names descriptor {descriptor} for the {what}, which is not open or in use"
    )]
    Descriptor {
        /// Its number.
        descriptor: RawFd,
        /// What it was to be.
        what: &'static str,
    },
    /// The descriptors that are not named cannot be closed.
    #[error("The other inherited descriptors cannot be closed")]
    CloseOthers(#[source] std::io::Error),
}

/// One virtual machine's configuration, with the descriptors that came with it.
#[derive(Debug)]
pub struct Inheritance {
    /// The configuration; the numbers in it are no longer of use.
    pub config: VmConfig,
    /// The guest kernel.
    pub kernel: File,
    /// The guest's first file system.
    pub initramfs: File,
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// The listening control socket.
    pub control: OwnedFd,
    /// Where the boot report goes.
    pub report: File,
    /// Where the exit record goes.
    pub exit_record: File,
    /// Where log lines go.
    pub log: Option<File>,
    /// Where the guest's console goes as well.
    pub console: Option<File>,
    /// The machine that goes on, if one does.
    pub restore: Option<SavedFiles>,
    /// The host trees that the guest sees.
    pub shares: Vec<(OwnedFd, ShareKind)>,
}

/// A machine that was saved.
#[derive(Debug)]
pub struct SavedFiles {
    /// The guest's memory.
    pub memory: File,
    /// Everything else.
    pub state: File,
}

/// Reads the configuration from its descriptor, takes over every descriptor that it names, and
/// closes all others but the standard three.
///
/// # Errors
/// When the configuration or one of its descriptors cannot be used.
pub fn inherit(config: RawFd) -> Result<Inheritance, ConfigError> {
    let mut taken = Taken { numbers: vec![0, 1, 2] };
    let document = File::from(taken.take(Descriptor(config), "configuration")?);
    let config: VmConfig =
        frame::read_frame(&document, MAX_VM_CONFIG_BYTES).map_err(ConfigError::Read)?;
    config.validate().map_err(ConfigError::Invalid)?;
    let mut shares = Vec::with_capacity(config.shares.len());
    for share in &config.shares {
        shares.push((taken.take(share.tree, "share")?, share.kind));
    }
    let restore = config.restore.map(|saved| taken.take_saved(saved)).transpose()?;
    let inheritance = Inheritance {
        kernel: taken.take(config.kernel, "kernel")?.into(),
        initramfs: taken.take(config.initramfs, "initramfs")?.into(),
        kvm: taken.take(config.kvm, "KVM")?,
        control: taken.take(config.control, "control socket")?,
        report: taken.take(config.report, "boot report")?.into(),
        exit_record: taken.take(config.exit_record, "exit record")?.into(),
        log: config.log.map(|log| taken.take(log, "log")).transpose()?.map(File::from),
        console: config.console.map(|fd| taken.take(fd, "console")).transpose()?.map(File::from),
        shares,
        restore,
        config,
    };
    taken.close_others().map_err(ConfigError::CloseOthers)?;
    Ok(inheritance)
}

/// The descriptors that have an owner.
struct Taken {
    numbers: Vec<RawFd>,
}

impl Taken {
    fn take(
        &mut self,
        Descriptor(number): Descriptor,
        what: &'static str,
    ) -> Result<OwnedFd, ConfigError> {
        let refused = ConfigError::Descriptor { descriptor: number, what };
        if self.numbers.contains(&number) {
            return Err(refused);
        }
        let owned = sys::take_descriptor(number).ok_or(refused)?;
        self.numbers.push(owned.as_fd().as_raw_fd());
        Ok(owned)
    }

    fn take_saved(&mut self, saved: RestoreFiles) -> Result<SavedFiles, ConfigError> {
        let memory = self.take(saved.memory, "saved memory")?.into();
        Ok(SavedFiles { memory, state: self.take(saved.state, "saved state")?.into() })
    }

    fn close_others(mut self) -> std::io::Result<()> {
        self.numbers.sort_unstable();
        for (first, last) in gaps(&self.numbers) {
            sys::close_range(first, last)?;
        }
        Ok(())
    }
}

/// The ranges of numbers between those given, ascending, and after the last.
fn gaps(taken: &[RawFd]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 0;
    for number in taken.iter().filter_map(|number| u32::try_from(*number).ok()) {
        if number > next {
            gaps.push((next, number - 1));
        }
        next = number + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_that_is_not_taken_is_in_a_gap() {
        assert_eq!(gaps(&[0, 1, 2]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[0, 1, 2, 5, 6, 9]), [(3, 4), (7, 8), (10, u32::MAX)]);
        assert_eq!(gaps(&[3]), [(0, 2), (4, u32::MAX)]);
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_named() {
        let mut taken = Taken { numbers: vec![] };
        let error = taken.take(Descriptor(1_000_000), "kernel").unwrap_err();
        assert!(error.to_string().contains("1000000 for the kernel"), "{error}");
    }
}
