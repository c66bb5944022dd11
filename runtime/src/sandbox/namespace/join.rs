//! The helper's way into a container that runs: `exec`.
//!
//! `libcontainer` has a builder for this. It is not used, for what it leaves out: the container's
//! seccomp filter and its user namespace (see `docs/decisions`). What remains to be done is little:
//! one fork, one setns(2) over a pidfd for all namespaces at once, and the preparation that a
//! container's first process goes through as well.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags};

use super::cgroup;
use super::job::JoinJob;
use super::process::ProcessError;
use super::report::{Report, Reporter, describe};
use super::scheduling::{self, Affinity};
use super::sys::{self, Fork};
use crate::host::user::User;

/// The kinds of namespaces, as `/proc/<pid>/ns` calls them.
const NAMESPACES: [(&str, libc::c_int); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("pid", libc::CLONE_NEWPID),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("time", libc::CLONE_NEWTIME),
];

/// Does the job and reports.
pub(super) fn run(mut job: JoinJob, reporter: Reporter) {
    if let Err(e) = try_run(&mut job, &reporter) {
        reporter.send(&Report::Failed { kind: e.kind(), message: describe(&e) });
    }
}

/// The container, opened from outside.
struct Target {
    pidfd: OwnedFd,
    /// Namespaces that are not this process's own already.
    kinds: libc::c_int,
    /// The root of its first process.
    root: File,
    groups: Vec<File>,
}

fn try_run(job: &mut JoinJob, reporter: &Reporter) -> Result<(), ProcessError> {
    let target = Target::open(job).map_err(step("find the container's first process"))?;
    job.process.read_seccomp()?;
    if let Some(score) = job.process.oom_score_adj {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(step("set the OOM score"))?;
    }
    sys::set_dumpable(false).map_err(step("hide from the container"))?;
    let first = target.kinds & first_kinds(User::current());
    if first != 0 {
        // The pid namespace is for children only, and only they: the helper itself stays outside.
        sys::enter_namespaces(target.pidfd.as_fd(), first)
            .map_err(step("enter the container's pid namespace"))?;
    }
    match sys::fork_sibling().map_err(step("fork"))? {
        Fork::Caller(pid) => {
            reporter.send(&Report::Ready { pid, cgroups: Vec::new() });
            Ok(())
        }
        Fork::Child => {
            let error = become_process(job, target, first);
            reporter.send(&Report::Failed { kind: error.kind(), message: describe(&error) });
            sys::exit_now(255)
        }
    }
}

/// What the helper enters itself. Without a privilege in the user namespace there is none in the
/// others.
fn first_kinds(user: User) -> libc::c_int {
    let users = if user.is_ordinary() { libc::CLONE_NEWUSER } else { 0 };
    libc::CLONE_NEWPID | users
}

/// The new process, until it is the program.
fn become_process(job: &mut JoinJob, target: Target, entered: libc::c_int) -> ProcessError {
    match enter(job, target, entered) {
        Ok(program) => match job.process.load_late_seccomp() {
            Ok(()) => job.process.execute(&program),
            Err(e) => e,
        },
        Err(e) => e,
    }
}

fn enter(job: &mut JoinJob, target: Target, entered: libc::c_int) -> Result<PathBuf, ProcessError> {
    if let Some(cpus) = &job.process.scheduling.affinity.before {
        scheduling::run_on(cpus).map_err(step("bind the process to its first CPUs"))?;
    }
    for group in &target.groups {
        enter_group(group, job)
            .map_err(|source| ProcessError::Cgroups { pid: std::process::id(), source })?;
    }
    match &job.process.scheduling.affinity {
        Affinity { after: Some(cpus), .. } => {
            scheduling::run_on(cpus).map_err(step("bind the process to its CPUs"))?;
        }
        Affinity { before: None, .. } => scheduling::run_everywhere(),
        // The kernel has moved it as far as the groups demand.
        Affinity { before: Some(_), .. } => {}
    }
    let apparmor = job.process.apparmor_profile.as_ref().map(|_| open_apparmor()).transpose();
    let apparmor = apparmor.map_err(step("open the AppArmor attribute"))?;
    // A user namespace may not raise limits: so before it is entered, and then no more.
    job.process.set_limits()?;
    job.process.limits.clear();
    nix::unistd::setsid().map_err(step("start a session"))?;
    let kinds = target.kinds & !entered;
    if kinds != 0 {
        sys::enter_namespaces(target.pidfd.as_fd(), kinds)
            .map_err(step("enter the container's namespaces"))?;
    }
    enter_root(&target.root, job.root).map_err(step("enter the container's root"))?;
    if target.kinds & libc::CLONE_NEWUSER != 0 {
        become_root_inside()?;
    }
    if let Some(console) = job.console {
        open_terminal(console)?;
    }
    if let (Some(profile), Some(mut attribute)) = (&job.process.apparmor_profile, apparmor) {
        write!(attribute, "exec {profile}").map_err(step("set the AppArmor profile"))?;
    }
    job.process.make_working_folder()?;
    std::env::set_current_dir(&job.process.cwd).map_err(step("enter the working folder"))?;
    let program = job.process.find_program()?;
    job.process.prepare()?;
    Ok(program)
}

