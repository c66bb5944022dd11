//! A network as an engine makes one: a bridge on the host, a named network namespace, and a veth
//! pair between the two.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The bridge's addresses, in networks of documentation's.
pub const HOST: &str = "192.0.2.1";
/// The same for IPv6.
pub const HOST6: &str = "2001:db8::1";
/// What the namespace's interface has.
pub const INSIDE: &str = "192.0.2.2";
/// The same for IPv6.
pub const INSIDE6: &str = "2001:db8::2";

/// One at a time: each bridge has the same addresses on the same host.
static ALONE: Mutex<()> = Mutex::new(());

/// A bridge with one network namespace on it; both go when this is dropped.
#[derive(Debug)]
pub struct Wire {
    number: u32,
    _alone: MutexGuard<'static, ()>,
}

impl Wire {
    /// A bridge with addresses, and a namespace with nothing but its loopback interface.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id() * 100 % 100_000 + NEXT.fetch_add(1, Ordering::Relaxed);
        // Another scenario that failed has taken its bridge away all the same.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let wire = Self { number, _alone: alone };
        let (bridge, namespace) = (wire.bridge(), wire.namespace());
        ip(&["link", "add", &bridge, "type", "bridge"]);
        ip(&["address", "add", &format!("{HOST}/24"), "dev", &bridge]);
        ip(&["address", "add", &format!("{HOST6}/64"), "dev", &bridge, "nodad"]);
        ip(&["link", "set", &bridge, "up"]);
        ip(&["netns", "add", &namespace]);
        wire
    }

    /// The same with an interface of the usual kind in the namespace: addresses, a default route
    /// for each version of IP.
    #[must_use]
    pub fn connected() -> Self {
        let wire = Self::new();
        wire.connect(None, "eth0", 1500);
        wire
    }

    /// Puts an interface into the namespace, or that of a process, and gives it addresses and
    /// default routes.
    pub fn connect(&self, process: Option<i32>, name: &str, mtu: u32) {
        let outside = self.plug(process, name, mtu);
        ip(&["link", "set", &outside, "master", &self.bridge(), "up"]);
        let inside = |args: &[&str]| self.ip_in(process, args);
        inside(&["link", "set", name, "up"]);
        inside(&["address", "add", &format!("{INSIDE}/24"), "dev", name]);
        inside(&["address", "add", &format!("{INSIDE6}/64"), "dev", name, "nodad"]);
        inside(&["route", "add", "default", "via", HOST]);
        inside(&["-6", "route", "add", "default", "via", HOST6]);
    }

    /// Puts an interface that is down into the namespace, or that of a process; its other end.
    pub fn plug(&self, process: Option<i32>, name: &str, mtu: u32) -> String {
        let outside = format!("c{}{name}", self.number);
        let target = process.map_or_else(|| self.namespace(), |pid| pid.to_string());
        let mtu = mtu.to_string();
        let peer = ["peer", "name", name, "mtu", &mtu, "netns", &target];
        ip(&[&["link", "add", &outside, "mtu", &mtu, "type", "veth"], &peer[..]].concat());
        outside
    }

    /// Makes an interface on the host that leads to the bridge, with addresses; its name.
    #[must_use]
    pub fn device(&self, name: &str) -> String {
        let (outside, device) =
            (format!("c{}{name}", self.number), format!("d{}{name}", self.number));
        ip(&["link", "add", &outside, "type", "veth", "peer", "name", &device]);
        ip(&["link", "set", &outside, "master", &self.bridge(), "up"]);
        ip(&["link", "set", &device, "up"]);
        ip(&["address", "add", &format!("{INSIDE}/24"), "dev", &device]);
        ip(&["address", "add", &format!("{INSIDE6}/64"), "dev", &device, "nodad"]);
        device
    }

    /// `ip` in the namespace; what it prints.
    pub fn inside(&self, args: &[&str]) -> String {
        self.ip_in(None, args)
    }

    /// `ip` in the namespace, or that of a process.
    pub fn ip_in(&self, process: Option<i32>, args: &[&str]) -> String {
        self.run_in(process, "ip", args)
    }

    /// `tc` in the namespace; what it prints.
    #[must_use]
    pub fn traffic_control(&self, args: &[&str]) -> String {
        self.run_in(None, "tc", args)
    }

    fn run_in(&self, process: Option<i32>, program: &str, args: &[&str]) -> String {
        let path =
            process.map_or_else(|| self.path(), |pid| PathBuf::from(format!("/proc/{pid}/ns/net")));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path.display())).arg(program).args(args);
        run(command)
    }

    /// Where the namespace is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.namespace())
    }

    fn bridge(&self) -> String {
        format!("cfb{}", self.number)
    }

    fn namespace(&self) -> String {
        format!("cofferdam-{}", self.number)
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // With the namespace its interfaces go, and their other ends.
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace()]).status();
        let _ = Command::new("ip").args(["link", "delete", &self.bridge()]).status();
    }
}

fn ip(args: &[&str]) -> String {
    let mut command = Command::new("ip");
    command.args(args);
    run(command)
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
