//! Which connections in a pod's network namespace on the host are carried into its guest, as an eBPF program
//! of type `BPF_PROG_TYPE_SK_LOOKUP`: the kernel asks it, before it looks among the sockets that listen, for
//! whom a new connection is.
//!
//! Those by TCP to exactly 127.0.0.1 or `::1` are given to the first or the second socket of a map, whatever
//! the port. All others go where they would without it, and so do those to a port where somebody listened
//! in the namespace when this was made. Where the map has no socket, nothing is different either.
//!
//! ```text
//!  r6: struct bpf_sk_lookup   r7: port, later the socket   r8: its place in the map
//! ```

use std::collections::BTreeSet;

use super::bpf::{
    ADD, CALL, EXIT, Instruction, JUMP, JUMP_EQUAL, JUMP_NOT_EQUAL, LOAD_ADDRESS, LOAD_WORD,
    MOVE_CONSTANT, MOVE_WHOLE, STORE_WORD, constant, encode, instruction,
};

/// Ports on which others may listen. It is the host that decides who does, and a pod's namespace there has
/// nobody, as a rule; each is an instruction that every new connection is looked at by.
const MAX_TAKEN: usize = 256;

// Of struct bpf_sk_lookup.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_V4: i16 = 40;
const LOCAL_V6: [i16; 4] = [44, 48, 52, 56];
const LOCAL_PORT: i16 = 60;

const TCP: i32 = 6;
const INET: i32 = 2;
const INET6: i32 = 10;
const LOCALHOST_V4: i32 = i32::from_ne_bytes([127, 0, 0, 1]);
const LOCALHOST_V6: [i32; 4] = [0, 0, 0, i32::from_ne_bytes([0, 0, 0, 1])];

const MAP_LOOKUP: i32 = 1;
const RELEASE: i32 = 86;
const ASSIGN: i32 = 124;
/// The address is that of the map with this descriptor.
const OF_MAP: u8 = 1;
const PASS: i32 = 1;

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const CONTEXT: u8 = 6;
const PORT: u8 = 7;
const SOCKET: u8 = 7;
const PLACE: u8 = 8;
const STACK: u8 = 10;
/// Where the place is on the stack.
const PLACE_AT: i16 = -4;

/// The ports of a network namespace on which somebody listens already, by the addresses that they would be
/// taken from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    v4: BTreeSet<u16>,
    v6: BTreeSet<u16>,
}

/// Somebody listens on more ports than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("There are listening sockets on more than {MAX_TAKEN} ports")]
pub(crate) struct TooManyTaken;

impl Taken {
    /// From what `/proc/net/tcp` and `/proc/net/tcp6` say. The second may be empty.
    pub(crate) fn read(tcp: &str, tcp6: &str) -> Result<Self, TooManyTaken> {
        let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
        v4.extend(listening(tcp, &["0100007F", "00000000"]));
        // Whether one that listens everywhere is for both versions of IP is not said: as a rule it is.
        let everywhere = "00000000000000000000000000000000";
        v4.extend(listening(tcp6, &["0000000000000000FFFF00000100007F", everywhere]));
        v6.extend(listening(tcp6, &["00000000000000000000000001000000", everywhere]));
        let few = v4.len() <= MAX_TAKEN && v6.len() <= MAX_TAKEN;
        few.then_some(Self { v4, v6 }).ok_or(TooManyTaken)
    }
}

/// The ports of those that listen on one of these addresses.
fn listening<'a>(table: &'a str, addresses: &'a [&str]) -> impl Iterator<Item = u16> + 'a {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.split_once(':')?;
        let listens = words.nth(1)? == LISTEN && addresses.contains(&address);
        u16::from_str_radix(port, 16).ok().filter(|_| listens)
    })
}

/// The program's bytes, for a map of sockets with this descriptor.
pub(crate) fn generate(map: i32, taken: &Taken) -> Vec<u8> {
    let steer = steer(map);
    let v4 = [local(&[LOCAL_V4], &[LOCALHOST_V4], &taken.v4), place(0)].concat();
    let v6 = [local(&LOCAL_V6, &LOCALHOST_V6, &taken.v6), place(1)].concat();
    // A few hundred instructions at most: distances fit.
    let over = |part: &[Step]| part.len() as i16;
    let mut steps = vec![
        Step::Do(instruction(MOVE_WHOLE, CONTEXT, R1, 0, 0)),
        Step::Do(load(R2, PROTOCOL)),
        Step::PassUnless(R2, TCP),
        Step::Do(load(PORT, LOCAL_PORT)),
        Step::Do(load(R2, FAMILY)),
        // To what is for the second version of IP, over the first's and the jump behind it.
        Step::Do(constant(JUMP_NOT_EQUAL, R2, over(&v4) + 1, INET)),
    ];
    steps.extend(v4);
    // Over the second's and its check.
    steps.push(Step::Do(constant(JUMP, 0, over(&v6) + 1, 0)));
    steps.push(Step::PassUnless(R2, INET6));
    steps.extend(v6);
    steps.extend(steer);
    encode(&resolve(&steps))
}

