//! What an ordinary user's microVM is limited by in a control group of the user's own, which takes
//! cgroup v2.

use std::fs;
use std::sync::Arc;

use cofferdam_e2e::{Bundle, Delegated, Runtime, User};

#[test]
fn in_a_delegated_control_group_the_sandbox_is_limited_on_the_host() {
    let user = Arc::new(User::ordinary().with_kvm());
    let runtime = Runtime::cofferdam_of(&user);
    let delegated = Delegated::new(&runtime.tag(), &user);
    let runtime = runtime.in_group(&delegated.caller());
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]).owned_by(&user));
    let group = delegated.folder().join(format!("cofferdam-{}", container.id));
    let read = |name: &str| fs::read_to_string(group.join(name)).unwrap();
    assert_ne!(read("memory.max").trim(), "max");
    // With it may be a worker that the kernel starts for each machine.
    let pid = container.pid().to_string();
    assert!(read("cgroup.procs").lines().any(|line| line == pid));
    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    assert!(!group.exists());
}
