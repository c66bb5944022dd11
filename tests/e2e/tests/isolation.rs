//! Which isolation a container gets, and what happens where it cannot be had.

use cofferdam_e2e::{Bundle, Leftovers, Mode, Runtime};
use serde_json::json;

fn on_the_hosts_network() -> Bundle {
    Bundle::busybox(&["true"]).without_namespace("network")
}

#[test]
fn the_hosts_network_cannot_be_had_in_a_microvm() {
    let runtime = Runtime::cofferdam_with(&["--isolation", "microvm"]);
    let before = Leftovers::before(&runtime);
    runtime.run(&on_the_hosts_network()).exits(1).complains(&["network"]);
    before.none_since(&runtime);
}

#[test]
fn auto_falls_back_and_says_why() {
    let runtime = Runtime::cofferdam_with(&["--isolation", "auto"]);
    let bundle =
        on_the_hosts_network().edit(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let container = runtime.start(&bundle);
    let annotations = container.state()["annotations"].clone();
    assert_eq!(annotations["dev.cofferdam.isolation.effective"], "namespace");
    let reason = annotations["dev.cofferdam.isolation.reason"].as_str().unwrap();
    let words: &[&str] = match Mode::current() {
        Mode::MicroVm => &["network"],
        Mode::Namespace => &[""],
    };
    assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
}

#[test]
fn a_tenant_may_not_ask_for_less() {
    let bundle = Bundle::busybox(&["true"]).edit(|config| {
        config["annotations"] = json!({ "dev.cofferdam.isolation": "namespace" });
    });
    let runtime = Runtime::cofferdam_with(&["--isolation", "microvm"]);
    let outcome = runtime.run(&bundle);
    assert_ne!(outcome.code, 0);
    outcome.complains(&["dev.cofferdam.isolation"]);
}
