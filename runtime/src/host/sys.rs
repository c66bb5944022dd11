//! The system calls that have no safe wrapper: a child in new namespaces, a plain fork, and
//! attributes of a detached mount.
//!
//! What a child does between its birth and `exec` is here as well, because it is all system calls:
//! it allocates nothing, takes no lock and does not return.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::libc;

/// What a child in new namespaces executes.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// The program.
    pub(crate) path: &'a CStr,
    /// Its arguments, the name first. The environment is empty.
    pub(crate) arguments: &'a [CString],
    /// Descriptors that it keeps under their numbers; every other one from 3 on is closed.
    pub(crate) kept: &'a [BorrowedFd<'a>],
    /// What its descriptors 0 to 2 are.
    pub(crate) standard: BorrowedFd<'a>,
    /// The processors that it stays on; empty: all.
    pub(crate) cpus: &'a [u32],
    /// The control group (v2) that it is born in; absent: the caller's.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Mode and nodes of its memory (`set_mempolicy`).
    pub(crate) memory: Option<(u32, &'a [u32])>,
    /// It has a network namespace of its own; else the caller's.
    pub(crate) own_network: bool,
}

/// A child that waits at its gate: it goes on when a byte comes through, and answers with an
/// `errno` if it could not execute its program. Closed without an answer: it did.
#[derive(Debug)]
pub(crate) struct GatedChild {
    /// Its number.
    pub(crate) pid: i32,
    /// Its descriptor, which no other process can have.
    pub(crate) pidfd: OwnedFd,
}

/// User, mount, pid, ipc and uts namespaces of its own. That of control groups is made when the
/// child is in its groups, and that of the network may be another one's.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// A flag of `clone3` alone, above the 32 bits of the others.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts a child in new namespaces that waits for a byte on `gate` and then executes `program`.
/// `gate` is the child's end of a connected pair of close-on-exec sockets, `far` the caller's:
/// the child closes it, so that it ends when the caller does.
///
/// The caller must be single-threaded: the child runs on a copy of its memory.
pub(crate) fn spawn_gated(
    program: &Program<'_>,
    gate: BorrowedFd<'_>,
    far: BorrowedFd<'_>,
) -> io::Result<GatedChild> {
    let mut argv: Vec<*const libc::c_char> =
        program.arguments.iter().map(|argument| argument.as_ptr()).collect();
    argv.push(ptr::null());
    let kept: Vec<RawFd> = program.kept.iter().map(AsRawFd::as_raw_fd).collect();
    let cpus = cpu_set(program.cpus);
    let memory = program.memory.map(|(mode, nodes)| (mode, node_mask(nodes)));
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero `clone_args` is valid.
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    let network = if program.own_network { libc::CLONE_NEWNET } else { 0 };
    clone.flags = u64::from((NAMESPACES | network | libc::CLONE_PIDFD).cast_unsigned());
    if let Some(group) = program.cgroup {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = u64::from(group.as_raw_fd().cast_unsigned());
    }
    clone.pidfd = (&raw mut pidfd) as u64;
    clone.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: no stack and no CLONE_VM: the child continues here on a copy of this memory, as
    // after fork. `clone` and the place for the pidfd live until the call returns.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let setup = ChildSetup {
                path: program.path.as_ptr(),
                argv: argv.as_ptr(),
                kept: &kept,
                standard: program.standard.as_raw_fd(),
                gate: gate.as_raw_fd(),
                far: far.as_raw_fd(),
                cpus: cpus.as_ref(),
                memory: memory.as_ref().map(|(mode, nodes)| (*mode, nodes.as_slice())),
            };
            // SAFETY: this is the child, alone on its copy of the memory.
            unsafe { become_program(&setup) }
        }
        pid => Ok(GatedChild {
            // A pid is at most 2^22.
            pid: i32::try_from(pid).unwrap_or_default(),
            // SAFETY: the kernel has just stored a new descriptor there, owned by nobody else.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Everything that the child needs, prepared before its birth.
struct ChildSetup<'a> {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    kept: &'a [RawFd],
    standard: RawFd,
    gate: RawFd,
    far: RawFd,
    cpus: Option<&'a libc::cpu_set_t>,
    memory: Option<(u32, &'a [libc::c_ulong])>,
}

/// The child's whole life before `exec`.
///
/// # Safety
/// Only in a child right after its birth; the pointers in `setup` must be those of live,
/// terminated strings and arrays.
unsafe fn become_program(setup: &ChildSetup<'_>) -> ! {
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    let mut byte = 0u8;
    // SAFETY: system calls on descriptors of our own and memory that lives here; the strings are
    // the caller's promise. `execve` returns only when it failed, and `_exit` does not.
    unsafe {
        libc::close(setup.far);
        if libc::read(setup.gate, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(1);
        }
        // Not before the gate: what it sees of control groups begins with those that it is in.
        let mut failed = libc::unshare(libc::CLONE_NEWCGROUP) == -1;
        failed |= libc::setsid() == -1;
        failed |= libc::chdir(c"/".as_ptr()) == -1;
        for standard in 0..3 {
            failed |= libc::dup2(setup.standard, standard) == -1;
        }
        let every = libc::c_uint::MAX;
        failed |= libc::close_range(3, every, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) == -1;
        for descriptor in setup.kept {
            failed |= libc::fcntl(*descriptor, libc::F_SETFD, 0) == -1;
        }
        if let Some(cpus) = setup.cpus {
            failed |= libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) == -1;
        }
        if let Some((mode, nodes)) = setup.memory {
            // The kernel looks at one bit less than it is told of.
            let bits = if nodes.is_empty() { 0 } else { size_of_val(nodes) * 8 + 1 };
            let mask = if nodes.is_empty() { ptr::null() } else { nodes.as_ptr() };
            failed |= libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) == -1;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        failed |= libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) == -1;
        if !failed {
            libc::execve(setup.path, setup.argv, environment.as_ptr());
        }
        let errno = (*libc::__errno_location()).to_le_bytes();
        libc::write(setup.gate, errno.as_ptr().cast(), errno.len());
        libc::_exit(127)
    }
}

