//! Seccomp: what each thread may ask of the kernel, from `vmm/seccomp/*.json`, compiled with the
//! monitor. Anything else ends the process at once.

use seccompiler::sock_filter;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reports and waits.
    Main,
    /// Runs the guest.
    Vcpu,
    /// Serves vsock, entropy, network and the control socket.
    Devices,
    /// Serves files.
    Fs,
    /// Watches the host's folders for the file server.
    Watch,
    /// Serves disks.
    Disks,
}

/// The filter was refused.
#[derive(Debug, thiserror::Error)]
#[error("The seccomp filter of the {role:?} threads cannot be installed")]
pub struct SeccompError {
    role: Role,
    source: seccompiler::Error,
}

const INSTRUCTION_BYTES: usize = 8;

/// Installs the filter of a role on the calling thread, for good.
///
/// # Errors
/// When the kernel refuses.
pub fn install(role: Role) -> Result<(), SeccompError> {
    seccompiler::apply_filter(&program(role)).map_err(|source| SeccompError { role, source })
}

fn program(role: Role) -> Vec<sock_filter> {
    let bytes: &[u8] = match role {
        Role::Main => include_bytes!(concat!(env!("OUT_DIR"), "/main.bpf")),
        Role::Vcpu => include_bytes!(concat!(env!("OUT_DIR"), "/vcpu.bpf")),
        Role::Devices => include_bytes!(concat!(env!("OUT_DIR"), "/devices.bpf")),
        Role::Fs => include_bytes!(concat!(env!("OUT_DIR"), "/fs.bpf")),
        Role::Watch => include_bytes!(concat!(env!("OUT_DIR"), "/watch.bpf")),
        Role::Disks => include_bytes!(concat!(env!("OUT_DIR"), "/disks.bpf")),
    };
    bytes.as_chunks::<INSTRUCTION_BYTES>().0.iter().map(instruction).collect()
}

