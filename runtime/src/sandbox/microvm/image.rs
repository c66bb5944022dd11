//! The image of a microVM: a folder with the guest's memory, the machine's state, and a manifest
//! that says whose they are.
//!
//! ```text
//!  lock the folder ─▶ memory-N, state-N written ─▶ manifest.json renamed into place ─▶ older removed
//! ```
//!
//! What is not named by the manifest is not part of the image: a checkpoint that is cut leaves the
//! image of before, or none, and files that the next one removes.
//!
//! Hostile: the folder's content. Only what the caller alone can have written is read, and what the
//! manifest says is compared with what would be made here, never done.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cofferdam_protocol::bounds::{MAX_VCPUS, SNAPSHOT_VERSION};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::Origin;
use crate::host::own_file;
use crate::host::replace::replace_file;
use crate::plan::{RunningVm, VmShape};

const MANIFEST: &str = "manifest.json";
const MEMORY: &str = "memory-";
const STATE: &str = "state-";
/// The plan in it has compiled seccomp programs, as lists of numbers.
const MAX_MANIFEST_BYTES: u64 = 32 << 20;

/// What an image is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// [`SNAPSHOT_VERSION`] of who wrote it.
    pub(super) version: u32,
    /// What the guest was booted from.
    pub(super) origin: Origin,
    /// SHA-256 of the monitor that saved it.
    pub(super) monitor: String,
    /// How large it is.
    pub(super) machine: Size,
    /// The host's trees that the guest sees, and the container: what
    /// [`crate::plan::SandboxPlan`] has of them.
    pub(super) plan: Value,
    /// The file with the guest's memory.
    memory: String,
    /// The file with the machine's state.
    state: String,
}

/// The machine of an image. Its guest has seen all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Size {
    /// The virtual processors that it began with.
    pub(super) vcpus: u8,
    /// To how many it can grow: as many as the host that it was made on has, if nobody said
    /// otherwise. So the image decides, and not the host that it is restored on.
    pub(super) vcpus_max: u8,
    /// Guest memory.
    pub(super) memory_mib: u32,
}

impl Size {
    /// That of a machine that is to be saved.
    pub(super) const fn of(vm: &RunningVm) -> Self {
        Self { vcpus: vm.vcpus, vcpus_max: vm.vcpus_max, memory_mib: vm.memory_mib }
    }

    /// Whether a configuration asks for this size.
    fn check(self, shape: &VmShape) -> Result<(), ImageError> {
        let Self { vcpus, vcpus_max, memory_mib } = self;
        for (what, found, expected) in [
            ("vCPUs", u32::from(vcpus), u32::from(shape.vcpus)),
            ("MiB of memory", memory_mib, shape.memory_mib),
        ] {
            if found != expected {
                return Err(ImageError::Shape { what, found, expected });
            }
        }
        if (vcpus..=MAX_VCPUS).contains(&vcpus_max) {
            Ok(())
        } else {
            Err(ImageError::Processors { vcpus, vcpus_max })
        }
    }
}

/// Why an image was not written, or cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or folder.
    #[error("Cannot {action} {}", .path.display())]
    Io {
        /// Make, open, …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another checkpoint.
    #[error("Another checkpoint is being written to {}", .0.display())]
    Busy(PathBuf),
    /// Somebody else could have changed it.
    #[error(
        "{} is not the caller's own, or others may use it: an image is the memory of a machine. Make it yours (chown, chmod go=)",
        .0.display()
    )]
    NotPrivate(PathBuf),
    /// No image, or one of CRIU's.
    #[error("{} is not the image of a microVM: it has no {MANIFEST}", .0.display())]
    None(PathBuf),
    /// Damaged.
    #[error("{} is damaged", .path.display())]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A file of another name.
    #[error("{} names a file that is none of an image", .0.display())]
    Name(PathBuf),
    /// Another version.
    #[error(
        "The image has version {0}, and this runtime reads {SNAPSHOT_VERSION}: restore it with the version that wrote it"
    )]
    Version(u64),
    /// Other files.
    #[error(
        "The image was taken with another {what} ({found}) than the one installed here ({expected}): restore it with the installation that wrote it"
    )]
    Build {
        /// Guest kernel, agent or monitor.
        what: &'static str,
        /// SHA-256 in the image.
        found: String,
        /// SHA-256 here.
        expected: String,
    },
    /// Another machine.
    #[error("The image's machine has {found} {what}, the configuration asks for {expected}")]
    Shape {
        /// Of what.
        what: &'static str,
        /// In the image.
        found: u32,
        /// Asked for.
        expected: u32,
    },
    /// No machine can be so.
    #[error(
        "The image's machine has {vcpus} vCPUs and can have {vcpus_max}: {vcpus} to {MAX_VCPUS} are possible"
    )]
    Processors {
        /// Those that it began with.
        vcpus: u8,
        /// To how many it can grow.
        vcpus_max: u8,
    },
    /// Another place on the host.
    #[error(
        "The image's container sees {found} of the host where this one would see {expected}: a guest's open files are known by their paths"
    )]
    Share {
        /// In the image.
        found: String,
        /// Here.
        expected: String,
    },
    /// Another container.
    #[error(
        "The bundle's configuration is not that of the image: {pointer} differs. What a container may do cannot be changed by restoring it"
    )]
    Configuration {
        /// Where in the plan.
        pointer: String,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_path_buf();
    move |source| ImageError::Io { action, path, source }
}