/// A bit for each memory node.
fn node_mask(nodes: &[u32]) -> Vec<libc::c_ulong> {
    let bits = libc::c_ulong::BITS;
    let words = nodes.iter().max().map_or(0, |last| last / bits + 1);
    let mut mask = vec![0 as libc::c_ulong; words as usize];
    for node in nodes {
        if let Some(word) = mask.get_mut((node / bits) as usize) {
            *word |= 1 << (node % bits);
        }
    }
    mask
}

/// `None` for an empty list. Numbers that do not fit the set are left out: no kernel has them.
fn cpu_set(cpus: &[u32]) -> Option<libc::cpu_set_t> {
    if cpus.is_empty() {
        return None;
    }
    // SAFETY: an all-zero set is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus.iter().map(|cpu| *cpu as usize) {
        if cpu < 8 * size_of::<libc::cpu_set_t>() {
            // SAFETY: the number is below the set's size.
            unsafe { libc::CPU_SET(cpu, &mut set) };
        }
    }
    Some(set)
}

/// Sets attributes and propagation of a detached mount, with everything below it if `recursive`.
pub(crate) fn set_mount_attributes(
    tree: BorrowedFd<'_>,
    recursive: bool,
    attributes: u64,
    propagation: u64,
) -> io::Result<()> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation, userns_fd: 0 };
    set_attributes(tree, recursive, &change)
}

/// Takes attributes away from a detached mount, not from what is below it.
pub(crate) fn clear_mount_attributes(tree: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let change =
        libc::mount_attr { attr_set: 0, attr_clr: attributes, propagation: 0, userns_fd: 0 };
    set_attributes(tree, false, &change)
}

/// Shows the owners of a detached mount's files as a user namespace maps them.
pub(crate) fn map_mount_owners(
    tree: BorrowedFd<'_>,
    recursive: bool,
    users: BorrowedFd<'_>,
) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(users.as_raw_fd().cast_unsigned()),
    };
    set_attributes(tree, recursive, &change)
}

fn set_attributes(
    tree: BorrowedFd<'_>,
    recursive: bool,
    change: &libc::mount_attr,
) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty string, and the attributes live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(change),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForkSide {
    /// The caller, with its child's number.
    Parent(i32),
    /// The child.
    Child,
}

/// The `CLONE_NEW*` of the namespace behind a descriptor (`NS_GET_NSTYPE`); an error for what is none.
pub(crate) fn namespace_kind(descriptor: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the request has no argument.
    match unsafe { libc::ioctl(descriptor.as_raw_fd(), NS_GET_NSTYPE as _) } {
        -1 => Err(io::Error::last_os_error()),
        kind => Ok(kind),
    }
}

/// Forks. The caller must be single-threaded, so that the child may go on as it likes.
pub(crate) fn fork() -> io::Result<ForkSide> {
    // SAFETY: the process has one thread (the callers start none before), so that no lock is held
    // by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(ForkSide::Child),
        pid => Ok(ForkSide::Parent(pid)),
    }
}

/// Ends this process at once, without what was registered to run at its end.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: it does not return and touches no memory.
    unsafe { libc::_exit(code.into()) }
}

/// Closes every descriptor from 3 on but these.
pub(crate) fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    kept.push(RawFd::MAX);
    let mut first = 3;
    for kept in kept {
        if kept > first {
            let (from, to) = (first.cast_unsigned(), (kept - 1).cast_unsigned());
            // SAFETY: the caller is about to be nothing but the owner of what it keeps; objects
            // that own another descriptor are never dropped, because it ends by `exit_now`.
            if unsafe { libc::close_range(from, to, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        first = first.max(kept.saturating_add(1));
    }
    Ok(())
}
