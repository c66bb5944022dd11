//! Limits on the host's disks hold for a microVM: on the group of its sandbox, since it is the monitor
//! that reads and writes the container's files.

use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cofferdam_e2e::{Bundle, Container, Image, Leftovers, Runtime};
use nix::libc::{major, minor};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A disk's numbers, as limits name it.
fn disk(image: &Image) -> (u32, u32) {
    let number = fs::metadata(image.path()).map_or(0, |metadata| metadata.st_dev());
    (major(number), minor(number))
}

/// A container with a folder of that disk, and these limits.
fn bundle(image: &Image, block: &Value) -> Bundle {
    Bundle::busybox(&["sleep", "1000"])
        .mount(json!({
            "destination": "/disk", "type": "bind", "source": image.folder("shared"),
            "options": ["rbind", "rw"]
        }))
        .edit(|config| config["linux"]["resources"]["blockIO"] = block.clone())
}

/// What the sandbox's group (v2) says of the disk.
fn limits(container: &Container<'_>) -> String {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.pid()));
    let text = text.unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let group: PathBuf = Path::new("/sys/fs/cgroup").join(path);
    fs::read_to_string(group.join("io.max")).unwrap_or_default().trim().to_owned()
}

#[test]
fn what_a_guest_writes_to_a_disk_is_as_slow_as_was_asked_for() {
    let image = Image::ext4();
    let (major, minor) = disk(&image);
    let rate = |rate: u64| json!([{ "major": major, "minor": minor, "rate": rate }]);
    let block = json!({ "throttleWriteBpsDevice": rate(MIB), "throttleReadIOPSDevice": rate(500) });
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle(&image, &block));
    let expected = format!("{major}:{minor} rbps=max wbps={MIB} riops=500 wiops=max");
    assert_eq!(limits(&container), expected);

    let begin = Instant::now();
    let write =
        "dd if=/dev/zero of=/disk/file bs=1M count=5 conv=fsync 2>/dev/null && echo written";
    container.exec(&["sh", "-c", write]).exits(0).prints("written\n");
    assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());

    // Zero takes a limit away.
    let none = json!({ "blockIO": {
        "throttleWriteBpsDevice": rate(0), "throttleReadIOPSDevice": rate(0)
    }});
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), none.to_string()).unwrap();
    runtime.verb(&["update", "-r", file.path().to_str().unwrap(), &container.id]).exits(0);
    assert_eq!(limits(&container), "");
}

#[test]
fn a_limit_that_the_host_cannot_keep_is_refused_and_nothing_is_left() {
    let image = Image::ext4();
    let runtime = Runtime::cofferdam();
    let before = Leftovers::before(&runtime);
    // There is no such disk.
    let block = json!({ "throttleReadBpsDevice": [{ "major": 4000, "minor": 7, "rate": MIB }] });
    runtime.run(&bundle(&image, &block)).exits(1).complains(&["4000:7 rbps=1048576", "io.max"]);
    before.none_since(&runtime);
}
