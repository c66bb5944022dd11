//! `checkpoint` and `restore` of a container in namespaces, where CRIU works: what goes on, with what
//! restrictions, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::io::Read as _;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_e2e::counting::{self, LAST_WORDS, counts, goes_on, started};
use cofferdam_e2e::{Bundle, ConsoleSocket, Leftovers, Runtime, Snapshot, finish_detaching};
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

/// With limits, which are to come back.
fn limited() -> Bundle {
    counting::bundle().edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 50 });
    })
}

fn pid(runtime: &Runtime, id: &str) -> i64 {
    let state = runtime.verb(&["state", id]);
    let state: Value = serde_json::from_str(&state.exits(0).stdout).unwrap();
    assert_eq!(state["status"], "running");
    state["pid"].as_i64().unwrap()
}

/// What the kernel holds against a container's first process: its privileges, what of its mounts is
/// restricted, and its limits.
fn restrictions(pid: i64) -> (Vec<String>, Vec<String>, Vec<String>) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let names = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp"];
    let of_status = |line: &&str| names.iter().any(|name| line.starts_with(name));
    let status = read("status").lines().filter(of_status).map(str::to_owned).collect();
    let mut mounts: Vec<String> = read("mountinfo").lines().map(restrictions_of_mount).collect();
    mounts.sort();
    (status, mounts, limits(&read("cgroup")))
}

fn restrictions_of_mount(line: &str) -> String {
    let fields: Vec<&str> = line.split(' ').collect();
    let known = ["ro", "nosuid", "nodev", "noexec"];
    let flags: Vec<&str> = fields[5].split(',').filter(|flag| known.contains(flag)).collect();
    format!("{} {flags:?}", fields[4])
}

fn limits(groups: &str) -> Vec<String> {
    let roots = ["", "unified", "memory", "pids"];
    let files = ["memory.max", "memory.limit_in_bytes", "pids.max"];
    let group = groups.lines().last().unwrap().rsplit(':').next().unwrap();
    let folders = roots.iter().map(|root| format!("/sys/fs/cgroup/{root}{group}"));
    let files = folders.flat_map(|folder| files.map(|file| format!("{folder}/{file}")));
    files.filter_map(|file| fs::read_to_string(file).ok()).collect()
}

#[test]
fn a_container_goes_on_where_it_was_under_the_same_restrictions() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), limited());
    let data = TempDir::new().unwrap();
    fs::write(data.path().join("file"), "").unwrap();
    let source = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let bundle = bundle
        .mount(json!({"destination": "/ro", "type": "bind", "source": source(""),
                      "options": ["bind", "ro", "nosuid", "nodev", "noexec"]}))
        .mount(json!({"destination": "/file", "type": "bind", "source": source("file"),
                      "options": ["bind"]}));
    let container = started(&runtime, &bundle);
    let before = restrictions(pid(&runtime, &container.id));
    assert!(before.0.contains(&"Seccomp:\t2".to_owned()), "{before:?}");
    assert!(before.1.contains(&"/ro [\"ro\", \"nosuid\", \"nodev\", \"noexec\"]".to_owned()));
    assert_eq!(before.2.len(), 2, "{before:?}");
    images.checkpoint(&runtime, &[], &container.id).exits(0).prints("");
    container.verb("state").exits(1).complains(&["does not exist"]);
    let saved = counts(&bundle).len();
    images.restore_detached(&runtime, &bundle, &container.id).exits(0);
    goes_on(&bundle);
    let all = counts(&bundle);
    assert!(all.len() > saved && all.iter().copied().eq(1..=all.len() as u32), "{all:?}");
    assert_eq!(restrictions(pid(&runtime, &container.id)), before);
    container.exec(&["cat", "/proc/1/comm"]).exits(0).prints("sh\n");
    container.exec(&["touch", "/ro/x"]).exits(1).complains(&["Read-only"]);
    container.kill("KILL").exits(0);
    container.becomes("stopped");
    container.verb("delete").exits(0);
}

