//! The default seccomp profile as an OCI section.

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

use super::syscalls::{AF_VSOCK, ALWAYS, NAMESPACE_FLAGS, PERSONALITIES, WITH_CAPABILITY};

/// The profile for a container that may have these capabilities. `None` only if the section's
/// builder refused what it is given here, which a test rules out.
pub(super) fn profile(has: impl Fn(Capability) -> bool) -> Option<LinuxSeccomp> {
    let mut names: Vec<&str> = ALWAYS.to_vec();
    for (_, calls) in WITH_CAPABILITY.iter().filter(|(capability, _)| has(*capability)) {
        names.extend(*calls);
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![allow(&names, Vec::new())?];
    for value in PERSONALITIES {
        let same = argument(value, None, LinuxSeccompOperator::ScmpCmpEq)?;
        rules.push(allow(&["personality"], vec![same])?);
    }
    let other = argument(AF_VSOCK, None, LinuxSeccompOperator::ScmpCmpNe)?;
    rules.push(allow(&["socket"], vec![other])?);
    if !has(Capability::SysAdmin) {
        rules.extend(without_namespaces()?);
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86])
        .syscalls(rules)
        .build()
        .ok()
}

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// `clone` without the flags that make namespaces, and `clone3` as if the kernel were older.
fn without_namespaces() -> Option<[LinuxSyscall; 2]> {
    let none = argument(NAMESPACE_FLAGS, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)?;
    let clone3 = LinuxSyscallBuilder::default()
        .names(vec!["clone3".to_owned()])
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(ENOSYS)
        .build()
        .ok()?;
    Some([allow(&["clone"], vec![none])?, clone3])
}

fn allow(names: &[&str], arguments: Vec<LinuxSeccompArg>) -> Option<LinuxSyscall> {
    let rule = LinuxSyscallBuilder::default()
        .names(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActAllow);
    let rule = if arguments.is_empty() { rule } else { rule.args(arguments) };
    rule.build().ok()
}

fn argument(
    value: u64,
    second: Option<u64>,
    operator: LinuxSeccompOperator,
) -> Option<LinuxSeccompArg> {
    let argument = LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(operator);
    match second {
        Some(second) => argument.value_two(second),
        None => argument,
    }
    .build()
    .ok()
}

#[cfg(test)]
mod tests {
    use libseccomp::{ScmpArch, ScmpSyscall};

    use super::*;

    fn names(profile: &LinuxSeccomp) -> Vec<&str> {
        profile
            .syscalls()
            .iter()
            .flatten()
            .flat_map(LinuxSyscall::names)
            .map(String::as_str)
            .collect()
    }

    #[test]
    fn nothing_that_changes_the_machine_is_in_it() {
        let profile = profile(|_| false).unwrap();
        for call in [
            "mount",
            "bpf",
            "keyctl",
            "add_key",
            "request_key",
            "init_module",
            "kexec_load",
            "unshare",
            "setns",
            "io_uring_setup",
            "userfaultfd",
            "perf_event_open",
            "reboot",
            "open_by_handle_at",
            "syslog",
            "swapon",
            "settimeofday",
            "pivot_root",
            "chroot",
        ] {
            assert!(!names(&profile).contains(&call), "{call}");
        }
    }

    #[test]
    fn a_capability_brings_the_calls_that_it_is_for() {
        let profile = profile(|c| c == Capability::SysChroot).unwrap();
        assert!(names(&profile).contains(&"chroot"));
        assert!(!names(&profile).contains(&"mount"));
    }

    #[test]
    fn clone_is_looked_into_and_clone3_is_not_there() {
        let profile = profile(|_| false).unwrap();
        let rules = profile.syscalls().clone().unwrap();
        let rule = |name: &str| rules.iter().find(|r| r.names().iter().any(|n| n == name)).unwrap();
        assert_eq!(rule("clone").args().as_ref().unwrap()[0].value(), NAMESPACE_FLAGS);
        assert_eq!(rule("clone3").errno_ret(), Some(ENOSYS));
    }

    #[test]
    fn no_name_is_misspelt() {
        let newer_than_the_library = [
            "cachestat",
            "fchmodat2",
            "futex_requeue",
            "futex_wait",
            "futex_waitv",
            "futex_wake",
            "getxattrat",
            "listmount",
            "listxattrat",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "map_shadow_stack",
            "mseal",
            "removexattrat",
            "set_mempolicy_home_node",
            "setxattrat",
            "statmount",
            "process_mrelease",
            "quotactl_fd",
        ];
        let with = WITH_CAPABILITY.iter().flat_map(|(_, calls)| calls.iter());
        for name in ALWAYS.iter().chain(with) {
            let known = [ScmpArch::X8664, ScmpArch::X86, ScmpArch::Arm]
                .iter()
                .any(|arch| ScmpSyscall::from_name_by_arch(name, *arch).is_ok());
            assert!(known || newer_than_the_library.contains(name), "{name}");
        }
    }

    #[test]
    fn it_compiles() {
        let compiled = crate::plan::seccomp::compile(&profile(|_| false).unwrap()).unwrap();
        assert!(compiled.program.len() > 8 * 300);
    }
}
