//! `checkpoint` and `restore` of a container in namespaces: what is refused before CRIU is asked. What
//! CRIU does is in `namespace_criu.rs`, for machines where it works.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use cofferdam_e2e::{Bundle, Outcome, Runtime, Snapshot};

#[test]
fn what_cannot_be_saved_is_refused_by_its_name_and_runs_on() {
    let (runtime, images) = (Runtime::cofferdam(), Snapshot::empty());
    let container = runtime.create(&Bundle::busybox(&["sleep", "1000"]));
    images
        .checkpoint(&runtime, &[], &container.id)
        .exits(1)
        .complains(&["cannot be checkpointed in created state"]);
    container.verb("start").exits(0);
    for (flags, words) in [
        (&["--lazy-pages"][..], "--lazy-pages is not supported"),
        (&["--page-server", "127.0.0.1:1"], "--page-server is not supported"),
        (&["--empty-ns", "ipc"], "--empty-ns is ipc: it can be network"),
        (&["--manage-cgroups-mode", "full"], "can be soft or ignore"),
        (&["--parent-path", "/absolute"], "--parent-path must be relative"),
        (&["--parent-path", "nowhere"], "invalid --parent-path"),
    ] {
        images.checkpoint(&runtime, flags, &container.id).exits(1).complains(&[words]);
    }
    assert!(!images.image().exists());
    assert_eq!(container.status(), "running");
}

#[test]
fn without_criu_the_package_is_named_and_the_container_runs_on() {
    let (runtime, images) = (Runtime::cofferdam(), Snapshot::empty());
    let container = runtime.start(&Bundle::busybox(&["sleep", "1000"]));
    let image = images.image();
    let args = ["checkpoint", "--image-path", image.to_str().unwrap(), &container.id];
    let mut command = runtime.command(&args);
    let outcome: Outcome = command.env("PATH", images.folder()).output().unwrap().into();
    outcome.exits(1).complains(&["no criu in PATH: install the package criu"]);
    assert_eq!(container.status(), "running");
    container.exec(&["true"]).exits(0);
}

#[test]
fn what_is_no_image_is_refused_by_its_folder_and_leaves_nothing() {
    let (runtime, images) = (Runtime::cofferdam(), Snapshot::empty());
    let bundle = Bundle::busybox(&["sleep", "1000"]);
    let (id, path) = (runtime.id("restored"), bundle.path().to_str().unwrap());
    let empty = images.folder().to_str().unwrap();
    fs::write(images.folder().join("manifest.json"), "{}").unwrap();
    for (folder, words) in [(empty, "has no cofferdam.json"), ("/nowhere", "Cannot open /nowhere")]
    {
        runtime
            .verb(&["restore", "--bundle", path, "--image-path", folder, &id])
            .exits(1)
            .complains(&[folder, words]);
        runtime.verb(&["state", &id]).exits(1).complains(&["does not exist"]);
    }
}
