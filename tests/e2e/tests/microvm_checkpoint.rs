//! `checkpoint` and `restore` of a microVM: what goes on, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_e2e::counting::{self, LAST_WORDS, counts, goes_on, started};
use cofferdam_e2e::{Bundle, ConsoleSocket, Runtime, Snapshot, finish_detaching, until};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_container_goes_on_where_it_was_with_its_open_file_and_ends_with_its_code() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), counting::bundle());
    let container = started(&runtime, &bundle);
    images.checkpoint(&runtime, &[], &container.id).exits(0).prints("");
    container.verb("state").exits(1).complains(&["does not exist"]);
    let saved = counts(&bundle).len();
    let id = runtime.id("restored");
    images.restore_detached(&runtime, &bundle, &id).exits(0);
    goes_on(&bundle);
    let all = counts(&bundle);
    assert!(all.len() > saved);
    assert!(all.iter().copied().eq(1..=all.len() as u32), "{all:?}");
    runtime.verb(&["exec", &id, "cat", "/proc/1/comm"]).exits(0).prints("sh\n");
    runtime.verb(&["delete", "--force", &id]).exits(0);
    // Once more, in the foreground: its output and its code are the caller's.
    fs::write(
        bundle.rootfs().join("count"),
        all[..saved].iter().fold(String::new(), |text, n| format!("{text}{n}\n")),
    )
    .unwrap();
    fs::write(bundle.rootfs().join("go"), "").unwrap();
    images.restore(&runtime, &bundle, &id).exits(7).prints(LAST_WORDS);
    runtime.verb(&["state", &id]).exits(1);
}

#[test]
fn a_container_that_is_left_running_goes_on_and_can_be_saved_again() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), counting::bundle());
    let container = started(&runtime, &bundle);
    images.checkpoint(&runtime, &["--leave-running"], &container.id).exits(0);
    let first = images.manifest();
    assert_eq!(container.status(), "running");
    goes_on(&bundle);
    container.exec(&["true"]).exits(0);
    images.checkpoint(&runtime, &["--leave-running"], &container.id).exits(0);
    assert_ne!(first["memory"], images.manifest()["memory"]);
    assert_eq!(images.names().len(), 3, "what was before is gone: {:?}", images.names());
    goes_on(&bundle);
}

#[test]
fn two_restored_machines_agree_on_no_random_number() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), counting::bundle());
    let container = started(&runtime, &bundle);
    images.checkpoint(&runtime, &[], &container.id).exits(0);
    let saved = fs::read(bundle.rootfs().join("count")).unwrap();
    let numbers: Vec<String> = ["one", "two"]
        .into_iter()
        .map(|name| {
            let id = runtime.id(name);
            fs::write(bundle.rootfs().join("count"), &saved).unwrap();
            images.restore_detached(&runtime, &bundle, &id).exits(0);
            let script = "head -c 16 /dev/urandom | od -A n -t x1; date +%s";
            let said = runtime.verb(&["exec", &id, "sh", "-c", script]);
            runtime.verb(&["delete", "--force", &id]).exits(0);
            let (random, seconds) = said.exits(0).stdout.split_once('\n').unwrap();
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
            assert!(now - seconds.trim().parse::<u64>().unwrap() < 60, "{seconds}");
            random.to_owned()
        })
        .collect();
    assert_ne!(numbers[0], numbers[1]);
}

#[test]
fn an_image_of_another_machine_is_refused_by_what_differs() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), counting::bundle());
    let container = started(&runtime, &bundle);
    images.checkpoint(&runtime, &[], &container.id).exits(0);
    let good = images.manifest();
    let id = runtime.id("refused");
    for (field, value, words) in [
        ("/version", json!(99), ["has version 99", "restore it with the version that wrote it"]),
        ("/origin/kernel", json!("00"), ["another guest kernel (00)", "installation that wrote"]),
        ("/machine/memory_mib", json!(64), ["64 MiB of memory", "the configuration asks for"]),
        ("/machine/vcpus", json!(2), ["2 vCPUs", "the configuration asks for 1"]),
        ("/machine/vcpus_max", json!(99), ["can have 99", "are possible"]),
        ("/plan/shares/0/source", json!("/elsewhere"), ["/elsewhere", "known by their paths"]),
        ("/plan/container/process/args/0", json!("/bin/other"), ["process/args/0", "differs"]),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(field).unwrap() = value;
        images.set_manifest(&bad);
        images.restore_detached(&runtime, &bundle, &id).exits(1).complains(&words);
        runtime.verb(&["state", &id]).exits(1);
    }
    images.set_manifest(&good);
    // The machine's state is looked at by the monitor.
    let state = images.image().join(good["state"].as_str().unwrap());
    let text = fs::read_to_string(&state).unwrap();
    for (bad, word) in [
        (with(&text, on_another_processor), "CPUID leaf 0x1.0 differs"),
        (with(&text, |state| state["version"] = json!(5)), "has version 5"),
        (text[..text.len() / 2].to_owned(), "damaged"),
    ] {
        fs::write(&state, &bad).unwrap();
        images.restore_detached(&runtime, &bundle, &id).exits(1).complains(&[word]);
        runtime.verb(&["state", &id]).exits(1);
    }
    fs::write(&state, &text).unwrap();
    fs::remove_file(bundle.rootfs().join("count")).unwrap();
    let gone = images.restore_detached(&runtime, &bundle, &id);
    gone.exits(1).complains(&["0/count, which is open in the snapshot, cannot be opened"]);
}

