//! The two kinds of sandbox, by name. What each is and does is [`crate::sandbox`]'s to know; this
//! is what configuration, state and checks call them.

use serde::{Deserialize, Serialize};

/// Which kind of sandbox a container is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxKind {
    /// A microVM.
    Microvm,
    /// Hardened namespaces.
    Namespace,
}

impl SandboxKind {
    /// The name in configuration, annotations and `state`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Microvm => "microvm",
            Self::Namespace => "namespace",
        }
    }
}