/// An image that is being written. Dropped before it is finished, it takes its files away.
#[derive(Debug)]
pub(super) struct Draft {
    folder: PathBuf,
    _lock: File,
    names: [String; 2],
    /// For the guest's memory, of its full length.
    pub(super) memory: File,
    /// For the machine's state.
    pub(super) state: File,
    finished: bool,
}

impl Draft {
    /// Begins in a folder, which is made if need be.
    pub(super) fn begin(folder: &Path, memory_mib: u32) -> Result<Self, ImageError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io_error("make", folder))?;
        let lock = File::open(folder).map_err(io_error("open", folder))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| ImageError::Busy(folder.to_path_buf()))?;
        remove_strays(folder);
        let nonce = crate::timestamp::now().replace(|c: char| !c.is_ascii_alphanumeric(), "");
        let names = [format!("{MEMORY}{nonce}"), format!("{STATE}{nonce}")];
        let create = |name: &String| {
            let path = folder.join(name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            options.open(&path).map_err(io_error("make", &path))
        };
        let memory = create(&names[0])?;
        let state = create(&names[1])?;
        let path = folder.join(&names[0]);
        memory.set_len(u64::from(memory_mib) << 20).map_err(io_error("make", &path))?;
        let folder = folder.to_path_buf();
        Ok(Self { folder, _lock: lock, names, memory, state, finished: false })
    }

    /// Both files are written: from here on the folder's image is this.
    pub(super) fn finish(
        mut self,
        origin: Origin,
        monitor: String,
        machine: Size,
        plan: Value,
    ) -> Result<(), ImageError> {
        for (file, name) in [&self.memory, &self.state].into_iter().zip(&self.names) {
            file.sync_all().map_err(io_error("write", &self.folder.join(name)))?;
        }
        let [memory, state] = self.names.clone();
        let version = SNAPSHOT_VERSION;
        let manifest = Manifest { version, origin, monitor, machine, plan, memory, state };
        let path = self.folder.join(MANIFEST);
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|source| ImageError::Damaged { path: path.clone(), source })?;
        replace_file(&path, &bytes, 0o600).map_err(io_error("write", &path))?;
        self.finished = true;
        remove_strays(&self.folder);
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            for name in &self.names {
                // What stays is no part of an image, and the next checkpoint removes it.
                let _ = fs::remove_file(self.folder.join(name));
            }
        }
    }
}

