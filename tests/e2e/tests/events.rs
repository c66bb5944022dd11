//! `events`: statistics and running out of memory, as lines of JSON in runc's format. Where runc can
//! do the same it is the oracle.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use cofferdam_e2e::{Bundle, Mode, Runtime};
use serde_json::{Value, json};

fn limited(script: &str) -> Bundle {
    Bundle::script(script).edit(|config| {
        config["linux"]["resources"]["memory"] = json!({ "limit": 64 << 20, "swap": 64 << 20 });
        config["linux"]["resources"]["pids"] = json!({ "limit": 30 });
    })
}

/// Every name in a document, with those above it.
fn names(value: &Value, above: &str, into: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = format!("{above}.{name}");
        names(value, &name, into);
        into.push(name);
    }
}

/// The numbers in a document.
fn numbers<'a>(value: &'a Value, into: &mut Vec<&'a serde_json::Number>) {
    match value {
        Value::Number(number) => into.push(number),
        Value::Array(list) => list.iter().for_each(|value| numbers(value, into)),
        Value::Object(map) => map.values().for_each(|value| numbers(value, into)),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn stats(runtime: &Runtime, id: &str) -> Value {
    let outcome = runtime.verb(&["events", "--stats", id]);
    outcome.exits(0);
    assert_eq!(outcome.stdout.lines().count(), 1);
    let event: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
    assert_eq!((&event["type"], &event["id"]), (&json!("stats"), &json!(id)));
    event["data"].clone()
}

#[test]
fn statistics_have_the_oracles_names_and_no_number_below_zero() {
    let bundle = limited("echo cached > /dev/shm/x; sleep 1000 & while true; do :; done");
    let (runc, ours) = (Runtime::runc(), Runtime::cofferdam());
    let (oracle, container) = (runc.start(&bundle), ours.start(&bundle));
    container.exec(&["sleep", "1"]).exits(0);
    let (expected, found) = (stats(&runc, &oracle.id), stats(&ours, &container.id));
    for part in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt"] {
        assert!(found[part].is_object(), "{part} in {found}");
    }
    assert_eq!(found.get("network_interfaces"), expected.get("network_interfaces"));
    assert_eq!(found["pids"]["limit"], 30);
    assert!((2..5).contains(&found["pids"]["current"].as_u64().unwrap_or(0)), "{found}");
    assert_eq!(found["memory"]["usage"]["limit"], 64 << 20);
    assert!(found["cpu"]["usage"]["total"].as_u64() > Some(100_000_000), "{found}");
    let usage = found["memory"]["usage"]["usage"].as_u64();
    assert!(usage > Some(0) && usage < Some(32 << 20), "{found}");
    let mut all = Vec::new();
    numbers(&found, &mut all);
    // One is allowed to be: that of cpuset.
    let below = all.iter().filter(|number| number.as_f64() < Some(0.0)).count();
    assert!(below <= 1, "{found}");
    if Mode::current() == Mode::Namespace {
        let (mut theirs, mut names_found) = (Vec::new(), Vec::new());
        names(&expected, "", &mut theirs);
        names(&found, "", &mut names_found);
        // What is zero is left out: it may be zero in one and not in the other.
        theirs.retain(|name| !name.contains("psi") && !name.ends_with(".max"));
        for name in theirs {
            assert!(names_found.contains(&name), "no {name} in {found}");
        }
    }
}

/// Follows the events of a container.
fn follow(runtime: &Runtime, flags: &[&str], id: &str) -> Child {
    let mut command = runtime.command(&[&["events"], flags, &[id]].concat());
    match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot run events: {error}"),
    }
}

fn kinds(child: &mut Child) -> Vec<String> {
    let output = child.stdout.take().into_iter();
    let lines = output.flat_map(|output| BufReader::new(output).lines().map_while(Result::ok));
    let kind = |line: String| {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        event["type"].as_str().unwrap_or_default().to_owned()
    };
    lines.map(kind).collect()
}

// The oracle goes on until the container is deleted; there is nothing to tell after its end.

#[test]
fn a_line_comes_every_interval_until_the_container_ends() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&limited("sleep 4"));
    let mut events = follow(&runtime, &["--interval", "500ms"], &container.id);
    let kinds = kinds(&mut events);
    assert!(events.wait().unwrap().success());
    assert!(kinds.len() >= 2 && kinds.len() <= 12, "{kinds:?}");
    assert!(kinds.iter().all(|kind| kind == "stats"), "{kinds:?}");
}

#[test]
fn running_out_of_memory_is_an_event() {
    // Ends two seconds later, so that there is time to begin to watch, and to tell.
    let script = "sleep 3; dd if=/dev/zero of=/dev/shm/x bs=1M count=90 2>/dev/null; sleep 2";
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&limited(script));
    let mut events = follow(&runtime, &["--interval", "1h"], &container.id);
    let kinds = kinds(&mut events);
    assert!(events.wait().unwrap().success());
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| kind == "oom"), "{kinds:?}");
}

#[test]
fn a_container_that_ends_for_want_of_memory_has_said_so() {
    let script = "sleep 3; exec dd if=/dev/zero of=/dev/shm/x bs=1M count=90";
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&limited(script));
    let mut events = follow(&runtime, &["--interval", "1h"], &container.id);
    let kinds = kinds(&mut events);
    assert!(events.wait().unwrap().success());
    assert_eq!(kinds, ["oom"]);
    container.becomes("stopped");
}

#[test]
fn an_interval_that_is_none_and_a_container_that_ended_are_refused() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let container = runtime.start(&limited("sleep 1000"));
        let events =
            |flags: &[&str]| runtime.verb(&[&["events"], flags, &[container.id.as_str()]].concat());
        events(&["--interval", "0s"]).exits(1).complains(&["interval must be greater than 0"]);
        events(&["--interval", "often"]).exits(1).complains(&["interval"]);
        container.kill("KILL").exits(0);
        container.becomes("stopped");
        events(&["--stats"]).exits(1).complains(&["is not running"]);
    }
}

#[test]
fn statistics_of_a_paused_container_are_to_be_had() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&limited("sleep 1000"));
    container.verb("pause").exits(0);
    assert!(stats(&runtime, &container.id)["pids"]["current"].as_u64() > Some(0));
}

#[test]
fn a_signal_for_all_reaches_every_process() {
    for runtime in [Runtime::runc(), Runtime::cofferdam()] {
        let script =
            "trap '' TERM; sleep 1000 & sleep 1000 & touch /ready; while true; do wait; done";
        let container = runtime.start(&limited(script));
        let count = || {
            let listed = runtime.verb(&["ps", &container.id]).exits(0).stdout.clone();
            listed.lines().count() - 1
        };
        container.exec(&["sh", "-c", "while [ ! -e /ready ]; do sleep 0.1; done"]).exits(0);
        assert!(count() >= 3);
        runtime.verb(&["kill", "--all", &container.id, "KILL"]).exits(0);
        container.becomes("stopped");
        assert_eq!(count(), 0);
        runtime.verb(&["kill", "--all", &container.id, "KILL"]).exits(0);
    }
}
