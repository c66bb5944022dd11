//! A machine that stands still, in two files: the guest's memory, and everything else.
//!
//! ```text
//!  vCPUs parked ─▶ interrupt controllers, clock ─▶ devices' queues and registers ─▶ files ─▶ memory
//! ```
//!
//! The state is one JSON document with a version. It says nothing about the operator's files and
//! folders: which share is which is the runtime's to know.
//!
//! Hostile: the document, once it comes from a file. It is bounded before it is parsed, has no
//! fields but those that are known, and each part is checked by whoever takes it over.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_protocol::bounds::{MAX_SNAPSHOT_STATE_BYTES, MAX_VCPUS, SNAPSHOT_VERSION};
use cofferdam_virtio::fs::{FsSaveError, FsSaver};
use cofferdam_virtio::mmio::{InvalidTransport, MmioTransport};
use cofferdam_virtio::saved::{FsState, QueuePosition, TransportState, VsockState};
use serde::{Deserialize, Serialize};

use crate::console::ConsoleState;
use crate::locking::lock;
use crate::machine::kvm::{KvmError, Vm, VmState};
use crate::machine::layout::MemoryLayout;
use crate::machine::memory::Memory;
use crate::machine::memory_file::{self, MemoryFileError};
use crate::machine::vcpu_state::VcpuState;
use crate::parking::{Parking, ParkingError};
use crate::vcpu::Bus;

/// A vCPU leaves the guest in microseconds; on a machine that swaps it takes longer.
const STOP_TIME: Duration = Duration::from_secs(10);
/// The file server describes some hundred thousand files in a second.
const FILES_TIME: Duration = Duration::from_secs(30);

/// Everything but memory.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineState {
    /// [`SNAPSHOT_VERSION`] of who wrote it.
    pub version: u32,
    /// The machine's memory.
    pub memory_mib: u32,
    /// The processors, by their numbers.
    pub vcpus: Vec<VcpuState>,
    /// What they share.
    pub vm: VmState,
    /// The serial port.
    pub console: ConsoleState,
    /// The devices' registers, by their places.
    pub devices: Vec<TransportState>,
    /// The socket device.
    pub vsock: VsockState,
    /// The file system device.
    pub files: FsState,
}

