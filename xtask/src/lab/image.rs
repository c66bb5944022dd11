//! The lab's kernel and initramfs.
//!
//! The kernel is Debian's cloud kernel: the installed one, or else one that is unpacked in the
//! cache, because a kernel *installed* for our sake would take part in how the machine boots. The
//! initramfs (busybox, the modules in load order, `tests/lab/init`) is cached by what goes in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::archive::Archive;
use crate::digest::Inputs;
use crate::{process, progress, workspace};

/// The package that depends on the newest cloud kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the lab loads, before what it needs by itself: KVM, virtio, what containers, their networks
/// and their images use, and what CRIU lists sockets and
/// connections with.
const MODULES: &[&str] = &[
    "virtiofs",
    "overlay",
    "virtio_pci",
    "virtio_console",
    "kvm-amd",
    "tun",
    "virtio_rng",
    "virtio_net",
    "virtio_blk",
    "veth",
    "bridge",
    "br_netfilter",
    "act_mirred",
    "sch_ingress",
    "cls_u32",
    "cls_matchall",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "nft_compat",
    "xt_MASQUERADE",
    "xt_comment",
    "xt_conntrack",
    "xt_addrtype",
    "xt_nat",
    "xt_mark",
    "xt_CHECKSUM",
    "xt_tcpudp",
    "xt_multiport",
    "ip_tables",
    "iptable_nat",
    "iptable_filter",
    "loop",
    "ext4",
    "erofs",
    "squashfs",
    "dm_mod",
    "dm_thin_pool",
    "fuse",
    "tcp_diag",
    "inet_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "netlink_diag",
    "af_packet_diag",
    "nf_conntrack_netlink",
];

/// What QEMU boots.
pub(super) struct Image {
    /// A bzImage.
    pub(super) kernel: PathBuf,
    /// An uncompressed cpio archive.
    pub(super) initramfs: PathBuf,
}

/// A kernel and the tree that its modules are in.
struct Kernel {
    image: PathBuf,
    version: String,
    /// `/`, or where the package was unpacked.
    tree: PathBuf,
}

/// Makes the image, or finds it in the cache.
pub(super) fn ensure() -> Result<Image> {
    let kernel = match newest_kernel(Path::new("/"))? {
        Some(kernel) => kernel,
        None => unpacked_kernel()?,
    };
    let init = workspace::root().join("tests/lab/init");
    let Some(busybox) = process::find("busybox") else {
        bail!("The lab needs busybox-static: run `cargo xtask setup`");
    };
    let modules = modules(&kernel)?;

    let mut inputs = Inputs::default();
    inputs.add(&kernel.version).add_file(&init)?.add_file(&busybox)?;
    for module in &modules {
        inputs.add(module.as_os_str().as_encoded_bytes());
    }
    let folder = workspace::cache().join("lab");
    let initramfs = folder.join(format!("initramfs-{}.cpio", inputs.name()));
    if !initramfs.exists() {
        fs::create_dir_all(&folder)
            .with_context(|| format!("Could not create {}", folder.display()))?;
        let partial = tempfile::NamedTempFile::new_in(&folder)?;
        write_initramfs(partial.as_file(), &busybox, &init, &modules)?;
        partial.persist(&initramfs)?;
    }
    Ok(Image { kernel: kernel.image, initramfs })
}

fn write_initramfs(
    file: &fs::File,
    busybox: &Path,
    init: &Path,
    modules: &[PathBuf],
) -> Result<()> {
    let mut archive = Archive::new(io::BufWriter::new(file));
    for folder in ["bin", "proc", "sys", "dev", "modules", "host", "overlay", "new"] {
        archive.folder(folder)?;
    }
    // Without it, init has no standard descriptors until devtmpfs is mounted.
    archive.character_device("dev/console", 0o600, (5, 1))?;
    archive.file("bin/busybox", 0o755, &read(busybox)?)?;
    archive.file("init", 0o755, &read(init)?)?;
    for (index, module) in modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{index:03}-{name}"), 0o644, &read(module)?)?;
    }
    io::Write::flush(&mut archive.finish()?)?;
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("Could not read {}", path.display()))
}

