//! Standard streams without a terminal: every byte, in order, to the end, in both directions.

// A fixture is part of a test.
#![allow(clippy::expect_used)]

use std::io::Read as _;
use std::process::Stdio;

use cofferdam_e2e::{Bundle, Runtime};

#[test]
fn output_and_errors_come_out_where_they_belong() {
    let bundle = Bundle::script("echo out; echo err >&2");
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0).prints("out\n").complains(&["err"]);
    assert!(!outcome.stderr.contains("out"));
}

#[test]
fn input_reaches_the_program_and_its_end_ends_the_program() {
    let bundle = Bundle::busybox(&["cat"]);
    Runtime::cofferdam().run_with_input(&bundle, b"in\n").exits(0).prints("in\n");
}

#[test]
fn the_end_of_input_does_not_cut_the_output() {
    let bundle = Bundle::script("cat; sleep 1; echo later");
    Runtime::cofferdam().run_with_input(&bundle, b"now\n").exits(0).prints("now\nlater\n");
}

#[test]
fn a_program_that_reads_no_input_does_not_wait_for_its_end() {
    let outcome = Runtime::cofferdam().run_with_input(&Bundle::script("exit 4"), &[b'x'; 300_000]);
    outcome.exits(4);
}

#[test]
fn a_mebibyte_each_way_arrives_whole() {
    let input: Vec<u8> =
        (0..1 << 20).map(|n: u32| b"0123456789abcdef\n"[n as usize % 17]).collect();
    let outcome = Runtime::cofferdam().run_with_input(&Bundle::busybox(&["cat"]), &input);
    outcome.exits(0);
    assert!(
        outcome.stdout.as_bytes() == input,
        "{} of {} bytes",
        outcome.stdout.len(),
        input.len()
    );
}

#[test]
fn output_of_a_program_that_ends_at_once_is_not_lost() {
    let bundle =
        Bundle::script("dd if=/dev/zero bs=1024 count=60 2>/dev/null | tr '\\0' x; exit 9");
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(9);
    assert_eq!(outcome.stdout.len(), 60 * 1024);
}

#[test]
fn exec_carries_input_and_output_like_run() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    container.exec_with(&[], &["cat"], b"x\n").exits(0).prints("x\n");
    container
        .exec_with(&[], &["sh", "-c", "echo a; echo b >&2; exit 5"], b"")
        .exits(5)
        .prints("a\n");
}

/// All that a container writes that was created with a pipe, and its status right after the end.
fn read_to_the_end(runtime: &Runtime, bundle: &Bundle, name: &str) -> (String, String) {
    let id = runtime.id(name);
    let path = bundle.path().display().to_string();
    let mut create = runtime
        .command(&["create", "--bundle", &path, &id])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("create starts");
    assert!(create.wait().expect("it ends").success());
    runtime.verb(&["start", &id]).exits(0);
    let mut output = String::new();
    let mut reader = create.stdout.take().expect("a pipe");
    reader.read_to_string(&mut output).expect("text");
    let state = runtime.verb(&["state", &id]);
    runtime.verb(&["delete", "--force", &id]).exits(0);
    let state: serde_json::Value = serde_json::from_str(&state.stdout).expect("a document");
    (output, state["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn who_has_read_to_the_end_finds_the_container_stopped() {
    let runtime = Runtime::cofferdam();
    let bundle = Bundle::busybox(&["echo", "out"]);
    for round in 0..5 {
        let read = read_to_the_end(&runtime, &bundle, &format!("read-{round}"));
        assert_eq!(read, ("out\n".to_owned(), "stopped".to_owned()));
    }
}

#[test]
fn an_output_that_a_program_closes_ends_while_it_runs() {
    let bundle = Bundle::script("echo out; exec >&-; sleep 1000");
    let read = read_to_the_end(&Runtime::cofferdam(), &bundle, "closed");
    assert_eq!(read, ("out\n".to_owned(), "running".to_owned()));
}
