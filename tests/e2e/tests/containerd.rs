//! containerd with `containerd-shim-cofferdam-v2`: what `ctr` shows of a container is what it shows of
//! any other, in either mode.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cofferdam_e2e::{Bundle, Containerd, Mode, Runtime, archive, setting, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// What the specification promises: `docs/specification.md`.
const SHIM_MEMORY_KIB: u64 = 12 << 10;

/// Ends with code 3 on SIGTERM.
const WAITING: [&str; 3] = ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"];

#[test]
fn a_container_has_its_streams_and_its_code() {
    let containerd = Containerd::start();
    let script = ["sh", "-c", "cat; echo error >&2; exit 7"];
    let run = containerd.run_arguments(&["--rm"], "streams", &script);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let outcome = containerd.ctr_with_input(&run, b"typed\n");
    outcome.exits(7).prints("typed\n").complains(&["error"]);
    containerd.has_left_nothing();
}

#[test]
fn a_terminal_has_the_size_of_ctr_s() {
    let containerd = Containerd::start();
    // ctr sets the size when the container runs already. The quotes are for the shell of script(1).
    let size = "'until stty size 2>/dev/null | grep \"37 91\"; do sleep 0.1; done; tty'";
    let script = ["sh", "-c", size];
    let run = containerd.run_arguments(&["--rm", "--tty"], "terminal", &script);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let ctr = containerd.command(&run);
    let words: Vec<_> = ctr.get_args().map(|word| word.to_str().unwrap()).collect();
    let line = format!("stty cols 91 rows 37; ctr {}", words.join(" "));
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("/dev/pts/0") && shown.contains("37 91"), "{shown:?}");
    containerd.has_left_nothing();
}

#[test]
fn a_further_process_has_its_own_streams_code_and_signals() {
    let containerd = Containerd::start();
    containerd.start_container(&[], "first", &WAITING);
    let exec = |id: &str, program: &[&str], input: &[u8]| {
        let mut all = vec!["task", "exec", "--exec-id", id, "first"];
        all.extend(program);
        containerd.ctr_with_input(&all, input)
    };
    exec("one", &["sh", "-c", "cat; echo error >&2; exit 5"], b"typed\n")
        .exits(5)
        .prints("typed\n")
        .complains(&["error"]);
    exec("two", &["nosuch"], b"").exits(1).complains(&["nosuch", "not found"]);
    // A signal is the exec's, and not the container's.
    let mut sleeping = ["task", "exec", "--exec-id", "three", "first"].to_vec();
    sleeping.extend(["sh", "-c", "touch /asleep; exec sleep 1000"]);
    let mut child = containerd.command(&sleeping).stdin(Stdio::null()).spawn().unwrap();
    until("it sleeps", || containerd.rootfs().join("asleep").exists());
    containerd.ctr(&["task", "kill", "--exec-id", "three", "--signal", "KILL", "first"]).exits(0);
    assert_eq!(child.wait().unwrap().code(), Some(137));
    until("nobody sleeps", || {
        !containerd.ctr(&["task", "exec", "--exec-id", "ps", "first", "ps"]).stdout.contains("1000")
    });
    assert_eq!(containerd.status("first").as_deref(), Some("RUNNING"));
    containerd.ctr(&["task", "kill", "first"]).exits(0);
    containerd.becomes("first", "STOPPED");
    containerd.ctr(&["task", "delete", "first"]).exits(0).complains(&["exit code 3"]);
    containerd.has_left_nothing();
}