/// Why a machine was not saved. It runs on.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The vCPUs.
    #[error("The vCPUs cannot be stopped")]
    Parking(#[from] ParkingError),
    /// KVM.
    #[error("KVM does not tell the machine's state")]
    Kvm(#[from] KvmError),
    /// Files.
    #[error("The container's files cannot be written down")]
    Files(#[from] FsSaveError),
    /// Memory.
    #[error("The memory cannot be written down")]
    Memory(#[from] MemoryFileError),
    /// The state.
    #[error("The machine's state cannot be written")]
    Write(#[source] std::io::Error),
    /// The state.
    #[error("The machine's state is no document")]
    Encode(#[source] serde_json::Error),
}

/// Why a snapshot is not this machine's.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file.
    #[error("The snapshot's state cannot be read")]
    Read(#[source] std::io::Error),
    /// No end of it.
    #[error("The snapshot's state has more than {MAX_SNAPSHOT_STATE_BYTES} bytes")]
    TooLong,
    /// It is no such document.
    #[error("The snapshot's state is damaged, or of another version")]
    Parse(#[source] serde_json::Error),
    /// Of another build.
    #[error("The snapshot has version {0}, and this monitor reads {SNAPSHOT_VERSION}")]
    Version(u32),
    /// Another machine.
    #[error("The snapshot's machine has {found} {what}, this one {expected}")]
    Shape {
        /// Of what.
        what: &'static str,
        /// In the snapshot.
        found: usize,
        /// Here.
        expected: usize,
    },
    /// A device.
    #[error("A device cannot go on from the snapshot")]
    Device(#[from] InvalidTransport),
}

impl MachineState {
    /// Reads a snapshot's state.
    ///
    /// # Errors
    /// When it is none, or none of this version.
    pub fn read(file: &File) -> Result<Self, SnapshotError> {
        let mut bytes = Vec::new();
        let bound = MAX_SNAPSHOT_STATE_BYTES as u64;
        file.take(bound + 1).read_to_end(&mut bytes).map_err(SnapshotError::Read)?;
        if bytes.len() > MAX_SNAPSHOT_STATE_BYTES {
            return Err(SnapshotError::TooLong);
        }
        Self::parse(&bytes)
    }

    /// Reads the document.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        // Of another version nothing else is known.
        let Versioned { version } = serde_json::from_slice(bytes).map_err(SnapshotError::Parse)?;
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version(version));
        }
        serde_json::from_slice(bytes).map_err(SnapshotError::Parse)
    }

    /// Whether it is of a machine of this shape.
    ///
    /// # Errors
    /// Names what differs.
    pub fn check(&self, vcpus: u8, memory_mib: u32, devices: usize) -> Result<(), SnapshotError> {
        debug_assert!(vcpus <= MAX_VCPUS);
        for (what, found, expected) in [
            ("vCPUs", self.vcpus.len(), usize::from(vcpus)),
            ("MiB of memory", self.memory_mib as usize, memory_mib as usize),
            ("devices", self.devices.len(), devices),
        ] {
            if found != expected {
                return Err(SnapshotError::Shape { what, found, expected });
            }
        }
        Ok(())
    }

    /// Gives the devices their registers, and their workers their queues. Once the vCPUs and their
    /// interrupt controllers are as they were: a device may raise its interrupt.
    ///
    /// # Errors
    /// When a device is not the one that was saved.
    pub fn restore_devices(&self, windows: &[Mutex<MmioTransport>]) -> Result<(), SnapshotError> {
        for (window, state) in windows.iter().zip(&self.devices) {
            lock(window).restore(state)?;
        }
        Ok(())
    }
}

/// Saves the machine, from the devices' thread.
pub struct Saver {
    /// KVM's part.
    pub vm: Arc<Vm>,
    /// The devices' registers, and the serial port.
    pub bus: Arc<Bus>,
    /// Where vCPUs stop.
    pub parking: Arc<Parking>,
    /// The guest's memory.
    pub memory: Arc<Memory>,
    /// The file server.
    pub files: FsSaver,
    /// The machine's memory.
    pub memory_mib: u32,
}

/// What the devices' thread knows of its own devices, by their places among the windows.
pub struct OwnDevices {
    /// How far the socket device and the entropy device are served.
    pub positions: [Vec<QueuePosition>; 2],
    /// The socket device.
    pub vsock: VsockState,
}

impl Saver {
    /// Stops the machine and writes it down. It stands still until it is let go.
    ///
    /// # Errors
    /// Then it runs on.
    pub fn save(&self, own: OwnDevices, memory: &File, state: &File) -> Result<(), SaveError> {
        let vcpus = self.parking.stop(STOP_TIME)?;
        let saved = self.write(own, vcpus, memory, state);
        if saved.is_err() {
            self.let_go();
        }
        saved
    }

    /// The machine goes on.
    pub fn let_go(&self) {
        self.parking.let_go();
    }

    fn write(
        &self,
        own: OwnDevices,
        vcpus: Vec<VcpuState>,
        memory: &File,
        state: &File,
    ) -> Result<(), SaveError> {
        let (files, file_queues) = self.files.save(FILES_TIME)?;
        let [vsock_queues, rng_queues] = own.positions;
        let positions = [vsock_queues, rng_queues, file_queues];
        let windows = self.bus.devices.iter().zip(&positions);
        let document = MachineState {
            version: SNAPSHOT_VERSION,
            memory_mib: self.memory_mib,
            vcpus,
            vm: self.vm.save()?,
            console: lock(&self.bus.console).state(),
            devices: windows.map(|(window, served)| lock(window).save(served)).collect(),
            vsock: own.vsock,
            files,
        };
        let mut writer = BufWriter::new(state);
        serde_json::to_writer(&mut writer, &document).map_err(SaveError::Encode)?;
        writer.flush().map_err(SaveError::Write)?;
        let layout = MemoryLayout::of_mib(self.memory_mib);
        Ok(memory_file::write(&self.memory, layout, memory)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_named_whatever_else_is_there() {
        let error = MachineState::parse(br#"{"version": 7, "news": true}"#).err().unwrap();
        let expected =
            format!("The snapshot has version 7, and this monitor reads {SNAPSHOT_VERSION}");
        assert_eq!(error.to_string(), expected);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tail in "\\PC*") {
            let _ = MachineState::parse(tail.as_bytes());
            let text = format!(r#"{{"version": {SNAPSHOT_VERSION}, {tail}"#);
            let _ = MachineState::parse(text.as_bytes());
        }
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        let only_a_version =
            [format!(r#"{{"version": {SNAPSHOT_VERSION}}}"#), format!("[{SNAPSHOT_VERSION}]")];
        let no_json = [&b""[..], b"{}", b"null", b"\x7fELF"];
        for bytes in only_a_version.iter().map(String::as_bytes).chain(no_json) {
            let error = MachineState::parse(bytes).err().unwrap();
            assert!(matches!(error, SnapshotError::Parse(_)), "{error}");
        }
    }
}