/// The files of [`MODULES`] and of what they need, in the order to load them.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let Some(modprobe) = process::find("modprobe") else {
        bail!("The lab needs kmod: run `cargo xtask setup`");
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        // One that is built in, or that this kernel does not have, prints no `insmod` line.
        let listing = Command::new(&modprobe)
            .arg("--dirname")
            .arg(&kernel.tree)
            .args(["--set-version", &kernel.version, "--show-depends", module])
            .output()
            .context("Could not start modprobe")?;
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            let mut words = line.split_whitespace();
            if let (Some("insmod"), Some(path)) = (words.next(), words.next()) {
                let path = PathBuf::from(path);
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
    }
    if !files.iter().any(|file| file.ends_with("kvm-amd.ko")) {
        bail!("Linux {} has no uncompressed kvm-amd.ko: the lab needs Debian 12's", kernel.version);
    }
    Ok(files)
}

/// The newest cloud kernel under a tree.
fn newest_kernel(tree: &Path) -> Result<Option<Kernel>> {
    let Ok(entries) = fs::read_dir(tree.join("boot")) else { return Ok(None) };
    let mut versions = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix("vmlinuz-"));
        versions.extend(version.filter(|v| v.ends_with("-cloud-amd64")).map(str::to_owned));
    }
    versions.sort_by_key(|version| numbers(version));
    Ok(versions.pop().map(|version| Kernel {
        image: tree.join(format!("boot/vmlinuz-{version}")),
        version,
        tree: tree.to_owned(),
    }))
}

/// The numbers in a version, by which versions sort: `6.1.0-9` is before `6.1.0-56`.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The cloud kernel in the cache, fetched if it is not there.
fn unpacked_kernel() -> Result<Kernel> {
    let tree = workspace::cache().join("lab/kernel");
    if let Some(kernel) = newest_kernel(&tree)? {
        return Ok(kernel);
    }
    let step = progress::step("Fetching the lab's kernel");
    let folder = workspace::cache().join("lab");
    fs::create_dir_all(&folder)?;
    let partial = tempfile::tempdir_in(&folder)?;
    // `Depends:` of the package without a version names the package with one.
    let listing = process::output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
    let package = listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("apt knows no {KERNEL_PACKAGE}: run `apt-get update`"))?;
    let download = ["-o", "APT::Sandbox::User=root", "download", package];
    process::output(Command::new("apt-get").args(download).current_dir(partial.path()))?;
    let archive = fs::read_dir(partial.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no package"))?;
    let unpacked = partial.path().join("tree");
    process::output(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked))?;
    let kernel = newest_kernel(&unpacked)?.context("The package has no kernel")?;
    let depmod = process::find("depmod").context("The lab needs kmod: run `cargo xtask setup`")?;
    process::output(Command::new(depmod).arg("--basedir").arg(&unpacked).arg(&kernel.version))?;
    fs::rename(&unpacked, &tree)?;
    step.done();
    newest_kernel(&tree)?.context("The package has no kernel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_the_one_with_the_highest_numbers() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("boot")).unwrap();
        for name in
            ["vmlinuz-6.1.0-9-cloud-amd64", "vmlinuz-6.1.0-56-cloud-amd64", "vmlinuz-6.9.0-amd64"]
        {
            fs::write(tree.path().join("boot").join(name), "").unwrap();
        }
        let newest = newest_kernel(tree.path()).unwrap().unwrap();
        assert_eq!(newest.version, "6.1.0-56-cloud-amd64");
    }

    #[test]
    fn a_tree_without_a_cloud_kernel_has_none() {
        let tree = tempfile::tempdir().unwrap();
        assert!(newest_kernel(tree.path()).unwrap().is_none());
    }
}
