//! containerd saves a container: a microVM as a whole, one in namespaces by CRIU.

use cofferdam_e2e::{Containerd, Outcome};

/// `ctr task checkpoint` of a container that sleeps, whose streams are as the flags say.
fn checkpoint(containerd: &Containerd, flags: &[&str], id: &str) -> Outcome {
    containerd.start_container(flags, id, &["sleep", "1000"]);
    containerd.ctr(&["task", "checkpoint", id])
}

fn runs_on_and_leaves_nothing(containerd: &Containerd, id: &str) {
    assert_eq!(containerd.status(id).as_deref(), Some("RUNNING"));
    containerd.ctr(&["task", "exec", "--exec-id", "one", id, "true"]).exits(0);
    containerd.ctr(&["task", "rm", "--force", id]).exits(0);
    containerd.ctr(&["container", "rm", id]).exits(0);
    containerd.has_left_nothing();
}

#[test]
fn a_container_is_saved_and_runs_on() {
    let containerd = Containerd::start();
    // What the runtime has written goes into containerd's store.
    let image = checkpoint(&containerd, &["--null-io"], "saved").exits(0).stdout.clone();
    assert!(image.starts_with("containerd.io/checkpoint/saved:"), "{image}");
    let images = containerd.ctr(&["image", "ls", "--quiet"]).stdout;
    assert!(images.contains(image.trim()), "{images}");
    runs_on_and_leaves_nothing(&containerd, "saved");
}

#[test]
fn a_container_with_containerd_s_fifos_is_saved_too() {
    let containerd = Containerd::start();
    checkpoint(&containerd, &[], "piped").exits(0);
    runs_on_and_leaves_nothing(&containerd, "piped");
}