/// An instruction, or a jump to where the connection is left to the kernel.
#[derive(Clone, Copy, Debug)]
enum Step {
    Do(Instruction),
    PassIf(u8, i32),
    PassUnless(u8, i32),
}

/// The steps, and behind them what leaves the connection to the kernel.
fn resolve(steps: &[Step]) -> Vec<Instruction> {
    let end = steps.len();
    let step = |(at, step): (usize, &Step)| {
        let distance = (end - at - 1) as i16;
        match *step {
            Step::Do(instruction) => instruction,
            Step::PassIf(register, value) => constant(JUMP_EQUAL, register, distance, value),
            Step::PassUnless(register, value) => {
                constant(JUMP_NOT_EQUAL, register, distance, value)
            }
        }
    };
    let pass = [constant(MOVE_CONSTANT, R0, 0, PASS), constant(EXIT, 0, 0, 0)];
    steps.iter().enumerate().map(step).chain(pass).collect()
}

/// Goes on only for an address, and for ports that are nobody's.
fn local(at: &[i16], address: &[i32], taken: &BTreeSet<u16>) -> Vec<Step> {
    let words = at.iter().zip(address);
    let of_address = words.flat_map(|(&at, &word)| {
        // The family is still needed where the second version of IP is asked for.
        [Step::Do(load(R3, at)), Step::PassUnless(R3, word)]
    });
    let ports = taken.iter().map(|&port| Step::PassIf(PORT, port.into()));
    of_address.chain(ports).collect()
}

fn place(place: i32) -> Vec<Step> {
    vec![Step::Do(constant(MOVE_CONSTANT, PLACE, 0, place))]
}

/// Gives the connection to the socket at the place, if there is one.
fn steer(map: i32) -> Vec<Step> {
    let call = |function| Step::Do(constant(CALL, 0, 0, function));
    let take = |to, from| Step::Do(instruction(MOVE_WHOLE, to, from, 0, 0));
    vec![
        Step::Do(instruction(STORE_WORD, STACK, PLACE, PLACE_AT, 0)),
        Step::Do(instruction(LOAD_ADDRESS, R1, OF_MAP, 0, map)),
        Step::Do(constant(0, 0, 0, 0)),
        take(R2, STACK),
        Step::Do(constant(ADD, R2, 0, PLACE_AT.into())),
        call(MAP_LOOKUP),
        Step::PassIf(R0, 0),
        take(SOCKET, R0),
        take(R1, CONTEXT),
        take(R2, SOCKET),
        Step::Do(constant(MOVE_CONSTANT, R3, 0, 0)),
        // What it answers does not matter: the connection is steered, or left to the kernel.
        call(ASSIGN),
        take(R1, SOCKET),
        call(RELEASE),
    ]
}

