//! Which disks a machine has, and for whom: a file in the state folder of whoever the machine is.

use std::io;
use std::path::Path;

use cofferdam_protocol::id::ContainerId;
use serde::{Deserialize, Serialize};

use crate::host::document;
use crate::plan::disks::{DiskNumber, GivenDisk};

const FILE: &str = "disks.json";

/// The disks of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disks {
    list: Vec<HeldDisk>,
}

/// A disk that the monitor has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeldDisk {
    /// Its number on the host.
    pub(super) host: DiskNumber,
    /// Its number among the guest's devices.
    pub(super) device: u32,
    /// Nothing is written to it.
    pub(super) read_only: bool,
    /// Its number in the guest, once the driver has it.
    guest: Option<DiskNumber>,
    /// Who has it.
    users: Vec<ContainerId>,
}

impl HeldDisk {
    /// One that its driver does not have yet.
    pub(super) fn new(host: DiskNumber, device: u32, read_only: bool, user: &ContainerId) -> Self {
        Self { host, device, read_only, guest: None, users: vec![user.clone()] }
    }

    /// Another has it too, if the driver has it.
    pub(super) fn share_with(&mut self, user: &ContainerId) -> Option<GivenDisk> {
        let given = GivenDisk { host: self.host, guest: self.guest? };
        if !self.users.contains(user) {
            self.users.push(user.clone());
        }
        Some(given)
    }
}

impl Disks {
    /// Those that a machine has.
    pub(super) fn find(machine: &Path) -> io::Result<Self> {
        Ok(document::find(&machine.join(FILE))?.unwrap_or_default())
    }

    /// Writes them down. A machine that never had any has no file.
    pub(super) fn save(&self, machine: &Path) -> io::Result<()> {
        let file = machine.join(FILE);
        if self.list.is_empty() && !file.exists() {
            return Ok(());
        }
        document::save(&file, self)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The one with this number on the host.
    pub(super) fn with(&mut self, host: DiskNumber) -> Option<&mut HeldDisk> {
        self.list.iter_mut().find(|disk| disk.host == host)
    }

    /// One that comes. Where one of this number was left half-way, both go with their users.
    pub(super) fn add(&mut self, disk: HeldDisk) {
        self.list.push(disk);
    }

    /// The driver has the one that came last of this number.
    pub(super) fn is_in_use(&mut self, given: GivenDisk) {
        let found = self.list.iter_mut().rev().find(|disk| disk.host == given.host);
        if let Some(disk) = found {
            disk.guest = Some(given.guest);
        }
    }

    /// Somebody goes; those that nobody has any more, which are still in the list.
    pub(super) fn without(&mut self, user: &ContainerId) -> Vec<HeldDisk> {
        self.list.iter_mut().for_each(|disk| disk.users.retain(|other| other != user));
        self.list.iter().filter(|disk| disk.users.is_empty()).cloned().collect()
    }

    /// A device is gone.
    pub(super) fn remove(&mut self, device: u32) {
        self.list.retain(|disk| disk.device != device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: DiskNumber = DiskNumber { major: 8, minor: 16 };
    const GUEST: DiskNumber = DiskNumber { major: 254, minor: 0 };

    fn id(name: &str) -> ContainerId {
        name.parse().unwrap()
    }

    #[test]
    fn a_disk_stays_until_its_last_user_goes() {
        let folder = tempfile::tempdir().unwrap();
        let given = GivenDisk { host: HOST, guest: GUEST };
        let mut disks = Disks::default();
        disks.add(HeldDisk::new(HOST, 4, false, &id("a")));
        disks.is_in_use(given);
        assert_eq!(disks.with(HOST).unwrap().share_with(&id("b")), Some(given));
        disks.save(folder.path()).unwrap();
        let mut disks = Disks::find(folder.path()).unwrap();
        assert_eq!(disks.without(&id("a")), []);
        assert_eq!(disks.without(&id("c")), []);
        let idle = disks.without(&id("b"));
        assert_eq!(idle.iter().map(|disk| disk.device).collect::<Vec<_>>(), [4]);
        disks.remove(4);
        disks.save(folder.path()).unwrap();
        assert!(Disks::find(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn a_disk_that_the_driver_does_not_have_is_not_shared_and_goes_with_its_user() {
        let mut disks = Disks::default();
        disks.add(HeldDisk::new(HOST, 4, false, &id("a")));
        assert_eq!(disks.with(HOST).unwrap().share_with(&id("b")), None);
        assert_eq!(disks.without(&id("a")).len(), 1);
    }

    #[test]
    fn a_machine_without_disks_has_no_record() {
        let folder = tempfile::tempdir().unwrap();
        Disks::default().save(folder.path()).unwrap();
        assert!(!folder.path().join(FILE).exists());
    }
}
