//! What the throw-away VM executes, in ring 0 and long mode: a loop to be timed, and the
//! instructions that a kernel cannot do without, each followed by a mark on a port.

/// Where the code lies.
pub(super) const CODE_ADDRESS: u64 = 0x1_0000;
/// The handler of breakpoints.
pub(super) const HANDLER_ADDRESS: u64 = 0x1_1000;
/// The interrupt table: four gates, the last for breakpoints.
pub(super) const IDT_ADDRESS: u64 = 0x1_2000;
/// Sixteen bytes for the wide exchange.
pub(super) const WIDE_ADDRESS: u64 = 0x1_3000;
/// The processor's state, saved and restored.
pub(super) const STATE_ADDRESS: u64 = 0x1_4000;
/// The top of the stack.
pub(super) const STACK_ADDRESS: u64 = 0x1_8000;

/// Where no memory is, but the page tables reach.
pub(super) const DEVICE_ADDRESS: u64 = 0x2000_0000;

/// Instructions in one turn of the loop.
pub(super) const LOOP_INSTRUCTIONS: u64 = 2;

/// The port for marks; on a PC the one for diagnostics.
pub(super) const MARK_PORT: u16 = 0x80;
/// The end of the timed loop.
pub(super) const LOOP_DONE: u8 = 1;

/// One instruction that a kernel needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// How people call it.
    pub(super) name: &'static str,
    /// Its bytes, with what prepares it.
    code: &'static [u8],
}

/// In the order in which they are executed. Registers: rdi the wide bytes, rsi the state, r8 an
/// address whose writes raise an event.
const STEPS: [Step; 4] = [
    // int3
    Step { name: "int3", code: &[0xcc] },
    // mov eax, 3; xor edx, edx; xsave [rsi]; xrstor [rsi]
    Step {
        name: "xsave and xrstor",
        code: &[0xb8, 3, 0, 0, 0, 0x31, 0xd2, 0x0f, 0xae, 0x26, 0x0f, 0xae, 0x2e],
    },
    // mov dword [r8], 0
    Step { name: "a write to a device", code: &[0x41, 0xc7, 0x00, 0, 0, 0, 0] },
    // lock cmpxchg16b [rdi]
    Step { name: "cmpxchg16b", code: &[0xf0, 0x48, 0x0f, 0xc7, 0x0f] },
];

/// The last of the steps is not for a processor without that instruction: a kernel asks before it
/// uses it.
pub(super) fn steps(has_cmpxchg16b: bool) -> &'static [Step] {
    if has_cmpxchg16b { &STEPS } else { &STEPS[..STEPS.len() - 1] }
}

/// The mark after the step at `index`.
pub(super) fn mark(index: usize) -> u8 {
    LOOP_DONE + 1 + index as u8
}

/// The code: a loop of rcx turns, then the steps.
pub(super) fn code() -> Vec<u8> {
    // dec rcx; jnz -5
    let mut code = vec![0x48, 0xff, 0xc9, 0x75, 0xfb];
    code.extend(out(LOOP_DONE));
    for (index, step) in STEPS.iter().enumerate() {
        code.extend(step.code);
        code.extend(out(mark(index)));
    }
    code
}

/// mov al, mark; out MARK_PORT, al
fn out(mark: u8) -> [u8; 4] {
    [0xb0, mark, 0xe6, MARK_PORT as u8]
}

/// The breakpoint handler: iretq.
pub(super) const HANDLER: [u8; 2] = [0x48, 0xcf];

/// The interrupt table.
pub(super) fn interrupt_table(code_selector: u16) -> Vec<u8> {
    const BREAKPOINT: usize = 3;
    const GATE_BYTES: usize = 16;
    const INTERRUPT_GATE: u8 = 0x8e;
    let mut table = vec![0; GATE_BYTES * (BREAKPOINT + 1)];
    let gate = &mut table[GATE_BYTES * BREAKPOINT..];
    let [a0, a1, a2, a3, a4, a5, a6, a7] = HANDLER_ADDRESS.to_le_bytes();
    let [s0, s1] = code_selector.to_le_bytes();
    gate[..12].copy_from_slice(&[a0, a1, s0, s1, 0, INTERRUPT_GATE, a2, a3, a4, a5, a6, a7]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_jumps_back_to_its_first_instruction() {
        let code = code();
        let after_jump = 5_i64;
        assert_eq!(after_jump + i64::from(code[4] as i8), 0);
    }

    #[test]
    fn a_processor_without_the_wide_exchange_is_not_asked_for_it() {
        let names = |has_it| steps(has_it).iter().map(|step| step.name).collect::<Vec<_>>();
        assert_eq!(names(true).last(), Some(&"cmpxchg16b"));
        assert_eq!(names(false), ["int3", "xsave and xrstor", "a write to a device"]);
    }

    #[test]
    fn the_gate_holds_the_handlers_address() {
        let table = interrupt_table(0x10);
        assert_eq!(table.len(), 64);
        let gate = &table[48..];
        let low = u64::from(u16::from_le_bytes([gate[0], gate[1]]));
        let middle = u64::from(u16::from_le_bytes([gate[6], gate[7]]));
        assert_eq!(low | middle << 16, HANDLER_ADDRESS);
        assert_eq!(u16::from_le_bytes([gate[2], gate[3]]), 0x10);
    }
}
