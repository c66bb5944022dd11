//! `bpf` for maps of sockets and programs of type `SK_LOOKUP`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::libc::{self, c_int, c_long};

const INSTRUCTION_BYTES: usize = 8;
const PLACE_BYTES: u32 = 4;
const DESCRIPTOR_BYTES: u32 = 4;

/// `union bpf_attr` for `BPF_MAP_CREATE`, as far as it is used.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
}

/// For `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// For `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attachment: u32,
}

/// For `BPF_LINK_CREATE`, as far as it is used.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attachment: u32,
    flags: u32,
}

const BPF_SK_LOOKUP: u32 = 36;

/// A map of type `BPF_MAP_TYPE_SOCKMAP`.
pub(super) fn create_socket_map(entries: u32) -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: c_int = 0;
    const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
    let attributes = MapCreate {
        kind: BPF_MAP_TYPE_SOCKMAP,
        key_bytes: PLACE_BYTES,
        value_bytes: DESCRIPTOR_BYTES,
        entries,
    };
    opened(bpf(BPF_MAP_CREATE, &attributes)?)
}

/// Puts a socket into such a map.
pub(super) fn put_socket(
    map: BorrowedFd<'_>,
    place: u32,
    socket: BorrowedFd<'_>,
) -> io::Result<()> {
    const BPF_MAP_UPDATE_ELEM: c_int = 2;
    let descriptor = socket.as_raw_fd().cast_unsigned();
    let attributes = MapUpdate {
        map: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const place).addr() as u64,
        value: (&raw const descriptor).addr() as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &attributes).map(|_| ())
}

/// Loads a program of type `BPF_PROG_TYPE_SK_LOOKUP`: raw `struct bpf_insn`s.
pub(super) fn load_lookup_program(program: &[u8]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: c_int = 5;
    const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
    let count = program.len() / INSTRUCTION_BYTES;
    let whole = count * INSTRUCTION_BYTES == program.len();
    let count = u32::try_from(count).ok().filter(|_| whole);
    let attributes = ProgramLoad {
        kind: BPF_PROG_TYPE_SK_LOOKUP,
        instruction_count: count.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?,
        instructions: program.as_ptr().addr() as u64,
        license: c"Apache-2.0".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"cofferdam\0\0\0\0\0\0\0",
        interface: 0,
        expected_attachment: BPF_SK_LOOKUP,
    };
    opened(bpf(BPF_PROG_LOAD, &attributes)?)
}

/// Attaches such a program to a network namespace.
pub(super) fn link_lookup_program(
    program: BorrowedFd<'_>,
    namespace: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: c_int = 28;
    let attributes = LinkCreate {
        program: program.as_raw_fd().cast_unsigned(),
        target: namespace.as_raw_fd().cast_unsigned(),
        attachment: BPF_SK_LOOKUP,
        flags: 0,
    };
    opened(bpf(BPF_LINK_CREATE, &attributes)?)
}

fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    // SAFETY: all callers pass the attributes of their command, whose addresses are of memory that lives
    // until the call returns and is as long as the command takes it to be; the kernel takes missing
    // attributes as zero.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn opened(descriptor: c_long) -> io::Result<OwnedFd> {
    let descriptor = RawFd::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for this process, close-on-exec, as it does all of `bpf`'s.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
