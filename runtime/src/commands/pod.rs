//! Which pod a container is in, if it is in one: from its annotations and the state of its sandbox.

use std::path::Path;

use cofferdam_protocol::id::ContainerId;
use oci_spec::runtime::Spec;

use crate::config::JoinedNetwork;
use crate::host::network_namespace::NetworkNamespace;
use crate::isolation::{Effective, IsolationError};
use crate::kind::SandboxKind;
use crate::plan::Refusal;
use crate::plan::pod::{self, InvalidPodRole, Joined, PodRole, PodSandbox};
use crate::sandbox::microvm::POD_NOTE;
use crate::sandbox::request::{PodMember, PodPart, SandboxRef};
use crate::spec::SpecError;
use crate::state::store::{Entry, Store, StoreError};

/// Why a container is in no pod, although it says so.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// Its annotations.
    #[error(transparent)]
    Role(#[from] InvalidPodRole),
    /// There is no such sandbox.
    #[error("There is no pod sandbox {0}, whose microVM the container's annotations say it joins")]
    Unknown(ContainerId),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sandbox's configuration.
    #[error("The configuration of the pod's sandbox cannot be read")]
    Sandbox(#[from] SpecError),
    /// It is not to be had in its pod.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// Its network.
    #[error(
        "The container's network namespace is that of another microVM, of the container {0}: it can be that of \
         one at a time. With joined_network = \"share\" below [microvm] in the configuration the container joins that microVM"
    )]
    Taken(ContainerId),
    /// It would have another isolation than its pod.
    #[error(
        "The pod's sandbox {sandbox} is a microVM, and its container would not be in it: {reason}"
    )]
    Differs {
        /// The sandbox.
        sandbox: ContainerId,
        /// Why the container would be elsewhere.
        reason: String,
    },
}

/// A container's pod.
#[derive(Debug)]
pub(super) enum Pod {
    /// None.
    None,
    /// One whose sandbox is in namespaces, or the network of somebody who is: the engine's paths are all there is
    /// to it. A microVM would take the others' interfaces from them.
    InNamespaces,
    /// Others may join it.
    Sandbox,
    /// Its sandbox is not known here.
    Unknown(ContainerId),
    /// It is given the network of this container's microVM, which it may not join.
    Taken(ContainerId),
    /// It joins a microVM.
    Member {
        /// The container that the microVM was made for.
        sandbox: SandboxRef,
        /// The configuration, as it is in there.
        joined: Box<Joined>,
    },
}

/// Finds it.
pub(super) fn find(
    store: &Store,
    spec: &Spec,
    id: &ContainerId,
    joined_network: JoinedNetwork,
) -> Result<Pod, PodError> {
    let role = pod::role(spec, id)?;
    let sandbox = match role {
        Some(PodRole::Member(sandbox)) => sandbox,
        None | Some(PodRole::Sandbox) => {
            let may_be_joined = role.is_some() || joined_network == JoinedNetwork::Share;
            let alone = if may_be_joined { Pod::Sandbox } else { Pod::None };
            let other = pod::network(spec).map(|path| whose(store, path)).transpose()?.flatten();
            let Some(other) = other else { return Ok(alone) };
            return match (other.record.isolation, joined_network) {
                (SandboxKind::Namespace, _) => Ok(Pod::InNamespaces),
                (SandboxKind::Microvm, JoinedNetwork::Share) => {
                    join_with(spec, &other, pod::network(spec))
                }
                (SandboxKind::Microvm, JoinedNetwork::Refuse) => Ok(Pod::Taken(other.record.id)),
            };
        }
    };
    match store.open(&sandbox) {
        Ok(entry) if entry.record.isolation == SandboxKind::Microvm => join(spec, &entry),
        Ok(_) => Ok(Pod::InNamespaces),
        Err(StoreError::NotFound) => Ok(Pod::Unknown(sandbox)),
        Err(error) => Err(error.into()),
    }
}

/// A container that runs in a network namespace, if there is one.
fn whose(store: &Store, network: &Path) -> Result<Option<Entry>, PodError> {
    // What is no namespace is refused elsewhere, by name.
    let Ok(wanted) = NetworkNamespace::open(network) else { return Ok(None) };
    let runs_there = |entry: &Entry| {
        let process = entry.record.process.filter(|process| process.is_alive());
        let own = process.and_then(|process| NetworkNamespace::of_process(process.pid).ok());
        own.is_some_and(|own| own.id() == wanted.id())
    };
    // The process of one that has joined a microVM stands for it on the host, wherever that was started.
    let has_its_own = |entry: &Entry| !entry.record.notes.contains_key(POD_NOTE);
    Ok(store.list()?.into_iter().find(|entry| has_its_own(entry) && runs_there(entry)))
}

fn join(spec: &Spec, entry: &Entry) -> Result<Pod, PodError> {
    let of_sandbox = entry.sandbox().spec()?;
    join_with(spec, entry, pod::network(&of_sandbox))
}

/// The same where this path leads to the sandbox's network namespace.
fn join_with(spec: &Spec, entry: &Entry, network: Option<&Path>) -> Result<Pod, PodError> {
    let sandbox = entry.sandbox();
    let facts = PodSandbox {
        // Nobody has the number 0.
        pid: sandbox.process.map_or(0, |process| process.pid),
        network: network.map(Path::to_owned),
    };
    let joined =
        pod::join(spec, &facts).map_err(|refusal| IsolationError::NotInMicrovm(vec![refusal]))?;
    Ok(Pod::Member { sandbox, joined: Box::new(joined) })
}

impl Pod {
    /// What of it no microVM can honour.
    pub(super) fn refused(&self) -> Option<Refusal> {
        matches!(self, Self::InNamespaces).then(pod::network_of_namespaces)
    }

    /// The configuration as it is in the pod's microVM, if that is where the container goes.
    pub(super) fn inside(&self) -> Option<&Spec> {
        match self {
            Self::Member { joined, .. } => Some(&joined.spec),
            Self::None | Self::InNamespaces | Self::Sandbox | Self::Unknown(_) | Self::Taken(_) => {
                None
            }
        }
    }

    /// Why there is no microVM for it, if that is because of its pod.
    pub(super) fn explain(&self, error: &IsolationError) -> Option<PodError> {
        match (self, error) {
            (Self::Unknown(sandbox), IsolationError::NotInMicrovm(_)) => {
                Some(PodError::Unknown(sandbox.clone()))
            }
            _ => None,
        }
    }

    /// A container is never elsewhere than its pod, and no microVM is made for one that says it
    /// joins another.
    pub(super) fn check(&self, effective: &Effective) -> Result<(), PodError> {
        match (self, effective.kind) {
            (Self::Unknown(sandbox), SandboxKind::Microvm) => {
                Err(PodError::Unknown(sandbox.clone()))
            }
            (Self::Taken(other), SandboxKind::Microvm) => Err(PodError::Taken(other.clone())),
            (Self::Member { sandbox, .. }, SandboxKind::Namespace) => Err(PodError::Differs {
                sandbox: sandbox.id.clone(),
                reason: effective.reason.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// For whoever makes it.
    pub(super) fn part(&self) -> Option<PodPart> {
        match self {
            Self::None | Self::InNamespaces | Self::Unknown(_) | Self::Taken(_) => None,
            Self::Sandbox => Some(PodPart::Sandbox),
            Self::Member { sandbox, joined } => Some(PodPart::Member(Box::new(PodMember {
                sandbox: sandbox.clone(),
                joined: (**joined).clone(),
            }))),
        }
    }
}
