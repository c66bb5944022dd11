//! A compiled filter is run by a small interpreter of classic BPF, so that what is asserted is
//! what the kernel would do.

use super::*;

const X86_64: u32 = 0xc000_003e;
const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;

fn refused(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

/// Runs a filter for one call, the instructions that libseccomp and this module write.
fn run(program: &[u8], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = vec![number, architecture, 0, 0];
    data.extend(arguments.iter().flat_map(|value| [*value as u32, (value >> 32) as u32]));
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let code = &program[at * 8..at * 8 + 8];
        let operand = u32::from_le_bytes([code[4], code[5], code[6], code[7]]);
        let jump = |taken: bool| usize::from(if taken { code[2] } else { code[3] });
        let mut skip = 0;
        match u16::from_le_bytes([code[0], code[1]]) {
            0x20 => accumulator = data[operand as usize / 4],
            0x54 => accumulator &= operand,
            0x05 => skip = operand as usize,
            0x15 => skip = jump(accumulator == operand),
            0x25 => skip = jump(accumulator > operand),
            0x35 => skip = jump(accumulator >= operand),
            0x45 => skip = jump(accumulator & operand != 0),
            0x06 => return operand,
            opcode => panic!("opcode {opcode:#x}"),
        }
        at += 1 + skip;
    }
}

fn compiled(profile: &str) -> SeccompPlan {
    compile(&serde_json::from_str(profile).unwrap()).unwrap()
}

fn call(plan: &SeccompPlan, number: i64, arguments: [u64; 6]) -> u32 {
    run(&plan.program, X86_64, u32::try_from(number).unwrap(), arguments)
}

const PROFILE: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "syscalls": [
        {"names": ["read", "write", "no_such_call", "openat2"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
                  {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
    ]}"#;

#[test]
fn calls_get_what_the_profile_says() {
    let plan = compiled(PROFILE);
    assert_eq!(call(&plan, libc::SYS_read, [0; 6]), ALLOWED);
    assert_eq!(call(&plan, libc::SYS_mount, [0; 6]), refused(libc::EPERM));
    assert_eq!(call(&plan, libc::SYS_clone3, [0; 6]), refused(libc::ENOSYS));
    assert_eq!(plan.flags, 1 << 1);
}

#[test]
fn arguments_are_compared() {
    let plan = compiled(PROFILE);
    let with = |number, first| call(&plan, number, [first, 0, 0, 0, 0, 0]);
    assert_eq!(with(libc::SYS_personality, 8), ALLOWED);
    assert_eq!(with(libc::SYS_personality, 9), refused(libc::EPERM));
    assert_eq!(with(libc::SYS_clone, 0x11), ALLOWED);
    assert_eq!(with(libc::SYS_clone, 0x1000_0000), refused(libc::EPERM));
}

#[test]
fn an_argument_named_twice_is_two_rules() {
    let plan = compiled(PROFILE);
    for family in [1, 2] {
        assert_eq!(call(&plan, libc::SYS_socket, [family, 0, 0, 0, 0, 0]), ALLOWED);
    }
    let other = call(&plan, libc::SYS_socket, [3, 0, 0, 0, 0, 0]);
    assert_eq!(other, refused(libc::EPERM));
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let plan = compiled(PROFILE);
    assert_eq!(call(&plan, libc::SYS_openat2, [0; 6]), ALLOWED);
    assert_eq!(call(&plan, libc::SYS_openat2 + 1, [0; 6]), refused(libc::ENOSYS));
    let allowing = compiled(
        r#"{"defaultAction":"SCMP_ACT_ALLOW",
            "syscalls":[{"names":["mount"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    );
    assert_eq!(call(&allowing, 4000, [0; 6]), ALLOWED);
    assert_eq!(call(&allowing, libc::SYS_mount, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
}

#[test]
fn the_other_architecture_has_its_own_numbers() {
    let plan = compiled(PROFILE);
    // `read` is 3 on i386, and 3 is `close` on x86-64.
    assert_eq!(run(&plan.program, 0x4000_0003, 3, [0; 6]), ALLOWED);
    assert_eq!(call(&plan, 3, [0; 6]), refused(libc::EPERM));
}

/// Docker's own, as it puts it into a configuration.
fn docker() -> LinuxSeccomp {
    let config = include_str!("../../../tests/configs/docker.json");
    let config: serde_json::Value = serde_json::from_str(config).unwrap();
    serde_json::from_value(config["linux"]["seccomp"].clone()).unwrap()
}

/// Values at which a rule of the profile changes its mind, and some beside them.
fn telling_values(seccomp: &LinuxSeccomp) -> Vec<u64> {
    let arguments =
        seccomp.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    let said = arguments.flat_map(|one| [one.value(), one.value_two().unwrap_or_default()]);
    let beside = |value: u64| [value.wrapping_sub(1), value, value.wrapping_add(1), value << 32];
    let bits = (0..u64::BITS).map(|bit| 1 << bit);
    let mut values: Vec<u64> = said.flat_map(beside).chain(bits).chain([0, u64::MAX]).collect();
    values.sort_unstable();
    values.dedup();
    values
}

#[test]
fn a_binary_search_finds_for_each_call_what_a_linear_one_does() {
    const I386: u32 = 0x4000_0003;
    const AARCH64: u32 = 0xc000_00b7;
    let numbers = (0..600).flat_map(|number| [number, X32_BIT + number]);
    let numbers: Vec<u32> = numbers.chain([X32_BIT - 1, u32::MAX]).collect();
    for seccomp in [docker(), serde_json::from_str(PROFILE).unwrap()] {
        let [linear, binary] = [Search::Linear, Search::Binary]
            .map(|search| compile_as(search, &seccomp).unwrap().program);
        assert_ne!(linear, binary);
        for first in telling_values(&seccomp) {
            for (architecture, number) in
                [X86_64, I386, AARCH64].iter().flat_map(|one| numbers.iter().map(move |n| (one, n)))
            {
                let answer = |program| run(program, *architecture, *number, [first; 6]);
                assert_eq!(
                    answer(&binary),
                    answer(&linear),
                    "{number} of {architecture:#x} with {first:#x}"
                );
            }
        }
    }
}

#[test]
fn a_listener_and_a_seventh_argument_are_refused() {
    let notify = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap();
    assert!(matches!(compile(&notify), Err(SeccompError::Notify)));
    let argument = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],
        "action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
    let argument = serde_json::from_str(argument).unwrap();
    assert!(matches!(compile(&argument), Err(SeccompError::Argument(6))));
}
