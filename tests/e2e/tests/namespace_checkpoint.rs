//! `checkpoint` and `restore` of a container in namespaces: refused with the way that there is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use cofferdam_e2e::{Bundle, Runtime};
use tempfile::TempDir;

#[test]
fn a_container_in_namespaces_is_not_saved_and_runs_on() {
    let folder = TempDir::with_prefix("cofferdam-image-").unwrap();
    let image = folder.path().join("image");
    let image = image.to_str().unwrap();
    let runtime = Runtime::cofferdam();
    let bundle = Bundle::busybox(&["sleep", "1000"]);
    let container = runtime.create(&bundle);
    runtime
        .verb(&["checkpoint", "--image-path", image, &container.id])
        .exits(1)
        .complains(&["cannot be checkpointed in created state"]);
    container.verb("start").exits(0);
    for flags in [&[][..], &["--leave-running"], &["--pre-dump"]] {
        let mut all = vec!["checkpoint", "--image-path", image];
        all.extend(flags);
        all.push(&container.id);
        runtime.verb(&all).exits(1).complains(&["CRIU", "--isolation microvm"]);
    }
    assert!(!folder.path().join("image").exists());
    assert_eq!(container.status(), "running");
    let (id, path) = (runtime.id("restored"), bundle.path().to_str().unwrap());
    runtime
        .verb(&["restore", "--bundle", path, "--image-path", image, &id])
        .exits(1)
        .complains(&["CRIU", "--isolation microvm"]);
    runtime.verb(&["state", &id]).exits(1).complains(&["does not exist"]);
}
