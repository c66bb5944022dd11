//! containerd saves a container: a microVM as a whole, one in namespaces by CRIU.

use cofferdam_e2e::Containerd;

#[test]
fn a_container_is_saved_and_runs_on() {
    let containerd = Containerd::start();
    containerd.start_container(&["--null-io"], "saved", &["sleep", "1000"]);
    // What the runtime has written goes into containerd's store.
    let image = containerd.ctr(&["task", "checkpoint", "saved"]).exits(0).stdout.clone();
    assert!(image.starts_with("containerd.io/checkpoint/saved:"), "{image}");
    let images = containerd.ctr(&["image", "ls", "--quiet"]).stdout;
    assert!(images.contains(image.trim()), "{images}");
    assert_eq!(containerd.status("saved").as_deref(), Some("RUNNING"));
    containerd.ctr(&["task", "exec", "--exec-id", "one", "saved", "true"]).exits(0);
    containerd.ctr(&["task", "rm", "--force", "saved"]).exits(0);
    containerd.ctr(&["container", "rm", "saved"]).exits(0);
    containerd.has_left_nothing();
}