fn with(state: &str, edit: impl Fn(&mut Value)) -> String {
    let mut state: Value = serde_json::from_str(state).unwrap();
    edit(&mut state);
    state.to_string()
}

/// One feature more: leaf 1 is the second, and ECX comes after four other words.
fn on_another_processor(state: &mut Value) {
    const ECX: usize = 20;
    let byte = &mut state["vcpus"][0]["cpuid"][1][ECX];
    *byte = json!(byte.as_u64().unwrap() ^ 2);
}

/// Cofferdam whose machines may grow to this many processors.
fn with_processors(most: u8) -> (Runtime, tempfile::NamedTempFile) {
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(config.path(), format!("[microvm]\nmax_vcpus = {most}\n")).unwrap();
    let path = config.path().to_str().unwrap();
    (Runtime::cofferdam_with(&["--isolation", "microvm", "--config", path]), config)
}

#[test]
fn a_restored_machine_grows_to_as_many_processors_as_it_could_before() {
    let (images, bundle) = (Snapshot::empty(), counting::bundle());
    let (made, _config) = with_processors(2);
    let container = started(&made, &bundle);
    images.checkpoint(&made, &[], &container.id).exits(0);
    assert_eq!(images.manifest()["machine"]["vcpus_max"], json!(2));
    // Another host, as it were: alone it would let a machine have one.
    let (runtime, _config) = with_processors(1);
    let id = runtime.id("restored");
    images.restore_detached(&runtime, &bundle, &id).exits(0);
    goes_on(&bundle);
    for (quota, expected) in [("200000", "2\n"), ("100000", "1\n")] {
        runtime.verb(&["update", "--cpu-quota", quota, &id]).exits(0);
        let count = ["exec", &id, "grep", "-c", "^processor", "/proc/cpuinfo"];
        runtime.verb(&count).exits(0).prints(expected);
    }
    let refused = runtime.verb(&["update", "--cpu-quota", "300000", &id]);
    refused.exits(1).complains(&["linux.resources.cpu.quota", "the 2"]);
    let refused = runtime.verb(&["update", "--memory", "1G", &id]);
    refused.exits(1).complains(&["linux.resources.memory.limit", "can have room"]);
    runtime.verb(&["delete", "--force", &id]).exits(0);
}

#[test]
fn a_checkpoint_that_is_killed_leaves_no_image_and_a_container_that_runs() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), counting::bundle());
    let container = started(&runtime, &bundle);
    let path = images.image();
    let args = ["checkpoint", "--image-path", path.to_str().unwrap(), &container.id];
    let mut command = runtime.command(&args);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let end = Instant::now() + DEADLINE;
    while images.names().is_empty() {
        assert!(Instant::now() < end, "it does not begin");
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!images.is_whole(), "{:?}", images.names());
    assert_eq!(container.status(), "running");
    goes_on(&bundle);
    images.checkpoint(&runtime, &["--leave-running"], &container.id).exits(0);
    assert_eq!(images.names().len(), 3, "{:?}", images.names());
}