#[test]
fn in_the_foreground_its_output_and_its_code_are_the_caller_s() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), limited());
    let path = bundle.path().display().to_string();
    let id = runtime.id("piped");
    let mut create = runtime.command(&["create", "--bundle", &path, &id]);
    create.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut create = create.spawn().unwrap();
    let output = create.stdout.take();
    assert!(create.wait().unwrap().success());
    runtime.verb(&["start", &id]).exits(0);
    goes_on(&bundle);
    images.checkpoint(&runtime, &[], &id).exits(0);
    drop(output);
    fs::write(bundle.rootfs().join("go"), "").unwrap();
    let restored = images.restore(&runtime, &bundle, &id);
    restored.exits(7).prints(LAST_WORDS);
    runtime.verb(&["state", &id]).exits(1);
}

/// A FIFO of the host's, as engines make them for a container's output. Open at both ends, so that
/// nobody waits for anybody.
fn fifo(folder: &TempDir, name: &str, mode: u32) -> File {
    let path = folder.path().join(name);
    mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(mode)).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_fifo_of_the_host_s_is_followed_by_another_of_its_kind() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), limited());
    let (id, folder) = (runtime.id("fifo"), TempDir::new().unwrap());
    let succeeds = |arguments: &[String], output: File, errors: Stdio| {
        let mut command = runtime.command(arguments);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        command.status().unwrap().success()
    };
    let run = ["run", "--detach", "--bundle", bundle.path().to_str().unwrap(), &id];
    assert!(succeeds(&run.map(str::to_owned), fifo(&folder, "first", 0o700), Stdio::null()));
    goes_on(&bundle);
    images.checkpoint(&runtime, &[], &id).exits(0);
    let (restore, errors) =
        (images.arguments(&bundle, &["--detach"], &id), folder.path().join("e"));
    let file = File::create(&errors).unwrap();
    assert!(!succeeds(&restore, fifo(&folder, "other", 0o600), file.into()));
    let refused = fs::read_to_string(errors).unwrap();
    assert!(refused.contains("Standard stream 1 was a FIFO of mode 0700"), "{refused}");
    let output = fifo(&folder, "second", 0o700);
    assert!(succeeds(&restore, output.try_clone().unwrap(), Stdio::null()));
    fs::write(bundle.rootfs().join("go"), "").unwrap();
    let mut said = vec![0; LAST_WORDS.len()];
    (&output).read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8(said).unwrap(), LAST_WORDS);
    runtime.verb(&["delete", "--force", &id]).exits(0);
}

#[test]
fn a_container_that_is_left_running_goes_on_and_can_be_saved_again() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), limited());
    let container = started(&runtime, &bundle);
    for _ in 0..2 {
        images.checkpoint(&runtime, &["--leave-running"], &container.id).exits(0);
        assert_eq!(container.status(), "running");
        goes_on(&bundle);
    }
    container.exec(&["true"]).exits(0);
}

#[test]
fn memory_can_be_saved_before_the_rest() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), limited());
    let container = started(&runtime, &bundle);
    let earlier = images.folder().join("earlier");
    let earlier = earlier.to_str().unwrap();
    let flags = ["checkpoint", "--pre-dump", "--image-path", earlier, &container.id];
    runtime.verb(&flags).exits(0);
    goes_on(&bundle);
    for (parent, words) in [("/earlier", "must be relative"), ("../none", "invalid")] {
        let refused = images.checkpoint(&runtime, &["--parent-path", parent], &container.id);
        refused.exits(1).complains(&["--parent-path", words]);
    }
    images.checkpoint(&runtime, &["--parent-path", "../earlier"], &container.id).exits(0);
    assert!(images.image().join("parent").exists());
    images.restore_detached(&runtime, &bundle, &container.id).exits(0);
    goes_on(&bundle);
}

