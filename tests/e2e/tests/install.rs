//! Engines are told of Cofferdam by `install`, in a copy of their `/etc`, and forget it again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_e2e::{Outcome, Runtime, setting};
use serde_json::{Value, json};
use tempfile::TempDir;

const DAEMON_JSON: &str = "{\n    \"live-restore\": true\n}\n";
/// As Debian's package has it.
const CONFIG_TOML: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    \
    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n";
const ALL: [&str; 3] = ["--containerd", "--docker", "--podman"];

/// A folder that stands for `/`, with the configurations of engines.
struct Etc {
    root: TempDir,
}

impl Etc {
    fn new() -> Self {
        let etc = Self { root: TempDir::new().unwrap() };
        for (path, text) in
            [("docker/daemon.json", DAEMON_JSON), ("containerd/config.toml", CONFIG_TOML)]
        {
            let path = etc.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        etc
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("etc").join(name)
    }

    fn install(&self, flags: &[&str]) -> Outcome {
        self.install_after(&[], flags)
    }

    fn install_after(&self, global: &[&str], flags: &[&str]) -> Outcome {
        let root = ["install", "--system-root", self.root.path().to_str().unwrap()];
        Runtime::cofferdam_with(&[]).verb(&[global, &root, flags].concat())
    }

    /// Every file with what tells whether it was touched.
    fn files(&self) -> Vec<(PathBuf, u64, Vec<u8>)> {
        let mut found = Vec::new();
        collect(self.root.path(), &mut found);
        found.sort();
        found
    }
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, u64, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => collect(&path, found),
            false => {
                found.push((path.clone(), path.metadata().unwrap().ino(), fs::read(&path).unwrap()))
            }
        }
    }
}

fn program() -> String {
    format!("{}/cofferdam", setting("COFFERDAM_BIN"))
}

/// What a file says, as JSON.
fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_dry_run_shows_the_difference_and_writes_nothing() {
    let etc = Etc::new();
    let before = etc.files();
    let outcome = etc.install(&[&ALL[..], &["--dry-run"]].concat());
    let said = &outcome.exits(0).stdout;
    for line in [
        "+        \"cofferdam\": {",
        "+runtime_type = \"io.containerd.cofferdam.v2\"",
        "+[engine.runtimes]",
    ] {
        assert!(said.lines().any(|said| said == line), "no {line:?} in {said}");
    }
    assert_eq!(etc.files(), before);
    assert!(!etc.path("containers").exists());
}

#[test]
fn a_second_time_there_is_nothing_to_do_and_uninstall_gives_back_what_was_there() {
    let etc = Etc::new();
    let texts = |etc: &Etc| -> Vec<(PathBuf, Vec<u8>)> {
        etc.files().into_iter().map(|(path, _, text)| (path, text)).collect()
    };
    let before = texts(&etc);
    let outcome = etc.install(&ALL);
    let said = &outcome.exits(0).complains(&["containerd-shim-cofferdam-v2", "PATH"]).stdout;
    for words in ["systemctl reload docker", "systemctl restart containerd", "RuntimeClass"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let runtimes = json!({ "cofferdam": { "path": program() } });
    let expected = json!({ "live-restore": true, "runtimes": runtimes });
    assert_eq!(json_of(&etc.path("docker/daemon.json")), expected);
    let copy = etc.path("docker/daemon.json.before-cofferdam");
    assert_eq!(fs::read_to_string(copy).unwrap(), DAEMON_JSON);
    let dropped = etc.path("containers/containers.conf.d/cofferdam.conf");
    let line = format!("[engine.runtimes]\ncofferdam = [\"{}\"]\n", program());
    assert!(fs::read_to_string(dropped).unwrap().ends_with(&line));
    let installed = etc.files();
    let again = etc.install(&ALL).exits(0).stdout.clone();
    assert_eq!((again.lines().count(), again.matches("nothing to do").count()), (3, 3), "{again}");
    assert_eq!(etc.files(), installed);
    etc.install(&[&ALL[..], &["--uninstall"]].concat()).exits(0);
    assert_eq!(texts(&etc), before);
    etc.install(&[&ALL[..], &["--uninstall"]].concat()).exits(0);
    assert_eq!(texts(&etc), before);
}

#[test]
fn one_broken_file_is_refused_by_its_name_and_none_is_touched() {
    let etc = Etc::new();
    fs::write(etc.path("docker/daemon.json"), "{\n  \"live-restore\": true,\n}\n").unwrap();
    let before = etc.files();
    etc.install(&ALL).exits(1).prints("").complains(&["etc/docker/daemon.json", "line 3"]);
    assert_eq!(etc.files(), before);
    let foreign = json!({ "runtimes": { "cofferdam": { "path": "/usr/bin/runc" } } });
    fs::write(etc.path("docker/daemon.json"), foreign.to_string()).unwrap();
    let before = etc.files();
    for flags in [&["--docker"][..], &["--docker", "--uninstall"]] {
        etc.install(flags).exits(1).complains(&["runtimes.cofferdam", "/usr/bin/runc", "--name"]);
    }
    etc.install_after(&["--isolation", "microvm"], &["--podman"])
        .exits(1)
        .complains(&["podman", "microvm"]);
    etc.install(&[]).exits(1).complains(&["--containerd|--docker|--podman"]);
    assert_eq!(etc.files(), before);
}

#[test]
fn a_linked_file_stays_a_link_with_its_mode_and_its_owner() {
    let etc = Etc::new();
    let (link, real) = (etc.path("docker/daemon.json"), etc.path("kept.json"));
    fs::rename(&link, &real).unwrap();
    symlink("../kept.json", &link).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&real, Some(12), Some(34)).unwrap();
    etc.install(&["--docker"]).exits(0);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    for path in [&real, &etc.path("kept.json.before-cofferdam")] {
        let seen = fs::metadata(path).unwrap();
        assert_eq!((seen.mode() & 0o7777, seen.uid(), seen.gid()), (0o640, 12, 34));
    }
    assert_eq!(json_of(&real)["runtimes"]["cofferdam"]["path"], program());
}

