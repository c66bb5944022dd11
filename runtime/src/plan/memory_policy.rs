//! `linux.memoryPolicy` and `linux.resources.cpu.mems`: their nodes are the host's, so that the host
//! keeps to them, for all of the guest's memory.

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

const BIND: u32 = 2;

/// The plan for a configuration; none: as the host has it. The policy is one within the nodes that
/// are allowed at all: where it names none of them, it is bound to all of them.
pub(super) fn plan(spec: &Spec) -> Option<MemoryPolicyPlan> {
    let linux = spec.linux().as_ref()?;
    let cpu = linux.resources().as_ref().and_then(|resources| resources.cpu().as_ref());
    let allowed = nodes(cpu.and_then(|cpu| cpu.mems().as_deref()));
    let policy = linux.memory_policy().as_ref().map(|policy| MemoryPolicyPlan {
        mode: mode(policy),
        nodes: nodes(policy.nodes().as_deref()),
    });
    if allowed.is_empty() {
        return policy;
    }
    let within = policy.map(|MemoryPolicyPlan { mode, mut nodes }| {
        nodes.retain(|node| allowed.contains(node));
        MemoryPolicyPlan { mode, nodes }
    });
    let within = within.filter(|policy| !policy.nodes.is_empty());
    Some(within.unwrap_or(MemoryPolicyPlan { mode: BIND, nodes: allowed }))
}

/// The rules have seen that it is a list.
fn nodes(list: Option<&str>) -> Vec<u32> {
    list.filter(|list| !list.trim().is_empty()).and_then(cpu_list::parse).unwrap_or_default()
}

/// Numbers of linux/mempolicy.h.
fn mode(policy: &LinuxMemoryPolicy) -> u32 {
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => BIND,
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
    fn a_policy_is_one_of_the_nodes_that_are_allowed() {
        let planned = |mems: &str, policy: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.3.0","linux":{{"resources":{{"cpu":{{"mems":"{mems}"}}}}{policy}}}}}"#
            );
            plan(&serde_json::from_str(&text).unwrap()).map(|plan| (plan.mode, plan.nodes))
        };
        let interleave = r#","memoryPolicy":{"mode":"MPOL_INTERLEAVE","nodes":"1-2"}"#;
        assert_eq!(planned("", ""), None);
        assert_eq!(planned("0-1", ""), Some((BIND, vec![0, 1])));
        assert_eq!(planned("0-1", interleave), Some((3, vec![1])));
        assert_eq!(planned("0", interleave), Some((BIND, vec![0])));
    }

    #[test]
    fn a_policy_has_the_kernels_numbers() {
        let spec = r#"{"ociVersion":"1.3.0","linux":{"memoryPolicy":{"mode":"MPOL_BIND",
            "nodes":"0-1","flags":["MPOL_F_STATIC_NODES"]}}}"#;
        let plan = plan(&serde_json::from_str(spec).unwrap()).unwrap();
        assert_eq!(plan, MemoryPolicyPlan { mode: 1 << 15 | 2, nodes: vec![0, 1] });
    }
}
