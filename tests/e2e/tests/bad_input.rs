//! What bad input gets: an error that says what is wrong, runc's exit code, nothing left behind.

use std::fs;
use std::os::unix::fs::symlink;

use cofferdam_e2e::{Bundle, Leftovers, Runtime};
use serde_json::json;

fn sleeping() -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
}

/// `create` refuses the bundle with these words and leaves nothing.
#[track_caller]
fn refused(bundle: &Bundle, words: &[&str]) {
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    runtime.run(bundle).exits(1).complains(words);
    before.none_since(&runtime);
}

#[test]
fn a_missing_config_is_named() {
    let bundle = sleeping();
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    refused(&bundle, &["cofferdam: error: ", "config.json"]);
}

#[test]
fn a_malformed_config_is_located() {
    refused(&sleeping().with_config_text("{ \"ociVersion\": }"), &["config.json", "line 1"]);
    refused(&sleeping().with_config_text(""), &["config.json"]);
    refused(&sleeping().with_config_text("[]"), &["config.json"]);
}

#[test]
fn an_unsupported_version_is_named() {
    let bundle = sleeping().edit(|config| config["ociVersion"] = json!("9.9.9"));
    refused(&bundle, &["ociVersion", "9.9.9"]);
}

#[test]
fn a_root_file_system_must_be_a_folder_in_reach() {
    let missing = sleeping().edit(|config| config["root"]["path"] = json!("nowhere"));
    refused(&missing, &["nowhere"]);
    let file = sleeping().edit(|config| config["root"]["path"] = json!("file"));
    fs::write(file.path().join("file"), "").unwrap();
    refused(&file, &["file", "folder"]);
    let outside = sleeping().edit(|config| config["root"]["path"] = json!("link"));
    symlink("/usr", outside.path().join("link")).unwrap();
    refused(&outside, &["link", "outside"]);
}

#[test]
fn a_process_needs_arguments_and_an_absolute_folder() {
    refused(&sleeping().edit(|config| config["process"]["args"] = json!([])), &["process.args"]);
    refused(&sleeping().edit(|config| config["process"]["cwd"] = json!("a/b")), &["process.cwd"]);
}

#[test]
fn an_unknown_capability_is_named() {
    // The specification wants a warning, not an error.
    let bundle = Bundle::busybox(&["true"])
        .edit(|config| config["process"]["capabilities"]["bounding"] = json!(["CAP_FLY"]));
    Runtime::cofferdam().run(&bundle).exits(0).complains(&["CAP_FLY"]);
}

#[test]
fn an_invalid_id_is_refused() {
    let runtime = Runtime::cofferdam();
    let bundle = sleeping();
    for id in ["a/b", "..", "a b"] {
        let outcome = runtime.verb(&["create", "--bundle", bundle.path().to_str().unwrap(), id]);
        outcome.exits(1).complains(&["id"]);
    }
    assert_eq!(fs::read_dir(runtime.root()).unwrap().count(), 0);
}

#[test]
fn a_bundle_that_is_not_there_is_named() {
    let runtime = Runtime::cofferdam();
    runtime
        .verb(&["create", "--bundle", "/nonexistent", "x"])
        .exits(1)
        .complains(&["/nonexistent"]);
}

#[test]
fn a_bind_source_that_is_not_there_is_named() {
    let bundle = sleeping().mount(json!({
        "destination": "/x", "type": "bind", "source": "/nonexistent-source", "options": ["bind"]
    }));
    refused(&bundle, &["/nonexistent-source"]);
}

#[test]
fn errors_reach_the_log_as_json_when_asked() {
    let runtime = Runtime::cofferdam();
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    let args = ["--log", path, "--log-format", "json", "state", "nonexistent"];
    runtime.verb(&args).exits(1);
    let text = fs::read_to_string(log.path()).unwrap();
    let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("does not exist"));
    assert!(line["time"].is_string());
}

#[test]
fn verbs_on_a_container_that_is_not_there_say_so() {
    let runtime = Runtime::cofferdam();
    for verb in ["state", "start", "kill", "delete", "ps"] {
        runtime.verb(&[verb, "nonexistent"]).exits(1).complains(&["does not exist"]);
    }
    assert_ne!(runtime.verb(&["exec", "nonexistent", "true"]).code, 0);
}

/// Where, what, and the words that the error must have. Every rule has its own row beside the code
/// (`runtime/src/spec/rules`); here are those that the kernel would only find half-way.
const INVALID: &[(&str, &str, &[&str])] = &[
    ("/process/oomScoreAdj", "1001", &["process.oomScoreAdj", "1001", "-1000 to 1000"]),
    ("/process/rlimits/0/soft", "5000", &["process.rlimits[0].soft", "5000", "hard limit"]),
    ("/process/user/uid", "-1", &["process.user.uid", "-1"]),
    ("/process/user/umask", "4096", &["process.user.umask", "4096", "0777"]),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_FIFO"}"#,
        &["process.scheduler.priority", "1 to 99"],
    ),
    (
        "/process/scheduler",
        r#"{"policy": "SCHED_FAST"}"#,
        &["process.scheduler.policy", "SCHED_FAST", "SCHED_RR"],
    ),
    (
        "/linux/timeOffsets",
        r#"{"boottime": {"secs": 1}}"#,
        &["linux.timeOffsets", "time namespace"],
    ),
    ("/linux/rootfsPropagation", r#""mine""#, &["linux.rootfsPropagation", "mine", "slave"]),
    ("/linux/maskedPaths", r#"["proc"]"#, &["linux.maskedPaths[0]", "proc", "absolute"]),
    ("/linux/resources/cpu", r#"{"quota": 5}"#, &["linux.resources.cpu.quota", "5", "1000"]),
    ("/linux/resources/cpu", r#"{"cpus": "a"}"#, &["linux.resources.cpu.cpus", "\"a\"", "0-2,7"]),
    ("/linux/resources/unified", r#"{"../x.y": "1"}"#, &["linux.resources.unified", "../x.y"]),
    ("/linux/namespaces/0/type", r#""planet""#, &["linux.namespaces[0].type", "planet", "mount"]),
    ("/mounts/0/destination", r#""""#, &["mounts[0].destination", "empty"]),
    (
        "/hooks",
        r#"{"poststop": [{"path": "/x", "timeout": -1}]}"#,
        &["hooks.poststop[0].timeout", "-1"],
    ),
];

#[test]
fn an_invalid_value_is_named_with_what_is_allowed() {
    for (pointer, value, words) in INVALID {
        let bundle = sleeping().edit(|config| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let value: serde_json::Value = serde_json::from_str(value).unwrap();
            match config.pointer_mut(pointer) {
                Some(place) => *place = value,
                None => config.pointer_mut(parent).unwrap()[key] = value,
            }
        });
        refused(&bundle, words);
    }
}
