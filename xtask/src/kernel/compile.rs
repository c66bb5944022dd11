//! One build: unpack, configure, compile, leave out, strip.
//!
//! Everything happens in the cache's work folder. If a build was interrupted there and its source
//! is still the same, kbuild goes on where it stopped: it trusts an object only once the command
//! that made it has been recorded.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};

use super::initcalls;
use super::meter::Meter;
use super::recipe::Recipe;
use super::source::{Origin, Source};

/// Leaves the table of indirect calls empty for the code that would rewrite each of them at boot,
/// 4,700 on 1,000 pages. The calls go on through their thunks, of which there is one for each
/// register, and which the kernel does rewrite: retpolines stay where the processor needs them.
const NO_REWRITTEN_CALLS: &str = "CFLAGS_alternative.o=-D__retpoline_sites_end=__retpoline_sites";

/// Make `/sys/kernel/slab` and `/sys/module/*/parameters`, which nobody reads in a guest, in 8 virtual
/// milliseconds of each boot. No option leaves them out.
const UNREAD_FILES: [&str; 2] = ["slab_late_init", "param_sysfs_builtin_init"];

/// About how many objects there are, for the length of the progress bar.
const EXPECTED_OBJECTS: u64 = 1270;

/// How much of a failed build's output is in the error.
const ERROR_LINES: usize = 15;

/// What a build needs, by program and Debian's package.
const PROGRAMS: [(&str, &str); 8] = [
    ("bc", "bc"),
    ("bison", "bison"),
    ("flex", "flex"),
    ("gcc", "gcc"),
    ("make", "make"),
    ("strip", "binutils"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];

/// Headers that objtool is built with.
const HEADERS: [(&str, &str); 1] = [("gelf.h", "libelf-dev")];

/// What a build left in the work folder.
#[derive(Debug)]
pub(super) struct Built {
    /// Stripped.
    pub(super) vmlinux: PathBuf,
    pub(super) system_map: PathBuf,
    pub(super) config: PathBuf,
    /// What `uname -r` says.
    pub(super) version: String,
    pub(super) objects: u64,
}

/// Build `recipe` in the folder `work`.
pub(super) fn compile(recipe: &Recipe, work: &Path) -> Result<Built> {
    check_tools()?;
    prepare_work(&recipe.source, work)?;
    let tree = unpack(&recipe.source.origin, work)?;
    let build = Build { tree: &tree, objects: &work.join("objects"), log: &work.join("build.log") };
    build.configure(recipe)?;
    let objects = build.make_image()?;
    initcalls::leave_out(&UNREAD_FILES, &build.vmlinux())?;
    build.strip()?;
    Ok(Built {
        vmlinux: build.stripped(),
        system_map: build.objects.join("System.map"),
        config: build.objects.join(".config"),
        version: build.version()?,
        objects,
    })
}

/// Fail with the command that helps, if something is missing.
fn check_tools() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !on_path(program))
        .chain(
            HEADERS.iter().filter(|(header, _)| !Path::new("/usr/include").join(header).is_file()),
        )
        .map(|(_, package)| *package)
        .collect();
    ensure!(
        missing.is_empty(),
        "The guest kernel cannot be built without {0}: run `cargo xtask setup`, or `apt-get install {0}`",
        missing.join(" ")
    );
    Ok(())
}

/// Empty the work folder unless it holds an interrupted build of the same source.
fn prepare_work(source: &Source, work: &Path) -> Result<()> {
    let marker = work.join("source-identity");
    if fs::read_to_string(&marker).is_ok_and(|identity| identity == source.identity) {
        return Ok(());
    }
    if work.exists() {
        fs::remove_dir_all(work).with_context(|| format!("Cannot remove {}", work.display()))?;
    }
    fs::create_dir_all(work.join("objects"))
        .with_context(|| format!("Cannot make {}", work.display()))?;
    fs::write(&marker, &source.identity)
        .with_context(|| format!("Cannot write {}", marker.display()))
}

/// The source tree, unpacked if it came as a tarball.
fn unpack(origin: &Origin, work: &Path) -> Result<PathBuf> {
    let tarball = match origin {
        Origin::Tree(tree) => return Ok(tree.clone()),
        Origin::Tarball(tarball) => tarball,
    };
    let tree = work.join("source");
    if tree.is_dir() {
        return Ok(tree);
    }
    eprintln!("Unpacking {}", tarball.display());
    let partial = work.join("source.partial");
    fs::create_dir_all(&partial).with_context(|| format!("Cannot make {}", partial.display()))?;
    let status = Command::new("tar")
        .args(["--extract", "--xz", "--no-same-owner", "--strip-components=1", "--file"])
        .arg(tarball)
        .arg("--directory")
        .arg(&partial)
        .status()
        .context("Cannot run tar")?;
    ensure!(
        status.success(),
        "Cannot unpack {} ({status}): it needs 1.6 GB in {}",
        tarball.display(),
        work.display()
    );
    fs::rename(&partial, &tree).with_context(|| format!("Cannot make {}", tree.display()))?;
    Ok(tree)
}

/// A build's folders.
struct Build<'a> {
    tree: &'a Path,
    objects: &'a Path,
    log: &'a Path,
}

