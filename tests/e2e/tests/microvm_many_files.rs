//! Many small files cost the monitor a descriptor each for as long as the guest remembers them, and
//! no longer.

use std::fs;
use std::path::Path;

use cofferdam_e2e::{Bundle, Runtime, monitor_kib};
use serde_json::json;

/// As many as the lab has time for.
const FILES: usize = 5000;
/// What the server keeps of one: a descriptor and some hundred bytes.
const MOST_KIB: u64 = FILES as u64 + 2048;

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn fill(folder: &Path) -> std::io::Result<()> {
    for number in 0..FILES {
        let folder = folder.join(format!("{}", number % 50));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("file-{number}")), "x")?;
    }
    Ok(())
}

fn bundle(host: &Path) -> Bundle {
    Bundle::busybox(&["sleep", "10000"])
        .mount(json!({
            "destination": "/many", "type": "bind", "source": host, "options": ["rbind"]
        }))
        .edit(|config| config["linux"]["readonlyPaths"] = json!([]))
}

#[test]
fn what_the_guest_forgets_costs_nothing() {
    let host = tempfile::tempdir().unwrap();
    fill(host.path()).unwrap();
    let bundle = bundle(host.path());
    let runtime = Runtime::cofferdam();
    let container = runtime.start(&bundle);
    let pid = container.pid();
    let (few, small) = (descriptors(pid), monitor_kib(&container));
    for round in 0..2 {
        container
            .exec(&["sh", "-c", "find /many -type f | wc -l"])
            .exits(0)
            .prints(&format!("{FILES}\n"));
        let (many, large) = (descriptors(pid), monitor_kib(&container));
        assert!(many >= few + FILES, "round {round}: {few} to {many} descriptors");
        assert!(many <= few + FILES + 500, "round {round}: {few} to {many} descriptors");
        assert!(large <= small + MOST_KIB, "round {round}: {small} to {large} KiB");
        // What was used lately survives the first attempts.
        let drop = "for i in 1 2 3 4 5 6; do echo 2 > /proc/sys/vm/drop_caches; done; sleep 1";
        container.exec(&["sh", "-c", drop]).exits(0);
        let left = descriptors(pid);
        assert!(left <= few + 500, "round {round}: {few} to {left} descriptors");
    }
}

#[test]
fn a_guest_may_use_more_files_than_its_monitor_can_hold_open() {
    const DESCRIPTORS: u32 = 4096;
    let host = tempfile::tempdir().unwrap();
    fill(host.path()).unwrap();
    let runtime = Runtime::cofferdam().with_descriptors(DESCRIPTORS);
    let container = runtime.start(&bundle(host.path()));
    for _ in 0..2 {
        let find = "find /many -type f | wc -l";
        container.exec(&["sh", "-c", find]).exits(0).prints(&format!("{FILES}\n"));
        assert!(descriptors(container.pid()) < DESCRIPTORS as usize);
    }
}
