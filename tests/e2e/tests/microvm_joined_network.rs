//! A container that is given the network of another's microVM, where the operator lets it share that.

// A fixture is part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use cofferdam_e2e::{Bundle, Container, Leftovers, Outcome, Runtime, until};
use serde_json::json;
use tempfile::NamedTempFile;

/// The operator's configuration.
fn sharing() -> NamedTempFile {
    let config = NamedTempFile::new().unwrap();
    fs::write(config.path(), "[microvm]\njoined_network = \"share\"\n").unwrap();
    config
}

/// A bundle for a container that is given another's network, as Docker says it.
fn with_network_of(other: &Container<'_>, args: &[&str]) -> Bundle {
    let path = format!("/proc/{}/ns/net", other.pid());
    Bundle::busybox(args).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        let network = namespaces.iter_mut().find(|entry| entry["type"] == "network").unwrap();
        network["path"] = json!(path);
    })
}

fn exec(container: &Container<'_>, script: &str) -> Outcome {
    container.exec(&["sh", "-c", script])
}

fn boot_id(container: &Container<'_>) -> String {
    exec(container, "cat /proc/sys/kernel/random/boot_id").exits(0).stdout.clone()
}

#[test]
fn it_is_in_the_others_machine_and_reaches_it_at_localhost() {
    let config = sharing();
    let path = config.path().display().to_string();
    let runtime = Runtime::cofferdam_with(&["--isolation", "microvm", "--config", &path]);
    let before = Leftovers::before(&runtime);
    {
        let serve = ["nc", "-ll", "-p", "80", "-e", "echo", "served"];
        let first = runtime.start(&Bundle::busybox(&serve));
        let second = runtime.start(&with_network_of(&first, &["sleep", "1000"]));
        assert_eq!(boot_id(&first), boot_id(&second));
        until("it is reached", || exec(&second, "nc -w 20 127.0.0.1 80").stdout == "served\n");
        assert_eq!(second.state()["annotations"]["dev.cofferdam.pod.sandbox"], first.id.as_str());
        // Files and processes are its own.
        exec(&second, "echo mine > /mine; ! ps | grep -q '[n]c -ll'").exits(0);
        assert_ne!(exec(&first, "cat /mine").code, 0);
        // One that shares nothing has a machine of its own.
        let other = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
        assert_ne!(boot_id(&first), boot_id(&other));
        first.kill("KILL").exits(0);
        second.becomes("stopped");
    }
    before.none_since(&runtime);
}

#[test]
fn without_the_operators_word_it_is_refused() {
    let runtime = Runtime::cofferdam();
    let first = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    let refused = runtime.run(&with_network_of(&first, &["true"]));
    let words = ["network namespace is that of another microVM", &first.id, "joined_network"];
    refused.exits(1).complains(&words);
    assert_eq!(first.state()["status"], "running");
}

#[test]
fn with_the_network_of_namespaces_it_is_in_namespaces_or_nowhere() {
    let config = NamedTempFile::new().unwrap();
    let text = "[isolation]\nannotation_may_weaken_to = [\"namespace\"]\n";
    fs::write(config.path(), text).unwrap();
    let path = config.path().display().to_string();
    let runtime = Runtime::cofferdam_with(&["--config", &path]);
    let asks_for = |bundle: Bundle, isolation: &str| {
        let isolation = json!({ "dev.cofferdam.isolation": isolation });
        bundle.edit(|config| config["annotations"] = isolation)
    };
    let first = runtime.start(&asks_for(Bundle::busybox(&["sleep", "1000"]), "namespace"));
    let second = runtime.start(&with_network_of(&first, &["sleep", "1000"]));
    let annotations = second.state()["annotations"].clone();
    assert_eq!(annotations["dev.cofferdam.isolation.effective"], "namespace");
    let reason = annotations["dev.cofferdam.isolation.reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("containers that are not in a microVM"), "{reason}");
    let third = runtime.run(&asks_for(with_network_of(&first, &["true"]), "microvm"));
    third.exits(1).complains(&["network", "containers that are not in a microVM"]);
}
