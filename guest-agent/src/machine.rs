//! Memory and processors that come while the guest runs, and go again (ACPI's part elsewhere: there
//! is none here). The host says what there is; the kernel takes it into use and gives it back by
//! files below `/sys`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_protocol::agent::{ResizeMachineRequest, ResizeMachineResponse};
use cofferdam_protocol::bounds::{MAX_MEMORY_MIB, MAX_VCPUS, MEMORY_BLOCK_MIB};

const DEVICES: &str = "/sys/devices/system";
const BLOCK_BYTES: u64 = (MEMORY_BLOCK_MIB as u64) << 20;
/// No address space has room for more.
const MAX_BLOCKS: u32 = MAX_MEMORY_MIB / MEMORY_BLOCK_MIB;

/// The kernel's files.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    devices: PathBuf,
}

impl Machine {
    /// Those of this guest.
    pub(crate) fn of_guest() -> Self {
        Self { devices: DEVICES.into() }
    }

    /// Takes into use, or gives back, until it is as asked for or the kernel refuses.
    pub(crate) fn resize(&self, request: &ResizeMachineRequest) -> ResizeMachineResponse {
        let first = request.first_block;
        let processors = self.set_processors(request.processors);
        let blocks = self.set_blocks(first, request.memory_blocks.min(MAX_BLOCKS));
        let failure = [processors.err(), blocks.err()].into_iter().flatten().next();
        ResizeMachineResponse {
            memory_blocks: self.blocks(first),
            processors: self.processors(),
            failure: failure.map(|error| error.to_string()).unwrap_or_default(),
            ..Default::default()
        }
    }

    fn set_blocks(&self, first: u64, wanted: u32) -> io::Result<()> {
        for index in self.blocks(first)..wanted {
            self.plug(address_of(first, index))?;
        }
        for index in (wanted..self.blocks(first)).rev() {
            // One that holds what cannot be moved stays, and those before it.
            if fs::write(self.block(address_of(first, index)).join("state"), "offline").is_err() {
                break;
            }
        }
        Ok(())
    }

    /// How many are in use, from the first on.
    fn blocks(&self, first: u64) -> u32 {
        let is_used = |index: &u32| {
            let state = self.block(address_of(first, *index)).join("state");
            fs::read_to_string(state).is_ok_and(|state| state.trim() == "online")
        };
        u32::try_from((0..MAX_BLOCKS).take_while(is_used).count()).unwrap_or(MAX_BLOCKS)
    }

    fn plug(&self, address: u64) -> io::Result<()> {
        let block = self.block(address);
        if !block.exists() {
            let probe = self.devices.join("memory/probe");
            fs::write(probe, format!("{address:#x}")).map_err(while_doing("adding memory"))?;
        }
        // Movable: nothing settles there that could not leave again.
        let online = fs::write(block.join("state"), "online_movable");
        online.map_err(while_doing("taking memory into use"))
    }

    fn block(&self, address: u64) -> PathBuf {
        self.devices.join(format!("memory/memory{}", address / BLOCK_BYTES))
    }

    fn set_processors(&self, wanted: u32) -> io::Result<()> {
        let wanted = wanted.clamp(1, MAX_VCPUS.into());
        for id in 1..u32::from(MAX_VCPUS) {
            let switch = self.processor(id);
            let Ok(before) = fs::read_to_string(&switch) else { break };
            let state = if id < wanted { "1" } else { "0" };
            if before.trim() != state {
                fs::write(switch, state).map_err(while_doing("switching a processor"))?;
            }
        }
        Ok(())
    }

    fn processors(&self) -> u32 {
        let is_used = |id: &u32| {
            fs::read_to_string(self.processor(*id)).is_ok_and(|state| state.trim() == "1")
        };
        // The first has no switch.
        1 + (1..u32::from(MAX_VCPUS)).filter(is_used).count() as u32
    }

    fn processor(&self, id: u32) -> PathBuf {
        Path::new(&self.devices).join(format!("cpu/cpu{id}/online"))
    }
}

fn address_of(first: u64, index: u32) -> u64 {
    first.saturating_add(u64::from(index) * BLOCK_BYTES)
}

fn while_doing(what: &'static str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with processors that are on or off, and blocks of memory from number 32 on.
    fn machine(processors: &[&str], blocks: &[&str]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        let devices = folder.path().to_owned();
        for (id, state) in (1..).zip(processors) {
            let place = devices.join(format!("cpu/cpu{id}"));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("online"), format!("{state}\n")).unwrap();
        }
        for (number, state) in (32..).zip(blocks) {
            let place = devices.join(format!("memory/memory{number}"));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("state"), format!("{state}\n")).unwrap();
        }
        (folder, Machine { devices })
    }

    fn request(memory_blocks: u32, processors: u32) -> ResizeMachineRequest {
        ResizeMachineRequest {
            first_block: 32 * BLOCK_BYTES,
            memory_blocks,
            processors,
            ..Default::default()
        }
    }

    #[test]
    fn processors_are_switched_on_from_the_first_and_off_from_the_last() {
        let (_folder, machine) = machine(&["1", "0", "0"], &[]);
        assert_eq!(machine.resize(&request(0, 3)).processors, 3);
        assert_eq!(machine.resize(&request(0, 1)).processors, 1);
        assert_eq!(machine.resize(&request(0, 99)).processors, 4);
    }

    #[test]
    fn blocks_go_from_the_last() {
        let (_folder, machine) = machine(&[], &["online", "online", "offline"]);
        let answer = machine.resize(&request(1, 1));
        assert_eq!((answer.memory_blocks, answer.failure.as_str()), (1, ""));
    }

    #[test]
    fn a_block_that_cannot_be_added_is_told() {
        let (_folder, machine) = machine(&[], &[]);
        let answer = machine.resize(&request(1, 1));
        assert_eq!(answer.memory_blocks, 0);
        assert!(answer.failure.contains("adding memory"), "{}", answer.failure);
    }
}