/// Removes what a checkpoint that was cut has left, and what the manifest no longer names.
fn remove_strays(folder: &Path) {
    let kept = read_manifest(folder).map(|manifest| [manifest.memory, manifest.state]);
    let kept = kept.unwrap_or_default();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with(MEMORY) || name.starts_with(STATE);
        if ours && !kept.contains(&name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// An image to go on from.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) manifest: Manifest,
    pub(super) memory: File,
    pub(super) state: File,
}

impl Image {
    /// Opens what a checkpoint has written.
    pub(super) fn open(folder: &Path) -> Result<Self, ImageError> {
        let manifest = read_manifest(folder)?;
        let named = |name: &str, prefix: &str| {
            let nonce = name.strip_prefix(prefix).unwrap_or_default();
            let valid = !nonce.is_empty() && nonce.chars().all(|c| c.is_ascii_alphanumeric());
            if valid { Ok(folder.join(name)) } else { Err(ImageError::Name(folder.join(MANIFEST))) }
        };
        let memory = open_private(&named(&manifest.memory, MEMORY)?)?;
        let state = open_private(&named(&manifest.state, STATE)?)?;
        Ok(Self { manifest, memory, state })
    }
}

impl Manifest {
    /// Whether a machine that would be made here is the one that was saved.
    pub(super) fn check(
        &self,
        origin: &Origin,
        monitor: &str,
        shape: &VmShape,
        plan: &Value,
    ) -> Result<(), ImageError> {
        for (what, found, expected) in [
            ("guest kernel", &*self.origin.kernel, &*origin.kernel),
            ("guest agent", &*self.origin.agent, &*origin.agent),
            ("monitor", &*self.monitor, monitor),
        ] {
            if found != expected {
                let (found, expected) = (found.to_owned(), expected.to_owned());
                return Err(ImageError::Build { what, found, expected });
            }
        }
        self.machine.check(shape)?;
        match first_difference(&self.plan, plan, "") {
            None => Ok(()),
            Some((pointer, found, expected)) if pointer.starts_with("/shares/") => {
                Err(ImageError::Share { found: found.to_string(), expected: expected.to_string() })
            }
            Some((pointer, ..)) => Err(ImageError::Configuration { pointer }),
        }
    }
}

/// Where two documents differ first.
fn first_difference<'v>(
    one: &'v Value,
    other: &'v Value,
    at: &str,
) -> Option<(String, &'v Value, &'v Value)> {
    const NOTHING: &Value = &Value::Null;
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let value = |map: &'v serde_json::Map<String, Value>, key: &str| {
                map.get(key).unwrap_or(NOTHING)
            };
            keys.map(|key| (format!("{at}/{key}"), value(a, key), value(b, key)))
                .find_map(|(at, a, b)| first_difference(a, b, &at))
        }
        (Value::Array(a), Value::Array(b)) => {
            let value = |list: &'v [Value], index: usize| list.get(index).unwrap_or(NOTHING);
            (0..a.len().max(b.len())).find_map(|index| {
                first_difference(value(a, index), value(b, index), &format!("{at}/{index}"))
            })
        }
        _ if one == other => None,
        _ => Some((at.to_owned(), one, other)),
    }
}

fn read_manifest(folder: &Path) -> Result<Manifest, ImageError> {
    let path = folder.join(MANIFEST);
    let file = match open_private(&path) {
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(ImageError::None(folder.to_path_buf()));
        }
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
    parse(&bytes).map_err(|error| match error {
        ParseError::Version(version) => ImageError::Version(version),
        ParseError::Json(source) => ImageError::Damaged { path, source },
    })
}

/// Why bytes are no manifest of this version.
#[derive(Debug)]
pub(super) enum ParseError {
    Version(u64),
    Json(serde_json::Error),
}

/// Reads a manifest. Of another version nothing else is known.
pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, ParseError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let Versioned { version } = serde_json::from_slice(bytes).map_err(ParseError::Json)?;
    if version != u64::from(SNAPSHOT_VERSION) {
        return Err(ParseError::Version(version));
    }
    serde_json::from_slice(bytes).map_err(ParseError::Json)
}

