//! A guest that cannot boot is an error that says why.

// A fixture is part of a test.
#![allow(clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_e2e::{Bundle, Leftovers, Runtime, setting};
use tempfile::TempDir;

/// A copy of the guest's files that a test may spoil, and the configuration that points at it.
struct Guest {
    folder: TempDir,
}

impl Guest {
    fn copy() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let origin = Path::new(&setting("COFFERDAM_BIN")).join("../guest");
        for name in ["vmlinux", "initramfs.cpio", "manifest.json"] {
            fs::copy(origin.join(name), folder.path().join(name)).expect("the guest was built");
        }
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run with these guest files fails with these words and leaves nothing.
    fn fails(&self, words: &[&str]) {
        let config = self.file("config.toml");
        let text =
            format!("[microvm]\nguest = {:?}\nboot_timeout_ms = 30000\n", self.folder.path());
        fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let runtime = Runtime::cofferdam_with(&["--isolation", "microvm", "--config", &config]);
        let before = Leftovers::before(&runtime);
        runtime.run(&Bundle::busybox(&["true"])).exits(1).complains(words);
        before.none_since(&runtime);
    }
}

#[test]
fn a_kernel_that_is_missing_truncated_or_no_kernel_is_named() {
    let guest = Guest::copy();
    let kernel = fs::read(guest.file("vmlinux")).expect("read");
    fs::write(guest.file("vmlinux"), &kernel[..kernel.len() / 2]).expect("written");
    guest.fails(&["vmlinux"]);
    fs::remove_file(guest.file("vmlinux")).expect("removed");
    guest.fails(&["vmlinux"]);
    fs::write(guest.file("vmlinux"), vec![b'x'; kernel.len()]).expect("written");
    guest.fails(&["ELF"]);
}

#[test]
fn a_guest_that_does_not_boot_shows_its_console_and_the_stage() {
    let guest = Guest::copy();
    let mut archive = fs::read(guest.file("initramfs.cpio")).expect("read");
    // A whole archive whose /init is no program: the kernel has nothing to run.
    let program = archive.windows(4).position(|bytes| bytes == b"\x7fELF").expect("the agent");
    archive[program..program + 4].copy_from_slice(b"none");
    fs::write(guest.file("initramfs.cpio"), archive).expect("written");
    guest.fails(&["panic"]);
}
