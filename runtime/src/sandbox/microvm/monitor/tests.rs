//! The monitor here is a shell script that does what a monitor could: namespaces, descriptors,
//! maps and reports are real.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::plan::MemoryPolicyPlan;

const BOOT: Duration = Duration::from_secs(5);

/// Puts the report's descriptor into `$report` and the log's into `$log`.
const PRELUDE: &str = r#"#!/bin/sh
config=$(tail -c +5 /proc/self/fd/$3)
number() { echo "$config" | sed "s/.*\"$1\":\([0-9]*\).*/\1/"; }
report=/proc/self/fd/$(number report) log=/proc/self/fd/$(number log)
frame() { printf "\\$(printf %o ${#1})\0\0\0%s" "$1"; }
"#;

struct Fixture {
    folder: TempDir,
    artifacts: Artifacts,
    kvm: File,
    control: UnixListener,
}

impl Fixture {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let monitor = folder.path().join("monitor");
        write_program(&monitor, &format!("{PRELUDE}{script}"));
        let file = || File::open("/dev/null").unwrap();
        let artifacts = Artifacts {
            monitor,
            kernel: file(),
            initramfs: file(),
            kernel_version: String::new(),
            kernel_sha256: String::new(),
            initramfs_sha256: String::new(),
        };
        let control = UnixListener::bind(folder.path().join("socket")).unwrap();
        Self { folder, artifacts, kvm: file(), control }
    }

    fn spawn(&self) -> Result<Monitor, MonitorError> {
        Monitor::spawn(MonitorSetup {
            own_users: None,
            oom_score_adj: None,
            group: &mut SandboxGroup::nowhere(),
            sandbox: &"a".parse().unwrap(),
            shape: &VmShape {
                vcpus: 1,
                vcpus_max: 1,
                memory_mib: 64,
                memory_blocks_max: 0,
                host_cpus: vec![0],
                memory_policy: Some(MemoryPolicyPlan { mode: 2, nodes: vec![0] }),
            },
            artifacts: &self.artifacts,
            kvm: &self.kvm,
            control: &self.control,
            shares: &[],
            network: None,
            network_slots: 0,
            disk_slots: 0,
            pod_places: 0,
            restore: None,
            boot_timeout: BOOT,
            console_log: false,
            state_folder: self.folder.path(),
        })
    }
}

/// By another process: a descriptor open for writing here would be copied into the children of
/// tests that run at the same time, and a program that someone may write to cannot be executed.
fn write_program(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0\" && chmod 755 \"$0\""]).arg(path).stdin(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_monitor_is_root_of_namespaces_of_its_own_and_reports() {
    let script = r#"
        [ $(id -u) = 0 ] && [ $$ = 1 ] || exit 3
        ls -l /proc/self/fd/0 | grep -q /dev/null || exit 4
        grep -q 'Cpus_allowed_list:.0$' /proc/self/status || exit 5
        grep -q ' bind:0 ' /proc/self/numa_maps || exit 6
        frame '{"ready":{"stages_us":[]}}' > $report"#;
    let fixture = Fixture::new(script);
    let mut monitor = fixture.spawn().unwrap();
    monitor.wait_ready(BOOT, &Interrupts::as_if(0)).unwrap();
}

#[test]
fn a_guest_that_does_not_boot_says_where_and_shows_its_console() {
    let script = r#"frame '{"failed":{"stage":"kernel","reason":"it died","console":"one\ntwo\u001b[2J"}}' > $report"#;
    let error =
        Fixture::new(script).spawn().unwrap().wait_ready(BOOT, &Interrupts::as_if(0)).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("The guest did not boot (stage Kernel): it died"), "{text}");
    assert!(text.ends_with("The end of its console:\n  one\n  two [2J"), "{text}");
}

#[test]
fn a_monitor_that_ends_without_a_report_is_an_error_with_its_last_word() {
    let error = Fixture::new("echo no KVM > $log; exit 3")
        .spawn()
        .unwrap()
        .wait_ready(BOOT, &Interrupts::as_if(0));
    let text = error.unwrap_err().to_string();
    assert_eq!(text, "The monitor ended before the guest was up (exit code 3): no KVM");
}

#[test]
fn a_killed_monitor_is_an_error_with_the_signal() {
    let fixture = Fixture::new("exec sleep 60");
    let mut monitor = fixture.spawn().unwrap();
    pidfd_send_signal(&monitor.pidfd, Signal::KILL).unwrap();
    let text = monitor.wait_ready(BOOT, &Interrupts::as_if(0)).unwrap_err().to_string();
    assert_eq!(text, "The monitor ended before the guest was up (signal 9)");
}

#[test]
fn a_monitor_that_cannot_be_executed_is_named() {
    let fixture = Fixture::new("");
    fs::remove_file(&fixture.artifacts.monitor).unwrap();
    let error = fixture.spawn().unwrap_err();
    assert!(matches!(error, MonitorError::Exec { .. }), "{error}");
}

#[test]
fn a_dropped_monitor_is_dead() {
    let fixture = Fixture::new("exec sleep 60");
    let monitor = fixture.spawn().unwrap();
    let pid = monitor.pid;
    drop(monitor);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn whoever_is_told_to_stop_does_not_wait_for_the_guest() {
    let mut monitor = Fixture::new("exec sleep 100").spawn().unwrap();
    let error = monitor.wait_ready(Duration::from_secs(90), &Interrupts::as_if(2)).unwrap_err();
    assert!(matches!(error, MonitorError::Interrupted(Interrupted { signal: 2 })), "{error}");
}
