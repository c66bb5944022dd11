//! What can go wrong in a container's steps, and as what containerd is told.

use std::io;
use std::path::PathBuf;

use containerd_shim_protos::protobuf;
use containerd_shim_protos::ttrpc::{self, Code, get_status};

use crate::options::OptionError;
use crate::pod::PodError;
use crate::rootfs::RootfsError;
use crate::runtime::RuntimeError;
use crate::stdio::StdioError;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// The runtime, in its words.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The engine's options.
    #[error(transparent)]
    Options(#[from] OptionError),
    /// The snapshot.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The streams.
    #[error(transparent)]
    Stdio(#[from] StdioError),
    /// The terminal.
    #[error("The runtime has handed no terminal over")]
    Terminal(#[source] io::Error),
    /// A file in the bundle.
    #[error("Cannot use the bundle {0}")]
    Bundle(PathBuf, #[source] io::Error),
    /// A message within the message.
    #[error("The request cannot be read")]
    Encoding(#[from] protobuf::Error),
    /// A pod in other words than CRI's.
    #[error("The sandbox is described by {0}: runtime.v1.PodSandboxConfig is possible")]
    Pod(String),
    /// A pod that there is no sandbox for.
    #[error(transparent)]
    PodPlan(#[from] PodError),
    /// There is none.
    #[error("{0} does not exist")]
    NotFound(String),
    /// There is one.
    #[error("{0} exists already")]
    Exists(String),
    /// Not now.
    #[error("{what} is {state}")]
    State {
        /// Which process.
        what: String,
        /// As which it cannot do this.
        state: &'static str,
    },
    /// The kernel refuses a signal.
    #[error("Cannot send signal {0}")]
    Signal(u32, #[source] nix::Error),
}

impl From<StepError> for ttrpc::Error {
    fn from(error: StepError) -> Self {
        let code = match &error {
            StepError::NotFound(_) => Code::NOT_FOUND,
            StepError::Exists(_) => Code::ALREADY_EXISTS,
            StepError::State { .. } => Code::FAILED_PRECONDITION,
            StepError::Options(_) | StepError::Encoding(_) => Code::INVALID_ARGUMENT,
            StepError::Pod(_) | StepError::PodPlan(_) => Code::INVALID_ARGUMENT,
            StepError::Stdio(StdioError::Output(_)) => Code::INVALID_ARGUMENT,
            _ => Code::UNKNOWN,
        };
        Self::RpcStatus(get_status(code, crate::describe(&error)))
    }
}
