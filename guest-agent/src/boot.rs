//! From the kernel's first process to an agent that serves.
//!
//! ```text
//!  root ▶ file systems ▶ listeners ▶ lifeline: "ready" ▶ serve … ▶ (host closes it) ▶ power off
//! ```
//! Nothing else runs in the guest at that time: what fails here is said on the console, and the
//! machine stops.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::io;

use cofferdam_protocol::bounds::{
    AGENT_RPC_PORT, CHANGES_PORT, FORWARD_PORT, NAMES_PORT, STREAM_PORT,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use tokio::sync::mpsc;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::agent::Agent;
use crate::layout::Layout;
use crate::lifeline;
use crate::reaper::Reaper;
use crate::serve;
use crate::sys;

/// Why the guest cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A step failed.
    #[error("{step}")]
    Step {
        /// Which.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl BootError {
    /// For [`Result::map_err`].
    fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Step { step, source: source.into() }
    }
}

/// A file system of the guest's own: type, folder, flags, data.
struct Mounted(&'static str, &'static str, MountFlags, &'static CStr);

const HARDENED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// The agent's root: a few folders and mount points.
const ROOT_DATA: &CStr = c"mode=755,size=4m";
/// Mounted in this order below the new root.
const FILE_SYSTEMS: [Mounted; 5] = [
    Mounted("proc", "proc", HARDENED, c""),
    Mounted("sysfs", "sys", HARDENED, c""),
    Mounted("devtmpfs", "dev", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"mode=755"),
    Mounted("cgroup2", "sys/fs/cgroup", HARDENED, c""),
    // No restrictions: containers' roots are bound from it.
    Mounted("virtiofs", "run/share", MountFlags::empty(), c""),
];
/// Made in the new root before anything is mounted there.
const FOLDERS: [&str; 6] = ["proc", "sys", "dev", "run", "run/share", "run/root"];
/// Of the host's shares.
const SHARE_TAG: &str = "cofferdam";

/// Brings the guest up and serves until the host hangs up.
///
/// # Errors
/// When a step fails. Then the guest is of no use.
pub async fn run() -> Result<Infallible, BootError> {
    make_root()?;
    raise_descriptor_limit().map_err(BootError::at("Raising the limit of open files"))?;
    let reaper = Reaper::start().map_err(BootError::at("Watching for ended processes"))?;
    let rpc = listen(AGENT_RPC_PORT)?;
    let streams = listen(STREAM_PORT)?;
    let changes = listen(CHANGES_PORT)?;
    let names = listen(NAMES_PORT)?;
    let forwards = listen(FORWARD_PORT)?;
    let (sender, exits) = mpsc::unbounded_channel();
    let agent = Agent::new(Layout::of_guest(), reaper, sender);
    sys::loopback_up().map_err(BootError::at("Bringing the loopback interface up"))?;
    enable_controllers().map_err(BootError::at("Enabling the cgroup controllers"))?;

    let lifeline = lifeline::connect().await.map_err(BootError::at("Connecting the lifeline"))?;

    tokio::spawn(serve::changes(changes, Layout::of_guest()));
    tokio::spawn(serve::names(names));
    tokio::spawn(serve::forwards(forwards));
    tokio::spawn(serve::streams(streams, agent.clone()));
    serve::rpc(rpc, agent.clone()).await.map_err(BootError::at("Serving requests"))?;
    lifeline::hold(lifeline, exits, agent).await;
    power_off()
}

/// The kernel's first root cannot be pivoted away from, as containers do: the agent moves to one
/// of its own.
fn make_root() -> Result<(), BootError> {
    let at = BootError::at("Making the root folder");
    made(fs::create_dir("/root")).map_err(at)?;
    mount("tmpfs", "/root", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, ROOT_DATA)
        .map_err(BootError::at("Mounting the root file system"))?;
    rustix::process::chdir("/root").map_err(BootError::at("Entering the root folder"))?;
    for folder in FOLDERS {
        made(fs::create_dir(folder)).map_err(BootError::at("Making folders"))?;
    }
    for Mounted(fstype, folder, flags, data) in FILE_SYSTEMS {
        let source = if fstype == "virtiofs" { SHARE_TAG } else { fstype };
        let data = (!data.is_empty()).then_some(data);
        mount(source, folder, fstype, flags, data).map_err(BootError::at(step_of(fstype)))?;
    }
    mount_move(".", "/").map_err(BootError::at("Moving to the root file system"))?;
    rustix::process::chroot(".").map_err(BootError::at("Changing the root"))
}

const fn step_of(fstype: &'static str) -> &'static str {
    match fstype.as_bytes() {
        b"proc" => "Mounting proc",
        b"sysfs" => "Mounting sysfs",
        b"devtmpfs" => "Mounting devtmpfs",
        b"cgroup2" => "Mounting cgroup2",
        _ => "Mounting the host's shares",
    }
}

fn made(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// A process has at most eight descriptors here: as many processes as a guest can hold.
fn raise_descriptor_limit() -> io::Result<()> {
    const AGENT_DESCRIPTORS: u64 = 1 << 18;
    sys::set_resource_limit(sys::OPEN_FILES, AGENT_DESCRIPTORS, AGENT_DESCRIPTORS)
}

/// Every controller that the kernel has, for the containers' groups.
fn enable_controllers() -> io::Result<()> {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")?;
    let enabled: String = controllers.split_whitespace().map(|name| format!("+{name} ")).collect();
    match fs::write("/sys/fs/cgroup/cgroup.subtree_control", enabled) {
        // Nothing to enable.
        Err(_) if controllers.trim().is_empty() => Ok(()),
        other => other,
    }
}

fn listen(port: u32) -> Result<VsockListener, BootError> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))
        .map_err(BootError::at("Listening for the host"))
}

/// Stops the machine. With `reboot=t` on the kernel's command line a reset is a triple fault,
/// which is how a machine without ACPI tells its monitor. Nothing is synced: a container's files
/// were written back at its end, and the host may be gone, for which a sync would wait for ever.
///
/// # Errors
/// When the kernel refuses.
pub fn power_off() -> Result<Infallible, BootError> {
    match rustix::system::reboot(rustix::system::RebootCommand::Restart) {
        Err(error) => Err(BootError::at("Stopping the machine")(error)),
        // It does not return.
        Ok(()) => Err(BootError::at("Stopping the machine")(Errno::AGAIN)),
    }
}
