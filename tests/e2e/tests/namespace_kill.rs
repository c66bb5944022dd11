//! `kill` of containers without a pid namespace of their own.

use std::fs;

use cofferdam_e2e::{Bundle, Runtime};

#[test]
fn a_kill_reaches_those_who_share_the_hosts_process_numbers() {
    let bundle = Bundle::script("sleep 1000 & sleep 1000 & wait").without_namespace("pid");
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    let all = || {
        let listed = runtime.verb(&["ps", "--format", "json", &container.id]);
        serde_json::from_str::<Vec<u32>>(&listed.stdout).unwrap_or_default()
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while all().len() < 3 && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pids = all();
    assert_eq!(pids.len(), 3);
    container.kill("KILL").exits(0);
    container.becomes("stopped");
    let alive = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    };
    while pids.iter().any(alive) && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(!pids.iter().any(alive));
}