/// A group of v2 that gives controllers to groups below it takes no processes: then, as with runc,
/// the container has moved its first process below, and the new one joins that.
fn enter_group(mut group: &File, job: &JoinJob) -> io::Result<()> {
    match group.write_all(b"0") {
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) && !job.cgroups_are_named => {
            let of_init = cgroup::of_process(job.init.pid)?;
            let below = of_init.iter().find(|folder| is_below(folder, &job.cgroups)).ok_or(e)?;
            fs::write(below.join("cgroup.procs"), b"0")
        }
        other => other,
    }
}

fn is_below(folder: &Path, groups: &[PathBuf]) -> bool {
    groups.iter().any(|own| folder != own && folder.starts_with(own))
}

/// A mount namespace brings its root along. That is not the container's where it has no mount
/// namespace of its own, and where the runtime itself runs in a chroot (an initial file system that
/// was never switched away from): then its first process shows where it is. Only then: that process
/// may have changed its own root meanwhile.
fn enter_root(of_init: &File, created: Option<(u64, u64)>) -> io::Result<()> {
    let here = fs::metadata("/")?;
    if created.is_none_or(|root| root == (here.dev(), here.ino())) {
        return Ok(());
    }
    let there = of_init.metadata()?;
    if created == Some((there.dev(), there.ino())) {
        rustix::process::fchdir(of_init)?;
        rustix::process::chroot(".")?;
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(libc::ENOENT))
}

/// After entering a user namespace this process is whoever it was outside, which is nobody there.
fn become_root_inside() -> Result<(), ProcessError> {
    let (gid, uid) = (nix::unistd::Gid::from_raw(0), nix::unistd::Uid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid).map_err(step("become root in the user namespace"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(step("become root in the user namespace"))
}

fn open_terminal(console: RawFd) -> Result<(), ProcessError> {
    let console = sys::inherited(console).map_err(step("find the console socket"))?;
    let syscall = libcontainer::syscall::syscall::create_syscall();
    libcontainer::tty::setup_console(syscall.as_ref(), console.into_raw_fd(), false)
        .map_err(|e| ProcessError::Step { step: "open a terminal", source: io::Error::other(e) })
}

impl Target {
    fn open(job: &JoinJob) -> io::Result<Self> {
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let pid = Pid::from_raw(job.init.pid).ok_or_else(gone)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let kinds = different_namespaces(job.init.pid)?;
        let root = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(format!("/proc/{}/root", job.init.pid))?;
        let groups = job
            .cgroups
            .iter()
            .map(|folder| File::options().write(true).open(folder.join("cgroup.procs")))
            .collect::<io::Result<_>>()?;
        // The number may have been used again while all this was opened.
        if !job.init.is_alive() {
            return Err(gone());
        }
        Ok(Self { pidfd, kinds, root, groups })
    }
}

/// This process's own attribute, on the host's `/proc`: the container's may show anything.
fn open_apparmor() -> io::Result<File> {
    let open = |path| File::options().write(true).open(path);
    open("/proc/self/attr/apparmor/exec").or_else(|_| open("/proc/self/attr/exec"))
}

fn different_namespaces(pid: i32) -> io::Result<libc::c_int> {
    let mut kinds = 0;
    for (name, kind) in NAMESPACES {
        let own = fs::metadata(Path::new("/proc/self/ns").join(name));
        let theirs = fs::metadata(format!("/proc/{pid}/ns/{name}"));
        match (own, theirs) {
            (Ok(own), Ok(theirs)) if own.ino() != theirs.ino() => kinds |= kind,
            (Ok(_), Ok(_)) => {}
            // A kind that this kernel does not have.
            (Err(own), Err(_)) if own.kind() == io::ErrorKind::NotFound => {}
            (Err(e), _) | (_, Err(e)) => return Err(e),
        }
    }
    Ok(kinds)
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> ProcessError {
    move |source| ProcessError::Step { step, source: source.into() }
}