fn instruction([c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; INSTRUCTION_BYTES]) -> sock_filter {
    sock_filter {
        code: u16::from_le_bytes([*c0, *c1]),
        jt: *jt,
        jf: *jf,
        k: u32::from_le_bytes([*k0, *k1, *k2, *k3]),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    /// The whole-process list of Kata's Dragonball has 168.
    const MAX_SYSCALLS: usize = 40;
    const FILES: [(&str, &str, Role); 6] = [
        ("main", include_str!("../../seccomp/main.json"), Role::Main),
        ("vcpu", include_str!("../../seccomp/vcpu.json"), Role::Vcpu),
        ("devices", include_str!("../../seccomp/devices.json"), Role::Devices),
        ("fs", include_str!("../../seccomp/fs.json"), Role::Fs),
        ("watch", include_str!("../../seccomp/watch.json"), Role::Watch),
        ("disks", include_str!("../../seccomp/disks.json"), Role::Disks),
    ];

    fn rules(name: &str, text: &str) -> Vec<Value> {
        let document: Value = serde_json::from_str(text).unwrap();
        assert_eq!(document[name]["mismatch_action"], "kill_process", "{name}");
        document[name]["filter"].as_array().unwrap().clone()
    }

    #[test]
    fn no_thread_may_make_more_than_forty_system_calls() {
        for (name, text, _) in FILES {
            let rules = rules(name, text);
            let calls: BTreeSet<_> = rules.iter().map(|rule| rule["syscall"].as_str()).collect();
            assert!(calls.len() <= MAX_SYSCALLS, "{name}: {}", calls.len());
        }
    }

    #[test]
    fn every_entry_has_its_reason() {
        for (name, text, _) in FILES {
            for rule in rules(name, text) {
                let reason = rule["comment"].as_str().unwrap_or_default();
                assert!(reason.len() > 10 && reason.ends_with('.'), "{name}: {rule}");
            }
        }
    }

    #[test]
    fn device_control_is_filtered_by_request_everywhere() {
        for (name, text, _) in FILES {
            for rule in rules(name, text).iter().filter(|rule| rule["syscall"] == "ioctl") {
                assert_eq!(rule["args"][0]["index"], 1, "{name}: {rule}");
            }
        }
    }

    #[test]
    fn nobody_may_run_a_program_or_start_a_thread_or_a_socket() {
        let forbidden = [
            "execve", "execveat", "clone", "clone3", "fork", "socket", "connect", "ptrace", "mount",
        ];
        for (name, text, _) in FILES {
            let rules = rules(name, text);
            assert!(
                rules.iter().all(|rule| !forbidden.iter().any(|call| rule["syscall"] == *call))
            );
        }
    }

    /// As `seccomp_data` (`linux/seccomp.h`) has it, in words of 32 bits.
    type Call = [u32; 16];

    const X86_64: u32 = 0xc000_003e;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;

    fn call(number: u32) -> Call {
        let mut call = [0; 16];
        call[..2].copy_from_slice(&[number, X86_64]);
        call
    }

    /// What a program says of a call, and after how many steps.
    fn answer(program: &[sock_filter], call: &Call) -> (u32, usize) {
        let (mut at, mut loaded) = (0, 0);
        for steps in 1.. {
            let sock_filter { code, jt, jf, k } = program[at];
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            at += 1 + match code {
                0x20 => {
                    loaded = call[k as usize / 4];
                    0
                }
                0x54 => {
                    loaded &= k;
                    0
                }
                0x05 => k as usize,
                0x15 => jump(loaded == k),
                0x25 => jump(loaded > k),
                0x35 => jump(loaded >= k),
                0x06 => return (k, steps),
                _ => panic!("{code:#x}"),
            };
        }
        unreachable!()
    }

    /// The calls of a list, by the numbers of this architecture, and whether by their arguments.
    fn listed(name: &str, text: &str) -> BTreeMap<u32, bool> {
        let mut listed = BTreeMap::new();
        for rule in rules(name, text) {
            let call = rule["syscall"].as_str().unwrap();
            let one = serde_json::json!({ name: {
                "mismatch_action": "kill_process", "match_action": "allow",
                "filter": [{ "syscall": call }],
            }});
            let one = seccompiler::compile_from_json(
                one.to_string().as_bytes(),
                seccompiler::TargetArch::x86_64,
            );
            let number = one.unwrap()[name][4].k;
            listed.insert(number, rule["args"].is_array());
        }
        listed
    }

    #[test]
    fn what_is_listed_is_allowed_and_nothing_else() {
        for (name, text, role) in FILES {
            let (program, listed) = (program(role), listed(name, text));
            for number in (0..600).chain([0x4000_0000, u32::MAX]) {
                let expected = match listed.get(&number) {
                    Some(false) => ALLOW,
                    // None of them allows arguments of zeros.
                    Some(true) | None => KILL,
                };
                let (said, _) = answer(&program, &call(number));
                assert_eq!(said, expected, "{name}: {number}");
            }
            let mut foreign = call(*listed.keys().next().unwrap());
            foreign[1] = 0x4000_0003;
            assert_eq!(answer(&program, &foreign).0, KILL, "{name}");
        }
    }

    #[test]
    fn the_rules_of_a_call_are_kept() {
        let kvm_run = 0xae80;
        for (role, request, expected) in [
            (Role::Vcpu, kvm_run, ALLOW),
            (Role::Vcpu, kvm_run + 1, KILL),
            (Role::Fs, kvm_run, KILL),
        ] {
            let mut ioctl = call(16);
            ioctl[6] = request;
            assert_eq!(answer(&program(role), &ioctl).0, expected, "{role:?} {request:#x}");
        }
    }

    /// The compiler's own program, which compares with one call after another, is the oracle: for each number, with
    /// each value that a rule speaks of in each argument.
    #[test]
    fn each_call_is_answered_as_by_the_compilers_own_program() {
        for (name, text, role) in FILES {
            let mut whole =
                seccompiler::compile_from_json(text.as_bytes(), seccompiler::TargetArch::x86_64)
                    .unwrap();
            let (program, oracle) = (program(role), whole.remove(name).unwrap());
            let rules = rules(name, text);
            let conditions = rules.iter().filter_map(|rule| rule["args"].as_array()).flatten();
            let mut values: BTreeSet<u64> =
                conditions.filter_map(|condition| condition["val"].as_u64()).collect();
            values.extend([1, u64::MAX]);
            for number in listed(name, text).into_keys() {
                for (argument, value) in (0..6).flat_map(|a| values.iter().map(move |v| (a, *v))) {
                    let mut call = call(number);
                    call[4 + 2 * argument] = value as u32;
                    call[5 + 2 * argument] = (value >> 32) as u32;
                    let (ours, theirs) = (answer(&program, &call).0, answer(&oracle, &call).0);
                    assert_eq!(ours, theirs, "{name}: {number}, {value:#x} in {argument}");
                }
            }
        }
    }

    /// The kernel tries each number when a filter is installed: a start waits for that.
    #[test]
    fn a_call_is_found_in_few_steps() {
        for (name, _, role) in FILES {
            let program = program(role);
            let steps = |number| answer(&program, &call(number)).1;
            let unlisted = steps(59).max(steps(599));
            assert!(unlisted <= 14, "{name}: {unlisted}");
        }
    }

    #[test]
    fn every_program_is_there_and_small_enough_for_the_kernel() {
        for (_, _, role) in FILES {
            let instructions = program(role).len();
            assert!((10..4096).contains(&instructions), "{role:?}: {instructions}");
        }
    }
}