#[test]
fn containerd_reads_what_was_written_and_keeps_its_default_runtime() {
    let etc = Etc::new();
    for path in ["containerd/config.toml", "containerd/none.toml"] {
        // The second time there is no file to begin with.
        fs::rename(etc.path("containerd/config.toml"), etc.path(path)).unwrap();
        etc.install(&["--containerd"]).exits(0);
        let mut containerd = Command::new("containerd");
        containerd.arg("--config").arg(etc.path("containerd/config.toml")).args(["config", "dump"]);
        let dump = Outcome::from(containerd.output().unwrap());
        let dump = &dump.exits(0).stdout;
        for (name, kind) in
            [("cofferdam", "io.containerd.cofferdam.v2"), ("runc", "io.containerd.runc.v2")]
        {
            let header = format!(".containerd.runtimes.{name}]");
            let table = dump.split_once(&header).map(|(_, rest)| rest).unwrap_or_default();
            let first =
                table.lines().find(|line| line.contains("runtime_type")).unwrap_or_default();
            assert!(first.contains(kind), "{name}: {dump}");
        }
        etc.install(&["--containerd", "--uninstall"]).exits(0);
    }
}

#[test]
fn docker_reads_what_was_written() {
    let etc = Etc::new();
    etc.install_after(&["--isolation", "microvm"], &["--docker", "--name", "microvm"]).exits(0);
    let written = etc.path("docker/daemon.json");
    let runtime = json!({ "path": program(), "runtimeArgs": ["--isolation", "microvm"] });
    assert_eq!(json_of(&written)["runtimes"]["microvm"], runtime);
    // The daemon reads its configuration, then finds that it runs already: by the pid of this test.
    let wrong = etc.path("wrong.json");
    fs::write(&wrong, "{\"nosuch\": 1}").unwrap();
    dockerd(&etc, &wrong).complains(&["unable to configure", "nosuch"]);
    let outcome = dockerd(&etc, &written);
    outcome.complains(&["failed to start daemon"]);
    assert!(!outcome.stderr.contains("unable to configure"), "{outcome:?}");
}

/// A daemon with this configuration that has been started already, it thinks.
fn dockerd(etc: &Etc, config: &Path) -> Outcome {
    let place = |name: &str| etc.root.path().join("docker").join(name).display().to_string();
    fs::create_dir_all(etc.root.path().join("docker")).unwrap();
    fs::write(place("pid"), std::process::id().to_string()).unwrap();
    let mut command = Command::new("timeout");
    command.args(["100", "dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false"]);
    command.arg("--config-file").arg(config);
    command.args(["--data-root", &place("data"), "--exec-root", &place("exec")]);
    command.args(["--pidfile", &place("pid"), "--containerd", &place("nothing.sock")]);
    command.args(["--host", &format!("unix://{}", place("sock"))]);
    Outcome::from(command.output().unwrap())
}