impl Build<'_> {
    /// kbuild, in a clean environment: what is set for other builds must not change this one.
    fn make(&self, target: &str) -> Result<Command> {
        let mut command = Command::new("make");
        for variable in
            ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARCH", "CROSS_COMPILE", "KCFLAGS", "LOCALVERSION"]
        {
            command.env_remove(variable);
        }
        command
            .arg("-C")
            .arg(self.tree)
            .arg(format!("O={}", self.objects.display()))
            .arg(NO_REWRITTEN_CALLS)
            .arg(target)
            .env("LC_ALL", "C")
            .env("KBUILD_BUILD_USER", "cofferdam")
            .env("KBUILD_BUILD_HOST", "cofferdam")
            .env("KBUILD_BUILD_VERSION", "1")
            .env("KBUILD_BUILD_TIMESTAMP", self.timestamp()?)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// The source's age instead of the build's, so that equal inputs give equal images.
    fn timestamp(&self) -> Result<String> {
        let makefile = self.tree.join("Makefile");
        let changed = fs::metadata(&makefile).and_then(|metadata| metadata.modified());
        let changed = changed.with_context(|| format!("Cannot read {}", makefile.display()))?;
        let seconds = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(format!("@{seconds}"))
    }

    /// `.config`: nothing but the options asked for and what they need.
    fn configure(&self, recipe: &Recipe) -> Result<()> {
        let wishes = self.objects.join("wishes.config");
        fs::write(&wishes, recipe.options.as_kconfig())
            .with_context(|| format!("Cannot write {}", wishes.display()))?;
        let output = self
            .make("allnoconfig")?
            .env("KCONFIG_ALLCONFIG", &wishes)
            .output()
            .context("Cannot run make")?;
        ensure!(
            output.status.success(),
            "Configuring the kernel failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let config = self.objects.join(".config");
        let granted = fs::read_to_string(&config)
            .with_context(|| format!("Cannot read {}", config.display()))?;
        recipe.options.check_granted(&granted)
    }

    /// Compile, and return how many objects that took.
    fn make_image(&self) -> Result<u64> {
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut log = File::create(self.log)
            .with_context(|| format!("Cannot write {}", self.log.display()))?;
        let mut child = self
            .make("vmlinux")?
            .arg(format!("-j{jobs}"))
            .stdout(Stdio::piped())
            .stderr(log.try_clone().context("Cannot share the log")?)
            .spawn()
            .context("Cannot run make")?;
        let meter = Meter::start("Compiling the guest kernel", EXPECTED_OBJECTS);
        let mut objects = 0;
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line.context("Cannot read what make says")?;
                writeln!(log, "{line}")
                    .with_context(|| format!("Cannot write {}", self.log.display()))?;
                if let Some(object) = object_of(&line) {
                    objects += 1;
                    meter.advance(objects, object);
                }
            }
        }
        let status = child.wait().context("Cannot wait for make")?;
        meter.finish();
        if !status.success() {
            bail!(
                "Building the kernel failed ({status}); all of {}:\n{}",
                self.log.display(),
                self.last_lines()
            );
        }
        Ok(objects)
    }

    fn last_lines(&self) -> String {
        let mut last = VecDeque::new();
        for line in fs::read_to_string(self.log).unwrap_or_default().lines() {
            if last.len() == ERROR_LINES {
                last.pop_front();
            }
            last.push_back(format!("  {line}"));
        }
        last.make_contiguous().join("\n")
    }

    fn vmlinux(&self) -> PathBuf {
        self.objects.join("vmlinux")
    }

    fn stripped(&self) -> PathBuf {
        self.objects.join("vmlinux.stripped")
    }

    /// Leave what is loaded: the symbols are in System.map.
    fn strip(&self) -> Result<()> {
        let status = Command::new("strip")
            .arg("--strip-all")
            .arg("-o")
            .arg(self.stripped())
            .arg(self.vmlinux())
            .status()
            .context("Cannot run strip")?;
        ensure!(status.success(), "strip failed: {status}");
        Ok(())
    }

    fn version(&self) -> Result<String> {
        let path = self.objects.join("include/config/kernel.release");
        let release =
            fs::read_to_string(&path).with_context(|| format!("Cannot read {}", path.display()))?;
        Ok(release.trim().to_owned())
    }
}

/// The object that a line of kbuild's output announces.
fn object_of(line: &str) -> Option<&str> {
    let (kind, object) = line.trim_start().split_once(char::is_whitespace)?;
    matches!(kind, "CC" | "AS").then(|| object.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_from_other_lines() {
        assert_eq!(object_of("  CC      mm/slub.o"), Some("mm/slub.o"));
        assert_eq!(object_of("  AS      arch/x86/entry/entry.o"), Some("arch/x86/entry/entry.o"));
        assert_eq!(object_of("  HOSTCC  scripts/basic/fixdep"), None);
        assert_eq!(object_of("  AR      built-in.a"), None);
        assert_eq!(object_of(""), None);
    }

    #[test]
    fn work_on_another_source_is_thrown_away_and_on_the_same_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let source = |identity: &str| Source {
            identity: identity.to_owned(),
            origin: Origin::Tree("/src".into()),
            proof: String::new(),
        };
        prepare_work(&source("a"), &work).unwrap();
        fs::write(work.join("objects/one.o"), "").unwrap();
        prepare_work(&source("a"), &work).unwrap();
        assert!(work.join("objects/one.o").exists());
        prepare_work(&source("b"), &work).unwrap();
        assert!(!work.join("objects/one.o").exists());
    }
}
