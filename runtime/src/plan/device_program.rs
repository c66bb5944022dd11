//! Device rules as an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
//!
//! The last rule that names a device decides about an access bit. So the program goes through the
//! rules from the last to the first and keeps in a register which of the requested bits are still
//! undecided: an allowing rule takes its bits out (none left: allowed), a refusing rule that hits
//! one ends it. What is left in the end is refused.
//!
//! ```text
//!  r1: struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }
//!  r2: kind   r3: undecided access bits   r4: major   r5: minor
//! ```

use super::bpf::{
    AND, EXIT, Instruction, JUMP, JUMP_IF_SET, JUMP_NOT_EQUAL, LOAD_WORD, MOVE, MOVE_CONSTANT,
    SHIFT_RIGHT, constant, encode, instruction,
};
use super::device_rules::DeviceRule;

const R0: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program's bytes: raw `struct bpf_insn`s.
pub(super) fn generate(rules: &[DeviceRule]) -> Vec<u8> {
    let mut program = prologue();
    for rule in rules.iter().rev() {
        program.extend(block(rule));
    }
    program.extend(decide(false));
    encode(&program)
}

fn prologue() -> Vec<Instruction> {
    vec![
        load(KIND, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        constant(AND, KIND, 0, 0xffff),
        constant(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ]
}

/// One rule: checks that jump over its end, then what it decides.
fn block(rule: &DeviceRule) -> Vec<Instruction> {
    let mut checks = Vec::new();
    let fields = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
    for (register, value) in fields {
        if let Some(value) = value {
            checks.push((register, value.cast_signed()));
        }
    }
    let decision = if rule.allow { allow(rule.access) } else { refuse(rule.access) };
    let mut block: Vec<Instruction> = Vec::new();
    let total = checks.len() + decision.len();
    for (position, (register, value)) in checks.into_iter().enumerate() {
        // At most three checks and a decision of four: the distance fits.
        let distance = i16::try_from(total - position - 1).unwrap_or_default();
        block.push(constant(JUMP_NOT_EQUAL, register, distance, value));
    }
    block.extend(decision);
    block
}

fn allow(access: u32) -> Vec<Instruction> {
    let mut code = vec![
        constant(AND, ACCESS, 0, !access.cast_signed()),
        constant(JUMP_NOT_EQUAL, ACCESS, 2, 0),
    ];
    code.extend(decide(true));
    code
}

fn refuse(access: u32) -> Vec<Instruction> {
    let mut code =
        vec![constant(JUMP_IF_SET, ACCESS, 1, access.cast_signed()), instruction(JUMP, 0, 0, 2, 0)];
    code.extend(decide(false));
    code
}

fn decide(allowed: bool) -> [Instruction; 2] {
    [constant(MOVE_CONSTANT, R0, 0, i32::from(allowed)), instruction(EXIT, 0, 0, 0, 0)]
}

fn load(register: u8, offset: i16) -> Instruction {
    instruction(LOAD_WORD, register, CONTEXT, offset, 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::device_rules::{BLOCK, CHAR, MKNOD, READ, WRITE};
    use super::*;

    #[derive(Clone, Copy, Debug)]
    struct Request {
        kind: u32,
        access: u32,
        major: u32,
        minor: u32,
    }

    /// Each access bit apart: the last rule that names the device and the bit decides.
    fn reference(rules: &[DeviceRule], request: Request) -> bool {
        let names = |rule: &&DeviceRule, bit: u32| {
            rule.access & bit != 0
                && rule.kind.is_none_or(|kind| kind == request.kind)
                && rule.major.is_none_or(|major| major == request.major)
                && rule.minor.is_none_or(|minor| minor == request.minor)
        };
        [MKNOD, READ, WRITE]
            .into_iter()
            .filter(|bit| request.access & bit != 0)
            .all(|bit| rules.iter().rfind(|rule| names(rule, bit)).is_some_and(|rule| rule.allow))
    }

    /// Runs a program as the kernel does, the instructions that occur in one.
    fn interpret(program: &[u8], request: Request) -> bool {
        let context = [request.access << 16 | request.kind, request.major, request.minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let code = &program[at * 8..at * 8 + 8];
            let (to, from) = (usize::from(code[1] & 15), usize::from(code[1] >> 4));
            let offset = isize::from(i16::from_le_bytes([code[2], code[3]]));
            let value = i32::from_le_bytes([code[4], code[5], code[6], code[7]]);
            let value = i64::from(value).cast_unsigned();
            let jump = |taken: bool| if taken { offset } else { 0 };
            let mut skip = 0;
            match code[0] {
                LOAD_WORD => registers[to] = context[offset as usize / 4].into(),
                MOVE => registers[to] = registers[from] & 0xffff_ffff,
                MOVE_CONSTANT => registers[to] = value,
                AND => registers[to] = registers[to] & value & 0xffff_ffff,
                SHIFT_RIGHT => registers[to] = (registers[to] & 0xffff_ffff) >> value,
                JUMP_NOT_EQUAL => skip = jump(registers[to] != value),
                JUMP_IF_SET => skip = jump(registers[to] & value != 0),
                JUMP => skip = offset,
                EXIT => return registers[0] != 0,
                opcode => panic!("opcode {opcode:#x}"),
            }
            at = at.checked_add_signed(1 + skip).unwrap();
        }
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let kind = proptest::option::of(BLOCK..=CHAR);
        let number = || proptest::option::of(0u32..3);
        (any::<bool>(), kind, number(), number(), 1u32..8).prop_map(
            |(allow, kind, major, minor, access)| DeviceRule { allow, kind, major, minor, access },
        )
    }

    fn request() -> impl Strategy<Value = Request> {
        (BLOCK..=CHAR, 1u32..8, 0u32..3, 0u32..3).prop_map(|(kind, access, major, minor)| Request {
            kind,
            access,
            major,
            minor,
        })
    }

    proptest! {
        #[test]
        fn a_program_decides_as_its_rules_do(
            rules in proptest::collection::vec(rule(), 0..12),
            request in request(),
        ) {
            prop_assert_eq!(interpret(&generate(&rules), request), reference(&rules, request));
        }
    }
}
