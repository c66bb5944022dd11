//! `--systemd-cgroup`: the whole sandbox is in a scope that systemd has made, and limited there.

use std::fs;
use std::path::Path;

use cofferdam_e2e::{Bundle, Leftovers, Mode, Runtime, Systemd};
use serde_json::json;

const MIB: u64 = 1 << 20;

fn file(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned()
}

fn runtime() -> Runtime {
    Runtime::cofferdam_with(&["--isolation", Mode::current().flag(), "--systemd-cgroup"])
}

fn scope_of(id: &str) -> String {
    format!("/sys/fs/cgroup/system.slice/cofferdam-{id}.scope")
}

#[test]
fn the_scope_s_limits_follow_an_update_and_the_scope_goes_with_the_container() {
    let runtime = runtime();
    let systemd = Systemd::start(&runtime.tag());
    let runtime = runtime.under(&systemd);
    let before = Leftovers::before(&runtime);
    let in_memory = json!({
        "destination": "/big", "type": "tmpfs", "source": "tmpfs", "options": ["size=300m"]
    });
    let bundle = Bundle::busybox(&["sleep", "1000"]).mount(in_memory).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 * MIB });
    });
    let container = runtime.start(&bundle);
    let state = container.state();
    let scope = state["annotations"]["dev.cofferdam.vm.cgroup"].as_str().unwrap_or_default();
    assert_eq!(scope, scope_of(&container.id));
    let scope = systemd.group(scope);
    let limit = || file(&scope, "memory.max").parse::<u64>().unwrap();
    let first = limit();
    assert!(first < 256 * MIB, "{first}");
    systemd.reload();
    assert_eq!(limit(), first);

    let larger = (256 * MIB).to_string();
    let update = ["update", "--memory", &larger, "--cpu-quota", "50000", &container.id];
    runtime.verb(&update).exits(0);
    assert!(limit() >= first + 192 * MIB, "{} after {first}", limit());
    assert_eq!(file(&scope, "cpu.max"), "50000 100000");
    let updated = limit();
    systemd.reload();
    assert_eq!((limit(), file(&scope, "cpu.max").as_str()), (updated, "50000 100000"));
    let take = "dd if=/dev/zero of=/big/x bs=1M count=200 2>/dev/null && echo had it";
    container.exec(&["sh", "-c", take]).exits(0).prints("had it\n");
    assert!(file(&scope, "memory.events").contains("oom_kill 0"));
    assert!(file(&scope, "memory.current").parse::<u64>().unwrap() > 200 * MIB);

    runtime.verb(&["delete", "--force", &container.id]).exits(0);
    assert!(!scope.exists());
    before.none_since(&runtime);
}

#[test]
fn a_scope_that_goes_is_not_made_again_by_a_reload() {
    let runtime = runtime();
    let systemd = Systemd::start(&runtime.tag());
    let runtime = runtime.under(&systemd);
    let before = Leftovers::before(&runtime);
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    let scope = systemd.group(&scope_of(&container.id));
    assert!(systemd.reload_in_deletion(&runtime, &container.id, &scope));
    assert!(!scope.exists());
    before.none_since(&runtime);
}