#[test]
fn a_container_is_paused_resumed_counted_and_measured() {
    let containerd = Containerd::start();
    containerd.start_container(&["--memory-limit", "67108864"], "busy", &WAITING);
    containerd.ctr(&["task", "pause", "busy"]).exits(0);
    assert_eq!(containerd.status("busy").as_deref(), Some("PAUSED"));
    containerd.ctr(&["task", "resume", "busy"]).exits(0);
    assert_eq!(containerd.status("busy").as_deref(), Some("RUNNING"));
    let processes = containerd.ctr(&["task", "ps", "busy"]).exits(0).stdout.clone();
    assert!(processes.lines().count() >= 2, "{processes}");
    // The host's: those of a guest would be somebody else's there. One may have ended meanwhile.
    let numbers = processes.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let group = |pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let groups: Vec<String> = numbers.filter_map(group).collect();
    assert!(!groups.is_empty(), "{processes}");
    assert!(groups.iter().all(|group| group.contains("busy")), "{processes}: {groups:?}");
    let metrics = containerd.ctr(&["task", "metrics", "busy"]).exits(0).stdout.clone();
    assert!(metrics.contains("67108864"), "{metrics}");
    assert!(metrics.contains("pids.current"), "{metrics}");
    let shims = containerd.shims();
    assert_eq!(shims.len(), 1);
    let memory = resident_kib(shims[0]);
    assert!(memory <= SHIM_MEMORY_KIB, "the shim takes {memory} KiB");
    containerd.ctr(&["task", "delete", "--force", "busy"]).exits(0);
    containerd.has_left_nothing();
}

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn events_come_each_once_and_in_their_order() {
    let containerd = Containerd::start();
    let mut watching = containerd.command(&["events"]);
    let mut watching = watching.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    // It is there when it tells of something.
    let mut lines = lines.map_while(Result::ok);
    until("ctr listens", || {
        let _ = containerd.ctr(&["namespaces", "create", "seen"]);
        containerd.ctr(&["namespaces", "remove", "seen"]).code == 0
    });
    containerd.start_container(&["--memory-limit", "67108864"], "told", &WAITING);
    let greedy = "x=x; while :; do x=$x$x; done";
    let exec = ["task", "exec", "--exec-id", "greedy", "told", "sh", "-c", greedy];
    assert_ne!(containerd.ctr(&exec).code, 0);
    containerd.ctr(&["task", "kill", "told"]).exits(0);
    containerd.becomes("told", "STOPPED");
    containerd.ctr(&["task", "delete", "told"]).exits(0).complains(&["exit code 3"]);
    let mut topics = Vec::new();
    while topics.last().map(String::as_str) != Some("/tasks/delete") {
        let line = lines.next().unwrap();
        topics.extend(
            line.split_whitespace().find(|word| word.starts_with("/tasks/")).map(Into::into),
        );
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
    let (oom, rest): (Vec<String>, Vec<String>) =
        topics.into_iter().partition(|topic| topic == "/tasks/oom");
    assert!(!oom.is_empty(), "nothing told of the lack of memory");
    let expected = ["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"];
    assert_eq!(rest, expected.map(|topic| format!("/tasks/{topic}")));
}

#[test]
fn a_program_that_is_not_there_is_named_and_leaves_nothing() {
    let containerd = Containerd::start();
    containerd.run(&["--rm"], "missing", &["nosuch"]).exits(1).complains(&["nosuch", "not found"]);
    containerd.has_left_nothing();
}

#[test]
fn a_shim_that_is_killed_leaves_nothing_of_its_container() {
    let containerd = Containerd::start();
    containerd.start_container(&[], "orphan", &WAITING);
    let shims = containerd.shims();
    let socket = containerd.shim_socket("orphan");
    assert!(socket.exists());
    kill(Pid::from_raw(shims[0]), Signal::SIGKILL).unwrap();
    until("containerd has noticed", || containerd.status("orphan").is_none());
    containerd.has_left_nothing();
    until("the shim's socket is gone", || !socket.exists());
}

/// containerd does not repeat the options when it has a killed shim's container deleted.
#[test]
fn a_container_is_deleted_by_the_options_that_it_was_made_with() {
    let runtime = Runtime::cofferdam();
    let bundle = Bundle::busybox(&["sleep", "1000"]);
    let container = runtime.start(&bundle);
    let (root, namespace) = (runtime.root().parent().unwrap(), runtime.root().file_name().unwrap());
    let options = json!({
        "program": null, "root": root, "config": null, "systemd_cgroup": false,
        "no_pivot": false, "no_new_keyring": false, "shim_group": null
    });
    let file = bundle.path().join("cofferdam-options.json");
    fs::write(&file, options.to_string()).unwrap();
    let delete = || {
        let mut shim = Command::new(shim());
        shim.arg("-namespace").arg(namespace).args(["-id", &container.id, "-bundle"]);
        shim.arg(bundle.path()).arg("delete").stdin(Stdio::null()).output().unwrap()
    };
    assert!(delete().status.success());
    container.verb("state").exits(1).complains(&["does not exist"]);
    // Without them it would not be found, and nobody would know.
    fs::write(&file, "damaged").unwrap();
    let refused = delete();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the options"), "{refused:?}");
}

fn shim() -> PathBuf {
    Path::new(&setting("COFFERDAM_BIN")).join("containerd-shim-cofferdam-v2")
}

#[test]
fn a_container_outlives_containerd_and_is_found_again() {
    let mut containerd = Containerd::start();
    containerd.start_container(&[], "lasting", &WAITING);
    containerd.restart();
    assert_eq!(containerd.status("lasting").as_deref(), Some("RUNNING"));
    let exec = ["task", "exec", "--exec-id", "again", "lasting", "echo", "said"];
    containerd.ctr(&exec).exits(0).prints("said\n");
    containerd.ctr(&["task", "kill", "lasting"]).exits(0);
    containerd.becomes("lasting", "STOPPED");
    containerd.ctr(&["task", "delete", "lasting"]).exits(0).complains(&["exit code 3"]);
    containerd.has_left_nothing();
}

#[test]
fn an_image_s_layers_are_mounted_and_what_is_written_goes_with_the_container() {
    let containerd = Containerd::start();
    let archive = archive(&containerd.rootfs(), containerd.folder());
    containerd.ctr(&["image", "import", archive.to_str().unwrap()]).exits(0);
    for id in ["first", "second"] {
        let script = ["sh", "-c", "ls /mark 2>/dev/null; echo mine >/mark; cat /mark"];
        containerd.run_image(id, &script).exits(0).prints("mine\n");
    }
    assert!(!containerd.rootfs().join("mark").exists());
    containerd.has_left_nothing();
}

#[test]
fn the_shim_describes_the_runtime_and_refuses_what_it_does_not_know() {
    let shim = shim();
    let mut info = Command::new(&shim);
    let mut info = info.arg("-info").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    info.stdin.take().unwrap().flush().unwrap();
    let said = info.wait_with_output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(
        said.contains("io.containerd.cofferdam.v2") && said.contains("ociVersionMin"),
        "{said}"
    );
    let refused = Command::new(&shim).arg("-fast").output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Unknown flag -fast"));
}

/// Which isolation a container got is the operator's configuration's, handed on by the shim.
#[test]
fn the_isolation_is_that_of_the_configuration_that_the_engine_names() {
    let containerd = Containerd::start();
    let outcome = containerd.run(&["--rm"], "which", &["uname", "-v"]);
    let kernel = outcome.exits(0).stdout.trim().to_owned();
    let own = fs::read_to_string("/proc/sys/kernel/version").unwrap();
    assert_eq!(kernel == own.trim(), Mode::current() == Mode::Namespace, "{kernel}");
}
