//! What the monitor answers to what it cannot boot: through the real binary, in namespaces as the
//! runtime makes them. Nothing here enters a guest, so any KVM will do, or none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

use cofferdam_protocol::boot::{BootReport, BootStage};
use cofferdam_protocol::bounds::{MAX_BOOT_REPORT_BYTES, MAX_VM_CONFIG_BYTES};
use cofferdam_protocol::frame::{encode, read_frame};
use cofferdam_protocol::vm_config::{Descriptor, VmConfig};
use rustix::io::{FdFlags, fcntl_setfd};

/// A monitor about to be started, in a state that would do but for the files being empty.
struct Fixture {
    _folder: tempfile::TempDir,
    config: VmConfig,
    report: File,
    inherited: Vec<OwnedFd>,
}

impl Fixture {
    fn new(kernel: &[u8], initramfs: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let report = tempfile::tempfile().unwrap();
        let control = UnixListener::bind(folder.path().join("control.sock")).unwrap();
        let kvm = File::open("/dev/kvm").or_else(|_| File::open("/dev/null")).unwrap();
        let inherited: Vec<OwnedFd> = vec![
            file_of(kernel).into(),
            file_of(initramfs).into(),
            kvm.into(),
            control.into(),
            report.try_clone().unwrap().into(),
            tempfile::tempfile().unwrap().into(),
        ];
        let descriptor = |index: usize| Descriptor(inherited[index].as_raw_fd());
        let config = VmConfig {
            sandbox: "refused".parse().unwrap(),
            vcpus: 1,
            vcpus_max: 1,
            memory_mib: 64,
            memory_blocks_max: 0,
            network_slots: 1,
            disk_slots: 0,
            pod_places: 0,
            kernel: descriptor(0),
            initramfs: descriptor(1),
            kvm: descriptor(2),
            control: descriptor(3),
            report: descriptor(4),
            exit_record: descriptor(5),
            log: None,
            console: None,
            shares: vec![],
            restore: None,
            boot_timeout_ms: 1000,
        };
        Self { _folder: folder, config, report, inherited }
    }

    fn run(&self) -> Output {
        let document = file_of(&encode(&self.config, MAX_VM_CONFIG_BYTES).unwrap());
        let descriptors = self.inherited.iter().map(AsFd::as_fd).chain([document.as_fd()]);
        descriptors.for_each(|fd| fcntl_setfd(fd, FdFlags::empty()).unwrap());
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts"])
            .args(["--fork", "--", env!("CARGO_BIN_EXE_cofferdam-vmm"), "run", "--config-fd"])
            .arg(document.as_raw_fd().to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn report(&mut self) -> Option<BootReport> {
        let mut bytes = Vec::new();
        self.report.rewind().unwrap();
        self.report.read_to_end(&mut bytes).unwrap();
        read_frame(bytes.as_slice(), MAX_BOOT_REPORT_BYTES).ok()
    }
}

fn file_of(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    file
}

/// The stage and reason of a refusal, and that the monitor's code says so too.
fn refused(kernel: &[u8], initramfs: &[u8]) -> (BootStage, String) {
    let mut fixture = Fixture::new(kernel, initramfs);
    let output = fixture.run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    match fixture.report() {
        Some(BootReport::Failed { stage, reason, .. }) => (stage, reason),
        other => panic!("{other:?}, {output:?}"),
    }
}

/// An ELF header and one segment that begins where the header says the file goes on.
fn kernel(file_bytes: u64) -> Vec<u8> {
    const ADDRESS: u64 = 16 << 20;
    let mut image = vec![0; 4096];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[18] = 62;
    image[24..32].copy_from_slice(&ADDRESS.to_le_bytes());
    image[32..40].copy_from_slice(&64_u64.to_le_bytes());
    (image[54], image[56], image[64]) = (56, 1, 1);
    for (field, value) in [(72, 4096), (88, ADDRESS), (96, file_bytes), (104, file_bytes)] {
        image[field..field + 8].copy_from_slice(&value.to_le_bytes());
    }
    image.resize(4096 + 4096, 0x90);
    image
}

#[test]
fn a_kernel_that_is_none() {
    let (stage, reason) = refused(b"#!/bin/sh\n", b"");
    assert_eq!(stage, BootStage::Load);
    assert!(reason.contains("not an ELF file"), "{reason}");
}

#[test]
fn a_truncated_kernel() {
    let (stage, reason) = refused(&kernel(1 << 20), b"");
    assert_eq!(stage, BootStage::Load);
    assert!(reason.contains("truncated: 8192 bytes of 1052672"), "{reason}");
}

#[test]
fn an_initramfs_that_is_none() {
    let (stage, reason) = refused(&kernel(4096), b"\x1f\x8b\x08");
    assert_eq!(stage, BootStage::Load);
    assert!(reason.contains("not an uncompressed cpio archive"), "{reason}");
}

#[test]
fn a_truncated_initramfs() {
    let (_, reason) = refused(&kernel(4096), b"070701 and no more");
    assert!(reason.contains("initramfs is truncated"), "{reason}");
}

#[test]
fn a_configuration_out_of_bounds_has_no_report_and_says_so_on_stderr() {
    let mut fixture = Fixture::new(&kernel(4096), b"");
    fixture.config.vcpus = 0;
    let output = fixture.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("0 vCPUs"), "{output:?}");
    assert_eq!(fixture.report(), None);
}

#[test]
fn a_descriptor_that_is_named_twice() {
    let mut fixture = Fixture::new(&kernel(4096), b"");
    fixture.config.initramfs = fixture.config.kernel;
    let output = fixture.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("for the initramfs"), "{output:?}");
}
