//! What was put into the container's network namespace, for whoever takes it away: a file in the
//! state folder.

use std::path::Path;

use cofferdam_protocol::network::InterfacePlan;
use serde::{Deserialize, Serialize};

use super::NetworkError;
use crate::host::document;
use crate::host::network_namespace::NamespaceId;
use crate::plan::network::HostInterface;

const FILE: &str = "network.json";

/// The record of a microVM's network. Without interfaces there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkRecord {
    /// In which namespace.
    pub(super) namespace: Option<NamespaceId>,
    /// The interfaces that lead to the guest.
    pub(super) attached: Vec<Attached>,
    /// What the operator was told that the guest does not get.
    pub(super) left_out: Vec<String>,
    /// Names are asked of the engine's server.
    pub(super) names: bool,
}

/// An interface that leads to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attached {
    /// Its number in the namespace.
    pub(super) index: u32,
    /// The queueing discipline is ours, and not only the filter on it.
    pub(super) own_discipline: bool,
    /// Absent: it is being made, or was when somebody was killed.
    #[serde(default)]
    pub(super) given: Option<Given>,
}

/// What the guest has of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    /// The number of the virtio-mmio device.
    pub(super) device: u32,
    /// The tap's number in the namespace.
    pub(super) tap: u32,
    /// What the guest was told. After a change that failed, all that it may have.
    pub(super) plan: InterfacePlan,
}

impl NetworkRecord {
    pub(super) fn find(state_folder: &Path) -> Result<Self, NetworkError> {
        let found = document::find(&state_folder.join(FILE)).map_err(NetworkError::Record)?;
        Ok(found.unwrap_or_default())
    }

    pub(super) fn save(&self, state_folder: &Path) -> Result<(), NetworkError> {
        document::save(&state_folder.join(FILE), self).map_err(NetworkError::Record)
    }

    /// What the guest has.
    pub(super) fn given(&self) -> Vec<HostInterface> {
        let given = |attached: &Attached| {
            let plan = attached.given.as_ref()?.plan.clone();
            Some(HostInterface { index: attached.index, plan })
        };
        self.attached.iter().filter_map(given).collect()
    }

    /// An interface that leads to the guest.
    pub(super) fn attached(&self, index: u32) -> Option<Attached> {
        self.attached.iter().find(|attached| attached.index == index).cloned()
    }

    /// What the guest has of one.
    pub(super) fn given_mut(&mut self, index: u32) -> Option<&mut Given> {
        let mut all = self.attached.iter_mut();
        all.find(|attached| attached.index == index)?.given.as_mut()
    }

    /// The guest has it now.
    pub(super) fn give(&mut self, index: u32, given: Given) -> &Self {
        if let Some(attached) = self.attached.iter_mut().find(|one| one.index == index) {
            attached.given = Some(given);
        }
        self
    }

    /// It leads to the guest no more.
    pub(super) fn remove(&mut self, index: u32) -> Option<Attached> {
        let place = self.attached.iter().position(|attached| attached.index == index)?;
        Some(self.attached.remove(place))
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_protocol::network::InterfaceSettings;

    use super::*;

    fn given(device: u32) -> Given {
        let plan = InterfacePlan {
            name: "eth0".to_owned(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            ipv6: true,
            accept_ra: 1,
            settings: InterfaceSettings::default(),
        };
        Given { device, tap: 9, plan }
    }

    #[test]
    fn what_is_half_made_is_known_and_not_the_guests() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = NetworkRecord::default();
        record.attached.push(Attached { index: 2, own_discipline: true, given: None });
        assert_eq!(record.given(), []);
        record.save(folder.path()).unwrap();
        assert_eq!(NetworkRecord::find(folder.path()).unwrap(), record);
        record.give(2, given(3)).save(folder.path()).unwrap();
        let mut record = NetworkRecord::find(folder.path()).unwrap();
        assert_eq!(record.given(), [HostInterface { index: 2, plan: given(3).plan }]);
        record.given_mut(2).unwrap().plan.mtu = 1400;
        assert_eq!(record.remove(2).unwrap().given.unwrap().plan.mtu, 1400);
        assert_eq!((record.remove(2), record.attached(2)), (None, None));
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"namespace":null,"attached":[{"index":2,"own_discipline":true}],
            "left_out":[],"names":false}"#;
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let record = NetworkRecord::find(folder.path()).unwrap();
        assert_eq!(record.attached, [Attached { index: 2, own_discipline: true, given: None }]);
    }
}