fn load(register: u8, offset: i16) -> Instruction {
    instruction(LOAD_WORD, register, CONTEXT, offset, 0)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    const MAP: i32 = 7;

    /// What the kernel would ask: the context's words, of which only these are looked at.
    fn context(protocol: i32, local: SocketAddr) -> Vec<i32> {
        let mut context = vec![0; 17];
        let mut set = |at: i16, value| context[at as usize / 4] = value;
        set(PROTOCOL, protocol);
        set(LOCAL_PORT, local.port().into());
        match local.ip() {
            IpAddr::V4(address) => {
                set(FAMILY, INET);
                set(LOCAL_V4, i32::from_ne_bytes(address.octets()));
            }
            IpAddr::V6(address) => {
                set(FAMILY, INET6);
                for (at, word) in LOCAL_V6.into_iter().zip(address.octets().as_chunks().0) {
                    set(at, i32::from_ne_bytes(*word));
                }
            }
        }
        context
    }

    /// Runs a program as the kernel does, the instructions that occur in one: the place of the socket that
    /// the connection is given to.
    fn interpret(program: &[u8], context: &[i32], sockets: [bool; 2]) -> Option<i64> {
        const SOCKET_ADDRESS: i64 = 1 << 40;
        let (mut registers, mut on_stack, mut given, mut held) = ([0_i64; 11], 0, None, 0);
        let mut at = 0;
        loop {
            let code = &program[at * 8..at * 8 + 8];
            let (to, from) = (usize::from(code[1] & 15), usize::from(code[1] >> 4));
            let offset = i16::from_le_bytes([code[2], code[3]]);
            let value = i32::from_le_bytes([code[4], code[5], code[6], code[7]]);
            let same = registers[to] == i64::from(value);
            let mut skip = 0;
            match code[0] {
                LOAD_WORD if from == usize::from(CONTEXT) => {
                    registers[to] = i64::from(context[offset as usize / 4].cast_unsigned());
                }
                STORE_WORD => on_stack = registers[from],
                LOAD_ADDRESS => {
                    assert_eq!((value, from), (MAP, OF_MAP.into()));
                    skip = 1;
                }
                MOVE_WHOLE => registers[to] = registers[from],
                MOVE_CONSTANT => registers[to] = value.into(),
                ADD => registers[to] += i64::from(value),
                JUMP => skip = offset,
                JUMP_EQUAL if same => skip = offset,
                JUMP_NOT_EQUAL if !same => skip = offset,
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                CALL => match value {
                    MAP_LOOKUP => {
                        let found = sockets[on_stack as usize];
                        held += i32::from(found);
                        registers[0] = if found { SOCKET_ADDRESS + on_stack } else { 0 };
                    }
                    ASSIGN => given = Some(registers[2] - SOCKET_ADDRESS),
                    RELEASE => held -= 1,
                    other => panic!("function {other}"),
                },
                EXIT => {
                    assert_eq!((registers[0], held), (PASS.into(), 0));
                    return given;
                }
                opcode => panic!("opcode {opcode:#x}"),
            }
            at = at.checked_add_signed(1 + isize::from(skip)).unwrap();
        }
    }

    fn steered(taken: &Taken, protocol: i32, local: &str) -> Option<i64> {
        let context = context(protocol, local.parse().unwrap());
        interpret(&generate(MAP, taken), &context, [true; 2])
    }

    #[test]
    fn only_tcp_to_exactly_the_two_addresses_is_steered() {
        let nobody = Taken::default();
        assert_eq!(steered(&nobody, TCP, "127.0.0.1:80"), Some(0));
        assert_eq!(steered(&nobody, TCP, "[::1]:80"), Some(1));
        let others =
            ["127.0.0.11:53", "127.0.0.2:80", "10.0.0.1:80", "[::2]:80", "[::]:80", "[1::1]:80"];
        assert_eq!(others.map(|other| steered(&nobody, TCP, other)), [None; 6]);
        assert_eq!(steered(&nobody, 17, "127.0.0.1:80"), None);
        assert_eq!(steered(&nobody, 17, "[::1]:80"), None);
    }

    #[test]
    fn without_a_socket_the_connection_is_the_kernels() {
        let program = generate(MAP, &Taken::default());
        let context = context(TCP, "[::1]:80".parse().unwrap());
        assert_eq!(interpret(&program, &context, [true, false]), None);
    }

    /// The columns of these files as Linux 6.1 writes them, but for the last ones.
    const TCP_TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n   \
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
        1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
        2: 0B00007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n   \
        3: 0100007F:0050 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0\n";
    const TCP6_TABLE: &str = "  sl  local_address                         remote_address        st\n   \
        0: 00000000000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 0\n   \
        1: 00000000000000000000000000000000:2328 00000000000000000000000000000000:0000 0A 0\n";

    #[test]
    fn where_somebody_listens_already_nothing_is_steered() {
        let taken = Taken::read(TCP_TABLE, TCP6_TABLE).unwrap();
        assert_eq!(taken.v4, BTreeSet::from([22, 8080, 9000]));
        assert_eq!(taken.v6, BTreeSet::from([443, 9000]));
        assert_eq!(steered(&taken, TCP, "127.0.0.1:8080"), None);
        assert_eq!(steered(&taken, TCP, "[::1]:8080"), Some(1));
        assert_eq!(steered(&taken, TCP, "127.0.0.1:443"), Some(0));
        assert_eq!(steered(&taken, TCP, "[::1]:443"), None);
        // Only the end of a connection has it.
        assert_eq!(steered(&taken, TCP, "127.0.0.1:80"), Some(0));
    }

    #[test]
    fn so_many_ports_may_be_taken_and_no_more() {
        let table = |count: usize| {
            let line = |port| format!("\n 0: 00000000:{port:04X} 00000000:0000 0A 0");
            (1..=count).map(line).collect::<String>()
        };
        let taken = Taken::read(&table(MAX_TAKEN), "").unwrap();
        assert_eq!(steered(&taken, TCP, &format!("127.0.0.1:{MAX_TAKEN}")), None);
        assert_eq!(steered(&taken, TCP, &format!("127.0.0.1:{}", MAX_TAKEN + 1)), Some(0));
        assert_eq!(Taken::read(&table(MAX_TAKEN + 1), ""), Err(TooManyTaken));
    }

    proptest! {
        #[test]
        fn any_port_that_is_nobodys_is_steered(
            port: u16, v4 in proptest::collection::btree_set(any::<u16>(), 0..20),
            v6 in proptest::collection::btree_set(any::<u16>(), 0..20),
        ) {
            let taken = Taken { v4, v6 };
            let to = |address: &str| steered(&taken, TCP, &format!("{address}:{port}"));
            prop_assert_eq!(to("127.0.0.1"), (!taken.v4.contains(&port)).then_some(0));
            prop_assert_eq!(to("[::1]"), (!taken.v6.contains(&port)).then_some(1));
        }
    }
}
