//! Device nodes that a container makes: its guest's kernel's, wherever they are. On the host's files a
//! file stands in for each.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use cofferdam_e2e::{Bundle, Image, Runtime};
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
fn on_the_hosts_files_a_node_is_a_device_inside_and_an_empty_file_outside() {
    let image = Image::ext4();
    let script = "cd /nodes; mkdir dir; mknod -m 640 null c 1 3; mknod disk b 8 0; mknod dir/mem c 1 1; mkfifo pipe
        mv null dir/moved; ln dir/moved linked
        stat -c '%n %F %t:%T %a' linked disk dir/* pipe; find dir disk -type c -o -type b | sort
        echo lost > linked; wc -c < linked; for node in disk dir/mem; do cat $node; done";
    let seen = |runtime: &Runtime, name: &str| {
        let nodes = json!({
            "destination": "/nodes", "type": "bind", "source": image.folder(name), "options": ["bind"]
        });
        let outcome = runtime.run(&may_make_nodes(Bundle::script(script)).mount(nodes));
        outcome.exits(1).complains(&[
            "can't open 'disk': Operation not permitted",
            "can't open 'dir/mem': Operation not permitted",
        ]);
        outcome.stdout
    };
    assert_eq!(seen(&Runtime::cofferdam(), "ours"), seen(&Runtime::runc(), "theirs"));
    let ours = image.path().join("ours");
    for stand_in in ["linked", "disk", "dir/moved", "dir/mem"] {
        let there = fs::symlink_metadata(ours.join(stand_in)).unwrap();
        assert!(there.is_file() && there.len() == 0, "{stand_in}");
    }
    assert!(ours.join("pipe").metadata().unwrap().file_type().is_fifo());
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
