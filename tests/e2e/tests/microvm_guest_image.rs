//! A guest that cannot boot is an error that says why.

// A fixture is part of a test.
#![allow(clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use cofferdam_e2e::{Bundle, Leftovers, Runtime, setting};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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

    /// The runtime with these guest files, and this long for a boot.
    fn runtime(&self, boot_timeout_ms: u32) -> Runtime {
        let config = self.file("config.toml");
        let folder = self.folder.path();
        let text = format!("[microvm]\nguest = {folder:?}\nboot_timeout_ms = {boot_timeout_ms}\n");
        fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        Runtime::cofferdam_with(&["--isolation", "microvm", "--config", &config])
    }

    /// A run with these guest files fails with these words and leaves nothing.
    fn fails(&self, words: &[&str]) {
        let runtime = self.runtime(30_000);
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

/// Where a program's first instruction is in its file.
fn first_instruction(elf: &[u8]) -> usize {
    let word = |at: usize, bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&elf[at..at + bytes]);
        usize::try_from(u64::from_le_bytes(value)).expect("an offset")
    };
    let (entry, headers, size, count) = (word(24, 8), word(32, 8), word(54, 2), word(56, 2));
    let segments = (0..count).map(|index| headers + index * size);
    let mut loaded = segments.filter(|at| word(*at, 4) == 1);
    let at = loaded
        .find(|at| (word(at + 16, 8)..word(at + 16, 8) + word(at + 32, 8)).contains(&entry))
        .expect("it is in a segment");
    entry - word(at + 16, 8) + word(at + 8, 8)
}

#[test]
fn a_guest_that_hangs_in_its_boot_can_be_interrupted() {
    let guest = Guest::copy();
    let mut archive = fs::read(guest.file("initramfs.cpio")).expect("read");
    let program = archive.windows(4).position(|bytes| bytes == b"\x7fELF").expect("the agent");
    let start = program + first_instruction(&archive[program..]);
    // It jumps to itself.
    archive[start..start + 2].copy_from_slice(&[0xeb, 0xfe]);
    fs::write(guest.file("initramfs.cpio"), archive).expect("written");

    let runtime = guest.runtime(600_000);
    let before = Leftovers::before(&runtime);
    let bundle = Bundle::busybox(&["true"]);
    let path = bundle.path().display().to_string();
    let id = runtime.id("hangs");
    let mut run = runtime
        .command(&["run", "--bundle", &path, &id])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run starts");
    thread::sleep(Duration::from_secs(8));
    assert!(run.try_wait().expect("run can be waited for").is_none(), "the guest does not hang");
    kill(Pid::from_raw(i32::try_from(run.id()).expect("a pid")), Signal::SIGINT).expect("sent");
    let ended = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(50));
        run.try_wait().expect("run can be waited for").is_some()
    });
    let _ = run.kill();
    assert!(ended, "an interrupted run does not end");
    before.none_since(&runtime);
}