#[test]
fn a_restore_that_fails_leaves_nothing_and_names_the_log() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), limited());
    let before = Leftovers::before(&runtime);
    let id = {
        let container = started(&runtime, &bundle);
        images.checkpoint(&runtime, &[], &container.id).exits(0);
        container.id.clone()
    };
    // One that CRIU brings back otherwise than the image says that it was.
    let label = "/observed/threads/1/CapEff";
    let right = images.manifest();
    let mut wrong = right.clone();
    *wrong.pointer_mut(label).unwrap() = json!("0");
    images.set_manifest(&wrong);
    let refused = images.restore_detached(&runtime, &bundle, &id);
    refused.exits(1).complains(&["did not come back as it was", "CapEff of thread 1"]);
    before.none_since(&runtime);
    images.set_manifest(&right);
    // Another container's bundle.
    let other = limited().edit(|config| config["linux"]["maskedPaths"] = json!([]));
    let refused = images.restore_detached(&runtime, &other, &id);
    refused.exits(1).complains(&["linux.maskedPaths differs"]);
    // The same with a restriction more, which nothing that comes back would have.
    let stricter = limited().edit(|config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "hard": 9, "soft": 9 }]);
    });
    let refused = images.restore_detached(&runtime, &stricter, &id);
    refused.exits(1).complains(&["process.rlimits differs"]);
    // One that is damaged.
    let core = images.image().join("core-1.img");
    fs::write(core, "damaged").unwrap();
    let refused = images.restore_detached(&runtime, &bundle, &id);
    let log = images.image().join("restore.log");
    refused.exits(1).complains(&["criu failed: ", "Error (", log.to_str().unwrap()]);
    before.none_since(&runtime);
    runtime.verb(&["state", &id]).exits(1).complains(&["does not exist"]);
}

#[test]
fn what_criu_would_not_bring_back_is_refused_and_runs_on() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), limited());
    let container = started(&runtime, &bundle);
    let script = "touch /beside; while [ ! -e /done ]; do sleep 0.1; done";
    let mut beside = runtime.command(&["exec", &container.id, "sh", "-c", script]);
    let mut beside = beside.spawn().unwrap();
    let end = Instant::now() + DEADLINE;
    while !bundle.rootfs().join("beside").exists() {
        assert!(Instant::now() < end, "it is not there");
        thread::sleep(Duration::from_millis(10));
    }
    let refused = images.checkpoint(&runtime, &[], &container.id);
    refused.exits(1).complains(&["was started by exec"]);
    assert_eq!(container.status(), "running");
    goes_on(&bundle);
    fs::write(bundle.rootfs().join("done"), "").unwrap();
    beside.wait().unwrap();
    images.checkpoint(&runtime, &["--leave-running"], &container.id).exits(0);
}

#[test]
fn a_root_that_cannot_be_written_to_comes_back_as_one() {
    let (runtime, images) = (Runtime::cofferdam(), Snapshot::empty());
    let bundle =
        Bundle::busybox(&["sleep", "1000"]).edit(|config| config["root"]["readonly"] = json!(true));
    let container = runtime.start(&bundle);
    images.checkpoint(&runtime, &[], &container.id).exits(0);
    images.restore_detached(&runtime, &bundle, &container.id).exits(0);
    container.exec(&["touch", "/x"]).exits(1).complains(&["Read-only"]);
}

#[test]
fn a_terminal_comes_back_over_the_console_socket() {
    let (runtime, images) = (Runtime::cofferdam(), Snapshot::empty());
    let bundle = Bundle::script("while read word; do echo got $word; done")
        .edit(|config| config["process"]["terminal"] = json!(true));
    let (id, path) = (runtime.id("terminal"), bundle.path().display().to_string());
    let first = ConsoleSocket::listen();
    let socket = first.path().display().to_string();
    let run = ["run", "--detach", "--console-socket", &socket, "--bundle", &path, &id];
    finish_detaching(runtime.command(&run)).exits(0);
    let mut terminal = first.terminal();
    terminal.types("one\n");
    terminal.shows("got one");
    images.checkpoint(&runtime, &[], &id).exits(0);
    let second = ConsoleSocket::listen();
    let socket = second.path().display().to_string();
    let flags = ["--detach", "--console-socket", &socket];
    finish_detaching(runtime.command(&images.arguments(&bundle, &flags, &id))).exits(0);
    let mut terminal = second.terminal();
    terminal.types("two\n");
    terminal.shows("got two");
    runtime.verb(&["delete", "--force", &id]).exits(0);
}
