//! What was put into the container's network namespace, for whoever takes it away: a file in the
//! state folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::NetworkError;
use crate::host::document;
use crate::host::network_namespace::NamespaceId;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attached {
    /// Its number in the namespace.
    pub(super) index: u32,
    /// The queueing discipline is ours, and not only the filter on it.
    pub(super) own_discipline: bool,
}

impl NetworkRecord {
    pub(super) fn find(state_folder: &Path) -> Result<Self, NetworkError> {
        let found = document::find(&state_folder.join(FILE)).map_err(NetworkError::Record)?;
        Ok(found.unwrap_or_default())
    }

    pub(super) fn save(&self, state_folder: &Path) -> Result<(), NetworkError> {
        document::save(&state_folder.join(FILE), self).map_err(NetworkError::Record)
    }

    pub(super) fn has(&self, index: u32) -> bool {
        self.attached.iter().any(|attached| attached.index == index)
    }
}
