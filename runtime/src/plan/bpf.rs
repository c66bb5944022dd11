//! Instructions of eBPF (`struct bpf_insn`), and the bytes of a program that is made of them.

/// An instruction: opcode, registers (source in the high half), offset, immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) opcode: u8,
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

// Opcodes of linux/bpf_common.h and linux/bpf.h, put together.
pub(super) const LOAD_WORD: u8 = 0x61; // LDX | MEM | W
pub(super) const STORE_WORD: u8 = 0x63; // STX | MEM | W
pub(super) const LOAD_ADDRESS: u8 = 0x18; // LD | IMM | DW, of which the next instruction is a part
pub(super) const MOVE: u8 = 0xbc; // ALU | MOV | X
pub(super) const MOVE_WHOLE: u8 = 0xbf; // ALU64 | MOV | X
pub(super) const MOVE_CONSTANT: u8 = 0xb7; // ALU64 | MOV | K
pub(super) const ADD: u8 = 0x07; // ALU64 | ADD | K
pub(super) const AND: u8 = 0x54; // ALU | AND | K
pub(super) const SHIFT_RIGHT: u8 = 0x74; // ALU | RSH | K
pub(super) const JUMP_EQUAL: u8 = 0x15; // JMP | JEQ | K
pub(super) const JUMP_NOT_EQUAL: u8 = 0x55; // JMP | JNE | K
pub(super) const JUMP_IF_SET: u8 = 0x45; // JMP | JSET | K
pub(super) const JUMP: u8 = 0x05; // JMP | JA
pub(super) const CALL: u8 = 0x85; // JMP | CALL
pub(super) const EXIT: u8 = 0x95; // JMP | EXIT

pub(super) fn constant(opcode: u8, register: u8, offset: i16, immediate: i32) -> Instruction {
    instruction(opcode, register, 0, offset, immediate)
}

pub(super) fn instruction(
    opcode: u8,
    to: u8,
    from: u8,
    offset: i16,
    immediate: i32,
) -> Instruction {
    Instruction { opcode, registers: from << 4 | to, offset, immediate }
}

pub(super) fn encode(program: &[Instruction]) -> Vec<u8> {
    program.iter().flat_map(bytes).collect()
}

fn bytes(instruction: &Instruction) -> [u8; 8] {
    let [o0, o1] = instruction.offset.to_le_bytes();
    let [i0, i1, i2, i3] = instruction.immediate.to_le_bytes();
    [instruction.opcode, instruction.registers, o0, o1, i0, i1, i2, i3]
}
