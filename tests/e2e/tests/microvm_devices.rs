//! Device nodes that a container makes: of its guest's kernel where the file system is the guest's,
//! none at all on the host's files.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use cofferdam_e2e::{Bundle, Runtime};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;

fn may_make_nodes(bundle: Bundle) -> Bundle {
    bundle.edit(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_MKNOD"]);
        }
    })
}

#[test]
fn on_the_hosts_files_no_node_can_be_made() {
    let script =
        "mknod /null c 1 3; mknod /disk b 8 0; mknod /dir/mem c 1 1; mkfifo /pipe; ls -A /dir";
    let bundle = may_make_nodes(Bundle::script(script));
    fs::create_dir(bundle.rootfs().join("dir")).unwrap();
    let outcome = Runtime::cofferdam().run(&bundle);
    outcome.exits(0).prints("");
    for node in ["/null", "/disk", "/dir/mem"] {
        outcome.complains(&[&format!("mknod: {node}: Operation not permitted")]);
    }
    for entry in fs::read_dir(bundle.rootfs()).unwrap() {
        let kind = entry.unwrap().file_type().unwrap();
        assert!(!kind.is_char_device() && !kind.is_block_device());
    }
    assert!(bundle.rootfs().join("pipe").metadata().unwrap().file_type().is_fifo());
}

#[test]
fn a_node_that_is_there_already_is_the_guests_device() {
    let bundle = Bundle::script("cd /; echo lost > nothing; wc -c < nothing; cat memory");
    for (name, minor) in [("nothing", 3), ("memory", 1)] {
        let node = bundle.rootfs().join(name);
        mknod(&node, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor)).unwrap();
    }
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        let refused = "can't open 'memory': Operation not permitted";
        runtime.run(&bundle).exits(1).prints("0\n").complains(&[refused]);
    }
}

#[test]
fn in_the_containers_memory_they_are_made_and_those_that_are_allowed_can_be_opened() {
    let script = "cd /nodes; mknod null c 1 3 && mknod mem c 1 1 && mknod disk b 8 0 || exit 1;
        echo lost > null; wc -c < null; for node in mem disk; do cat $node; done";
    let bundle = may_make_nodes(Bundle::script(script)).mount(json!({
        "destination": "/nodes", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]
    }));
    for runtime in [Runtime::cofferdam(), Runtime::runc()] {
        runtime.run(&bundle).exits(1).prints("0\n").complains(&[
            "can't open 'mem': Operation not permitted",
            "can't open 'disk': Operation not permitted",
        ]);
    }
}