#[test]
fn what_cannot_be_saved_is_refused_and_runs_on() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), counting::bundle());
    let container = runtime.create(&bundle);
    images.checkpoint(&runtime, &[], &container.id).exits(1).complains(&["created state"]);
    container.verb("start").exits(0);
    goes_on(&bundle);
    for flag in ["--lazy-pages", "--pre-dump", "--auto-dedup"] {
        let refused = images.checkpoint(&runtime, &[flag], &container.id);
        refused.exits(1).complains(&[flag, "not possible in a microVM"]);
    }
    fs::remove_file(bundle.rootfs().join("count")).unwrap();
    let refused = images.checkpoint(&runtime, &[], &container.id);
    refused.exits(1).complains(&["0/count", "is open and was removed"]);
    assert!(!images.is_whole());
    assert_eq!(container.status(), "running");
    container.exec(&["true"]).exits(0);
}

/// Says what it is told, and that it is told no more.
fn repeating() -> Bundle {
    Bundle::script("while read word; do echo got $word; done; echo over; exit 7")
}

/// A verb whose standard streams are pipes.
fn piped(runtime: &Runtime, arguments: &[String]) -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let mut command = runtime.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    (child, input, BufReader::new(output))
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line
}

#[test]
fn standard_input_is_that_of_whoever_restores() {
    let (runtime, images, bundle) = (Runtime::cofferdam(), Snapshot::empty(), repeating());
    let (id, path) = (runtime.id("input"), bundle.path().display().to_string());
    let run = ["run", "--detach", "--bundle", &path, &id].map(str::to_owned);
    let (mut run, mut input, mut output) = piped(&runtime, &run);
    assert!(run.wait().unwrap().success());
    input.write_all(b"one\n").unwrap();
    assert_eq!(line(&mut output), "got one\n");
    // Half a line has come, and is the container's: it is in the machine.
    input.write_all(b"tw").unwrap();
    images.checkpoint(&runtime, &[], &id).exits(0);
    let restore = images.arguments(&bundle, &[], &id);
    let (mut restored, mut input, mut output) = piped(&runtime, &restore);
    input.write_all(b"o\n").unwrap();
    assert_eq!(line(&mut output), "got two\n");
    drop(input);
    assert_eq!(line(&mut output), "over\n");
    assert_eq!(restored.wait().unwrap().code(), Some(7));
    // Who gives none has given its end.
    let mut restore = runtime.command(&restore);
    let restored = restore.stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8(restored.stdout).unwrap(), "over\n");
    assert_eq!(restored.status.code(), Some(7));
}

#[test]
fn a_terminal_comes_back_over_the_console_socket_with_its_size() {
    let (runtime, images) = (Runtime::cofferdam(), Snapshot::empty());
    let bundle = Bundle::script("while read word; do echo $word at $(stty size).; done")
        .edit(|config| config["process"]["terminal"] = json!(true));
    let (id, path) = (runtime.id("terminal"), bundle.path().display().to_string());
    let first = ConsoleSocket::listen();
    let socket = first.path().display().to_string();
    let run = ["run", "--detach", "--console-socket", &socket, "--bundle", &path, &id];
    finish_detaching(runtime.command(&run)).exits(0);
    let mut terminal = first.terminal();
    terminal.resizes(30, 90);
    until("the terminal has its size", || {
        terminal.types("one\n");
        terminal.shows(".").contains("one at 30 90.")
    });
    images.checkpoint(&runtime, &[], &id).exits(0);
    let second = ConsoleSocket::listen();
    let socket = second.path().display().to_string();
    let flags = ["--detach", "--console-socket", &socket];
    finish_detaching(runtime.command(&images.arguments(&bundle, &flags, &id))).exits(0);
    let mut terminal = second.terminal();
    terminal.types("two\n");
    assert!(terminal.shows(".").contains("two at 30 90."));
    terminal.resizes(40, 100);
    until("the terminal has another size", || {
        terminal.types("three\n");
        terminal.shows(".").contains("three at 40 100.")
    });
    runtime.verb(&["delete", "--force", &id]).exits(0);
}

#[test]
fn a_container_that_has_grown_is_refused_until_it_is_small_again() {
    let (runtime, images) = (Runtime::cofferdam(), Snapshot::empty());
    let limit = serde_json::json!({ "limit": 64 << 20 });
    let bundle = counting::bundle().edit(|config| config["linux"]["resources"]["memory"] = limit);
    let container = started(&runtime, &bundle);
    runtime.verb(&["update", "--memory", "150M", &container.id]).exits(0);
    images.checkpoint(&runtime, &[], &container.id).exits(1).complains(&["has grown"]);
    runtime.verb(&["update", "--memory", "64M", &container.id]).exits(0);
    images.checkpoint(&runtime, &[], &container.id).exits(0);
}
