//! What namespace mode tightens where the configuration leaves it open, and that it says so.

use cofferdam_e2e::{Bundle, Runtime, probe};
use serde_json::json;

#[test]
fn a_filter_is_in_force_although_none_was_asked_for() {
    let status = &probe(&Runtime::cofferdam(), &Bundle::probe(&[]))["status"];
    assert_eq!(status["Seccomp"], "2");
    let oracle = &probe(&Runtime::runc(), &Bundle::probe(&[]))["status"];
    assert_eq!(oracle["Seccomp"], "0");
}

#[test]
fn compat_turns_the_additions_off() {
    let runtime = Runtime::cofferdam_with(&["--isolation", "namespace", "--compat"]);
    assert_eq!(probe(&runtime, &Bundle::probe(&[]))["status"]["Seccomp"], "0");
}

#[test]
fn state_lists_what_was_added() {
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    let listed = container.state()["annotations"]["dev.cofferdam.hardening"].clone();
    assert!(listed.as_str().is_some_and(|text| text.contains("seccomp")), "{listed}");
}

#[test]
fn a_filter_that_was_asked_for_is_left_as_it_is() {
    let bundle = Bundle::script("mkdir /made && echo made").edit(|config| {
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    });
    Runtime::cofferdam().run(&bundle).exits(0).prints("made\n");
}

#[test]
fn kernel_paths_are_hidden_although_none_was_named() {
    let bundle = Bundle::probe(&["/proc/kcore", "/sys/firmware"]).edit(|config| {
        config["linux"]["maskedPaths"] = json!(null);
        config["linux"]["readonlyPaths"] = json!(null);
    });
    let tried = &probe(&Runtime::cofferdam(), &bundle)["tried"];
    assert_eq!(tried["/sys/firmware"]["read"], "0 entries");
}

#[test]
fn every_kind_of_device_that_was_asked_for_is_there() {
    let bundle = Bundle::script("stat -c %F /dev/pipe /dev/raw; head -c 3 /dev/raw | wc -c").edit(
        |config| {
            config["linux"]["resources"] = json!(null);
            config["linux"]["devices"] = json!([
                { "path": "/dev/pipe", "type": "p", "fileMode": 0o666 },
                { "path": "/dev/raw", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666 },
            ]);
        },
    );
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0).prints("fifo\ncharacter special file\n3\n");
}
