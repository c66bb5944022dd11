//! `linux.memoryPolicy`: its nodes are the host's, so that the host keeps to it, for all of the
//! guest's memory.

use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Spec};

use crate::spec::cpu_list;

/// `set_mempolicy(2)`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPolicyPlan {
    /// `MPOL_*`, with flags.
    pub mode: u32,
    /// The host's memory nodes.
    pub nodes: Vec<u32>,
}

/// The plan for a configuration; none: as the host has it.
pub(super) fn plan(spec: &Spec) -> Option<MemoryPolicyPlan> {
    let policy = spec.linux().as_ref()?.memory_policy().as_ref()?;
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    Some(MemoryPolicyPlan {
        mode: mode(policy),
        // The rules have seen that it is a list.
        nodes: nodes.and_then(cpu_list::parse).unwrap_or_default(),
    })
}

/// Numbers of linux/mempolicy.h.
fn mode(policy: &LinuxMemoryPolicy) -> u32 {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &MemoryPolicyFlagType| match flag {
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
    };
    policy.flags().iter().flatten().map(flag).fold(mode, |mode, bit| mode | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_the_kernels_numbers() {
        let spec = r#"{"ociVersion":"1.3.0","linux":{"memoryPolicy":{"mode":"MPOL_BIND",
            "nodes":"0-1","flags":["MPOL_F_STATIC_NODES"]}}}"#;
        let plan = plan(&serde_json::from_str(spec).unwrap()).unwrap();
        assert_eq!(plan, MemoryPolicyPlan { mode: 1 << 15 | 2, nodes: vec![0, 1] });
    }
}
