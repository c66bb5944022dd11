//! `metrics`: what Prometheus reads of a machine, read as strictly as its own parser does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use cofferdam_e2e::{Bundle, Exposition, Mode, Runtime, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn look(runtime: &Runtime) -> Exposition {
    Exposition::parse(&runtime.verb(&["metrics"]).exits(0).stdout)
}

fn sleeper() -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
}

#[test]
fn sandboxes_are_counted_by_isolation_and_status() {
    let runtime = Runtime::cofferdam();
    let isolation = Mode::current().flag();
    let count = |status: &str| {
        let labels = [("isolation", isolation), ("status", status)];
        look(&runtime).value("cofferdam_sandboxes", &labels)
    };
    assert_eq!((count("created"), count("running"), count("stopped")), (0.0, 0.0, 0.0));
    let container = runtime.create(&sleeper());
    assert_eq!((count("created"), count("running")), (1.0, 0.0));
    container.verb("start").exits(0);
    assert_eq!((count("created"), count("running")), (0.0, 1.0));
    container.verb("pause").exits(0);
    assert_eq!((count("running"), count("paused")), (0.0, 1.0));
    container.verb("resume").exits(0);
    container.kill("KILL").exits(0);
    until("it is stopped", || count("stopped") == 1.0);
    container.verb("delete").exits(0);
    assert_eq!(count("stopped"), 0.0);
}

#[test]
fn a_start_is_in_the_histograms_and_a_container_that_comes_back_is_a_restart() {
    let runtime = Runtime::cofferdam();
    let isolation = Mode::current().flag();
    let before = look(&runtime);
    let id = runtime.id("back");
    let bundle = Bundle::busybox(&["true"]);
    let run = ["run", "--bundle", bundle.path().to_str().unwrap(), &id];
    runtime.verb(&run).exits(0);
    runtime.verb(&run).exits(0);
    let after = look(&runtime);
    let grown = |name: &str, labels: &[(&str, &str)]| {
        after.value(name, labels) - before.value(name, labels)
    };
    let mut phases = vec!["check", "sandbox", "start"];
    if Mode::current() == Mode::MicroVm {
        phases.extend(["boot_jail", "boot_load", "boot_kernel", "boot_devices"]);
        let ended = grown("cofferdam_microvm_ends_total", &[("cause", "exited")]);
        assert!(ended >= 2.0, "{ended}");
        let calls = grown("cofferdam_agent_call_seconds_count", &[("method", "CreateContainer")]);
        assert!(calls >= 2.0, "{calls}");
    }
    for phase in phases {
        let labels = [("isolation", isolation), ("phase", phase)];
        // Other scenarios may run beside this one, and add to what the machine has counted.
        let count = grown("cofferdam_start_phase_seconds_count", &labels);
        assert!(count >= 2.0, "{phase}: {count}");
        let sum = grown("cofferdam_start_phase_seconds_sum", &labels);
        assert!(sum > 0.0, "{phase}: {sum}");
    }
    let restarts = grown("cofferdam_restarts_total", &[("isolation", isolation)]);
    assert!(restarts >= 1.0, "{restarts}");
}

#[test]
fn what_fails_is_counted_by_its_reason_and_the_tenants_words_are_nowhere() {
    let runtime = Runtime::cofferdam();
    let before = look(&runtime);
    let word = "tenantsword";
    let missing = Bundle::busybox(&[word]);
    let path = missing.path().to_str().unwrap().to_owned();
    assert_ne!(runtime.verb(&["run", "--bundle", &path, &runtime.id("a")]).code, 0);
    let nowhere = format!("/nowhere/{word}");
    runtime.verb(&["create", "--bundle", &nowhere, &runtime.id("b")]).exits(1);
    let text = runtime.verb(&["metrics"]).exits(0).stdout.clone();
    let after = Exposition::parse(&text);
    for (verb, reason) in [("run", "program"), ("create", "bundle")] {
        let labels = [("verb", verb), ("reason", reason)];
        let name = "cofferdam_failures_total";
        let grown = after.value(name, &labels) - before.value(name, &labels);
        assert!(grown >= 1.0, "{verb}, {reason}: {grown}");
    }
    assert!(!text.contains(word), "{text}");
    let json = runtime.verb(&["metrics", "--format", "json"]).exits(0).stdout.clone();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json.as_array().is_some_and(|families| families.len() > 15), "{json}");
}

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_answers_over_http_and_takes_its_socket_with_it() {
    let runtime = Runtime::cofferdam();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    let address = format!("unix:{}", path.display());
    let mut command = runtime.command(&["metrics", "--listen", &address]);
    let mut server = Server(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said.trim(), address);
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let _silent = UnixStream::connect(&path).unwrap();
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert_eq!(Exposition::parse(body).value("cofferdam_build", &[]), 1.0);
    assert!(ask("GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    let second = runtime.verb(&["metrics", "--listen", &address]);
    second.exits(1).complains(&["another process does"]);
    let pid = Pid::from_raw(server.0.id().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(server.0.wait().unwrap().success());
    assert!(!path.exists());
}

#[test]
fn a_folder_or_an_address_that_is_not_there_is_named() {
    let runtime = Runtime::cofferdam();
    runtime.verb(&["metrics", "--also", "/nowhere"]).exits(1).complains(&["/nowhere"]);
    runtime.verb(&["metrics", "--listen", "nowhere"]).exits(1).complains(&["HOST:PORT"]);
}
