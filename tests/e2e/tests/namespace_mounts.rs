//! Mounts and hooks of namespace mode: what `libcontainer` does not do, beside runc where runc
//! 1.1 does it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use cofferdam_e2e::{Bundle, Runtime};
use serde_json::{Value, json};

fn compatible() -> Runtime {
    Runtime::cofferdam_with(&["--isolation", "namespace", "--compat"])
}

/// A user namespace of its own for the container, and a root file system that belongs to it.
fn with_user_namespace(config: &mut Value) {
    let mappings = json!([{ "containerID": 0, "hostID": 100_000, "size": 65536 }]);
    config["linux"]["uidMappings"] = mappings.clone();
    config["linux"]["gidMappings"] = mappings;
    let namespaces = config["linux"]["namespaces"].as_array_mut();
    namespaces.into_iter().for_each(|all| all.push(json!({ "type": "user" })));
}

/// Since Linux 6.3 the owners on a tmpfs, on which temporary folders often are, can be mapped.
fn tmpfs_maps_owners() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

#[test]
fn owners_are_mapped_where_a_mount_asks_for_it() {
    let bundle = Bundle::busybox(&["stat", "-c", "%u:%g", "/data/file"]);
    let data = bundle.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "x").unwrap();
    chown(data.join("file"), Some(1), Some(2)).unwrap();
    let bundle = bundle.mount(json!({
        "destination": "/data", "source": data, "options": ["bind"],
        "uidMappings": [{ "containerID": 0, "hostID": 5000, "size": 100 }],
        "gidMappings": [{ "containerID": 0, "hostID": 6000, "size": 100 }],
    }));
    let outcome = compatible().run(&bundle);
    if tmpfs_maps_owners() {
        outcome.exits(0).prints("5001:6002\n");
    } else {
        outcome.exits(1).complains(&["mounts[6]", "owners"]);
    }
}

#[test]
fn a_source_that_the_containers_root_could_not_reach_is_mounted() {
    let bundle = Bundle::busybox(&["cat", "/data/file"]);
    let hidden = bundle.path().join("hidden");
    fs::create_dir_all(hidden.join("data")).unwrap();
    fs::write(hidden.join("data/file"), "reached\n").unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let data =
        json!({ "destination": "/data", "source": hidden.join("data"), "options": ["bind"] });
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    for kind in ["proc", "sys", "dev", "tmp"] {
        let _ = fs::create_dir(bundle.rootfs().join(kind));
    }
    let bundle = bundle.mount(data).edit(with_user_namespace);
    compatible().run(&bundle).exits(0).prints("reached\n");
}

#[test]
fn a_link_to_nowhere_leads_to_a_mount_point_inside() {
    let bundle = Bundle::busybox(&["cat", "/way/file"]);
    symlink("../../made/here", bundle.rootfs().join("way")).unwrap();
    let source = bundle.path().join("source");
    fs::write(&source, "bound\n").unwrap();
    let mount = json!({ "destination": "/way/file", "source": source, "options": ["bind"] });
    compatible().run(&bundle.clone().mount(mount)).exits(0).prints("bound\n");
    assert!(bundle.rootfs().join("made/here/file").is_file());
}

#[test]
fn a_tmpfs_is_as_open_as_what_it_covers_and_has_a_copy_of_it() {
    let bundle = Bundle::busybox(&["sh", "-c", "stat -c %a /covered; cat /covered/file"]);
    let covered = bundle.rootfs().join("covered");
    fs::create_dir(&covered).unwrap();
    fs::write(covered.join("file"), "copied\n").unwrap();
    fs::set_permissions(&covered, fs::Permissions::from_mode(0o710)).unwrap();
    let bundle = bundle.mount(json!({
        "destination": "/covered", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"],
    }));
    for runtime in [compatible(), Runtime::runc()] {
        runtime.run(&bundle).exits(0).prints("710\ncopied\n");
    }
}

#[test]
fn mounts_cover_each_other_in_their_order() {
    let bundle = Bundle::busybox(&["ls", "/a", "/a/b"]);
    let source = bundle.path().join("source");
    fs::create_dir_all(source.join("b")).unwrap();
    fs::write(source.join("b/covered"), "").unwrap();
    let bundle = bundle
        .mount(json!({ "destination": "/a", "source": source, "options": ["rbind", "ro"] }))
        .mount(json!({ "destination": "/a/b", "type": "tmpfs", "source": "tmpfs",
                       "options": ["mode=755"] }));
    let theirs = Runtime::runc().run(&bundle);
    compatible().run(&bundle).exits(0).prints(&theirs.stdout);
    assert!(!theirs.stdout.contains("covered"));
}

#[test]
fn a_hook_that_fails_is_named_with_what_it_wrote() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let bundle = Bundle::busybox(&["true"]).edit(|config| {
            config["hooks"] = json!({});
            config["hooks"][kind] = json!([
                { "path": "/bin/true" },
                { "path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"] },
            ]);
        });
        compatible()
            .run(&bundle)
            .exits(1)
            .complains(&[&format!("error running {kind} hook #1"), "because"]);
    }
}
