//! A root file system whose maker means no good: whatever its links are, nothing in it leads
//! outside, neither when the container is made nor when it runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use cofferdam_e2e::{Bundle, Mode, Runtime};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

const SECRET: &str = "of the host";

/// A folder of the host's with a secret, which nobody inside may read or add to.
struct Outside(tempfile::TempDir);

impl Outside {
    fn new() -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("secret"), SECRET)?;
        Ok(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Absolute, up and down again, through `/proc`.
    fn ways(&self) -> Vec<PathBuf> {
        let below = self.path().strip_prefix("/").unwrap_or(self.path());
        let through = |prefix: &str| Path::new(prefix).join(below);
        let prefixes = [
            "/",
            "../../../../../../..",
            "/../../..",
            "/proc/self/root",
            "/proc/1/root",
            "/proc/self/cwd/../..",
            "/proc/thread-self/root/..",
        ];
        prefixes.into_iter().map(through).collect()
    }

    #[track_caller]
    fn is_untouched(&self) {
        let names: Vec<_> = fs::read_dir(self.path())
            .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
            .unwrap_or_default();
        assert_eq!(names, ["secret"], "in the host's folder");
        let secret = fs::read_to_string(self.path().join("secret")).ok();
        assert_eq!(secret.as_deref(), Some(SECRET));
    }
}

/// Exchanges a folder and a link for as long as it is there.
struct Race {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Race {
    fn between(folder: PathBuf, link: PathBuf) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let exchange = move || {
            while !seen.load(Ordering::Relaxed) {
                // A mount on it is in the way: then it stays as it is.
                let _ = renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE);
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        };
        Self { over, thread: Some(std::thread::spawn(exchange)) }
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn links_inside_lead_nowhere_outside() {
    let outside = Outside::new().unwrap();
    let script = "for way in /ways/*; do cat $way/secret 2>/dev/null; echo x > $way/new; \
                  done 2>/dev/null; echo over";
    let bundle = Bundle::script(script);
    fs::create_dir(bundle.rootfs().join("ways")).unwrap();
    for (number, way) in outside.ways().iter().enumerate() {
        symlink(way, bundle.rootfs().join("ways").join(number.to_string())).unwrap();
    }
    Runtime::cofferdam().run(&bundle).exits(0).prints("over\n");
    outside.is_untouched();
}

#[test]
fn a_mount_is_not_made_outside_whatever_its_destination_is() {
    let outside = Outside::new().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut bundle = Bundle::script("echo over");
    for (number, way) in outside.ways().iter().enumerate() {
        symlink(way, bundle.rootfs().join(format!("way{number}"))).unwrap();
        // Through `/proc` there is no folder to make: one of the container's own is meant then.
        if !way.starts_with("/proc") {
            bundle = bundle.mount(json!({
                "destination": format!("/way{number}/new"), "type": "bind", "source": file.path(),
                "options": ["bind"]
            }));
        }
    }
    Runtime::cofferdam().run(&bundle).exits(0).prints("over\n");
    outside.is_untouched();
}

#[test]
fn a_mount_through_a_magic_link_is_refused_or_stays_inside() {
    let outside = Outside::new().unwrap();
    for way in outside.ways().iter().filter(|way| way.starts_with("/proc")).take(2) {
        let bundle = Bundle::script("echo over").mount(json!({
            "destination": "/way/new", "type": "tmpfs", "source": "tmpfs", "options": []
        }));
        symlink(way, bundle.rootfs().join("way")).unwrap();
        let outcome = Runtime::cofferdam().run(&bundle);
        assert!(outcome.code == 1 || outcome.stdout == "over\n", "{outcome:?}");
        outside.is_untouched();
    }
}

#[test]
fn a_folder_that_becomes_a_link_while_it_is_used_leads_nowhere() {
    let outside = Outside::new().unwrap();
    // Through the file server each takes several calls, and the lab is slow at them.
    let attempts = if Mode::current() == Mode::MicroVm { 100 } else { 300 };
    let script = format!(
        "i=0; while [ $i -lt {attempts} ]; do cat /race/secret; echo x > /race/new; i=$((i+1)); \
         done 2>/dev/null | grep -c host; echo over"
    );
    let bundle = Bundle::script(&script);
    fs::create_dir(bundle.rootfs().join("race")).unwrap();
    fs::write(bundle.rootfs().join("race/secret"), "inside\n").unwrap();
    symlink(outside.path(), bundle.rootfs().join("link")).unwrap();
    let _race = Race::between(bundle.rootfs().join("race"), bundle.rootfs().join("link"));
    Runtime::cofferdam().run(&bundle).exits(0).prints("0\nover\n");
    outside.is_untouched();
}

#[test]
fn a_destination_that_becomes_a_link_while_the_mount_is_made_leads_nowhere() {
    let attempts = if Mode::current() == Mode::MicroVm { 2 } else { 20 };
    for _ in 0..attempts {
        let outside = Outside::new().unwrap();
        let bundle = Bundle::script("true").mount(json!({
            "destination": "/race/new", "type": "tmpfs", "source": "tmpfs", "options": []
        }));
        fs::create_dir(bundle.rootfs().join("race")).unwrap();
        symlink(outside.path(), bundle.rootfs().join("link")).unwrap();
        let race = Race::between(bundle.rootfs().join("race"), bundle.rootfs().join("link"));
        // Made or refused, as the race ends.
        let outcome = Runtime::cofferdam().run(&bundle);
        drop(race);
        assert!(matches!(outcome.code, 0 | 1), "{outcome:?}");
        outside.is_untouched();
    }
}
