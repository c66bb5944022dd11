//! Which pod a container is in, if it is in one: from its annotations and the state of its sandbox.

use cofferdam_protocol::id::ContainerId;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::isolation::{Effective, IsolationError};
use crate::kind::SandboxKind;
use crate::plan::pod::{self, InvalidPodRole, Joined, PodRole, PodSandbox};
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
    /// None, or one whose sandbox is in namespaces: the engine's paths are all there is to it.
    None,
    /// Others may join it.
    Sandbox,
    /// Its sandbox is not known here.
    Unknown(ContainerId),
    /// It joins a microVM.
    Member {
        /// The container that the microVM was made for.
        sandbox: SandboxRef,
        /// The configuration, as it is in there.
        joined: Box<Joined>,
    },
}

/// Finds it.
pub(super) fn find(store: &Store, spec: &Spec, id: &ContainerId) -> Result<Pod, PodError> {
    let sandbox = match pod::role(spec, id)? {
        None => return Ok(Pod::None),
        Some(PodRole::Sandbox) => return Ok(Pod::Sandbox),
        Some(PodRole::Member(sandbox)) => sandbox,
    };
    match store.open(&sandbox) {
        Ok(entry) if entry.record.isolation == SandboxKind::Microvm => join(spec, &entry),
        Ok(_) => Ok(Pod::None),
        Err(StoreError::NotFound) => Ok(Pod::Unknown(sandbox)),
        Err(error) => Err(error.into()),
    }
}

fn join(spec: &Spec, entry: &Entry) -> Result<Pod, PodError> {
    let sandbox = entry.sandbox();
    let of_sandbox = sandbox.spec()?;
    let linux = of_sandbox.linux().as_ref();
    let mut namespaces =
        linux.and_then(|linux| linux.namespaces().as_deref()).into_iter().flatten();
    let network = namespaces.find(|entry| entry.typ() == LinuxNamespaceType::Network);
    let facts = PodSandbox {
        // Nobody has the number 0.
        pid: sandbox.process.map_or(0, |process| process.pid),
        network: network.and_then(|entry| entry.path().clone()),
    };
    let joined =
        pod::join(spec, &facts).map_err(|refusal| IsolationError::NotInMicrovm(vec![refusal]))?;
    Ok(Pod::Member { sandbox, joined: Box::new(joined) })
}

impl Pod {
    /// The configuration as it is in the pod's microVM, if that is where the container goes.
    pub(super) fn inside(&self) -> Option<&Spec> {
        match self {
            Self::Member { joined, .. } => Some(&joined.spec),
            Self::None | Self::Sandbox | Self::Unknown(_) => None,
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
            Self::None | Self::Unknown(_) => None,
            Self::Sandbox => Some(PodPart::Sandbox),
            Self::Member { sandbox, joined } => Some(PodPart::Member(Box::new(PodMember {
                sandbox: sandbox.clone(),
                joined: (**joined).clone(),
            }))),
        }
    }
}