/// A regular file that the caller or root owns and nobody else may use.
fn open_private(path: &Path) -> Result<File, ImageError> {
    const OTHERS_MAY_USE: u32 = 0o077;
    let file = own_file::open(path).map_err(io_error("open", path))?;
    let seen = file.metadata().map_err(io_error("look at", path))?;
    if seen.is_file() && own_file::is_own(&seen, OTHERS_MAY_USE) {
        Ok(file)
    } else {
        Err(ImageError::NotPrivate(path.to_path_buf()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn origin() -> Origin {
        Origin { kernel: "k".into(), agent: "a".into(), stdio: None }
    }

    const MACHINE: Size = Size { vcpus: 1, vcpus_max: 3, memory_mib: 64 };

    fn shape(vcpus: u8, memory_mib: u32) -> VmShape {
        // What a host with two processors would let it grow to.
        let (vcpus_max, memory_blocks_max) = (vcpus.max(2), 5);
        let (host_cpus, memory_policy) = (Vec::new(), None);
        VmShape { vcpus, vcpus_max, memory_mib, memory_blocks_max, host_cpus, memory_policy }
    }

    fn written(folder: &Path, text: &str) -> Image {
        let mut draft = Draft::begin(folder, 64).unwrap();
        draft.state.write_all(text.as_bytes()).unwrap();
        draft.finish(origin(), "m".into(), MACHINE, json!({"a": 1})).unwrap();
        Image::open(folder).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        fs::read_dir(folder).unwrap().map(|e| name(e).into_string().unwrap()).collect()
    }

    #[test]
    fn an_image_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("image");
        drop(Draft::begin(&folder, 64).unwrap());
        assert!(names(&folder).is_empty());
        assert!(matches!(Image::open(&folder), Err(ImageError::None(_))));
        let mut first = written(&folder, "first");
        assert_eq!(first.memory.metadata().unwrap().len(), 64 << 20);
        // A checkpoint that is killed: its files stay, and the image is that of before.
        std::mem::forget(Draft::begin(&folder, 64).unwrap());
        let mut text = String::new();
        first.state.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        assert_eq!(Image::open(&folder).unwrap().manifest, first.manifest);
    }

    #[test]
    fn another_image_takes_the_place_of_the_first() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path(), "first");
        fs::write(folder.path().join("memory-left"), "by one that was killed").unwrap();
        let mut second = written(folder.path(), "second");
        let mut text = String::new();
        second.state.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), names(folder.path()).len()), ("second", 3));
    }

    #[test]
    fn two_checkpoints_at_once_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Draft::begin(folder.path(), 64).unwrap();
        assert!(matches!(Draft::begin(folder.path(), 64), Err(ImageError::Busy(_))));
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let image = written(folder.path(), "state");
        let state = folder.path().join(&image.manifest.state);
        fs::set_permissions(&state, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(Image::open(folder.path()), Err(ImageError::NotPrivate(_))));
        fs::remove_file(&state).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", &state).unwrap();
        assert!(matches!(Image::open(folder.path()), Err(ImageError::Io { .. })));
    }

    #[test]
    fn a_manifest_is_of_this_version_and_names_only_files_of_an_image() {
        let folder = tempfile::tempdir().unwrap();
        let image = written(folder.path(), "state");
        let path = folder.path().join(MANIFEST);
        let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (field, value, expected) in [
            ("version", json!(9), "The image has version 9"),
            ("news", json!(1), "is damaged"),
            ("memory", json!("memory-../../etc/shadow"), "names a file that is none"),
            ("state", json!(image.manifest.memory), "names a file that is none"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            fs::write(&path, bad.to_string()).unwrap();
            let error = Image::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{field}: {error}");
        }
    }

    #[test]
    fn to_how_many_processors_it_can_grow_is_the_image_s_to_say_within_bounds() {
        let check = |vcpus_max| Size { vcpus_max, ..MACHINE }.check(&shape(1, 64));
        for possible in [1, 2, MAX_VCPUS] {
            check(possible).unwrap();
        }
        for impossible in [0, MAX_VCPUS + 1] {
            assert!(matches!(check(impossible), Err(ImageError::Processors { .. })));
        }
    }

    #[test]
    fn what_differs_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let plan = |source: &str, args: &str| json!({"container": {"args": [args]}, "shares": [{"source": source}]});
        let mut manifest = written(folder.path(), "").manifest;
        manifest.plan = plan("/rootfs", "sh");
        let check = |origin: &Origin, monitor: &str, shape, plan: &Value| {
            manifest.check(origin, monitor, &shape, plan).map_err(|error| error.to_string())
        };
        let here = plan("/rootfs", "sh");
        check(&origin(), "m", shape(1, 64), &here).unwrap();
        let other = Origin { kernel: "other".into(), ..origin() };
        for (result, expected) in [
            (check(&other, "m", shape(1, 64), &here), "another guest kernel (k)"),
            (check(&origin(), "n", shape(1, 64), &here), "another monitor (m)"),
            (
                check(&origin(), "m", shape(2, 64), &here),
                "has 1 vCPUs, the configuration asks for 2",
            ),
            (check(&origin(), "m", shape(1, 96), &here), "has 64 MiB of memory"),
            (
                check(&origin(), "m", shape(1, 64), &plan("/b", "sh")),
                "sees \"/rootfs\" of the host",
            ),
            (
                check(&origin(), "m", shape(1, 64), &plan("/rootfs", "id")),
                "/container/args/0 differs",
            ),
        ] {
            let error = result.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
