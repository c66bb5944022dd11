//! An ordinary user, as whom a scenario runs a runtime.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

/// Made by `cargo xtask setup`, with subordinate users and groups.
const NAME: &str = "cofferdam-test";

/// The user. Its home, and what `XDG_RUNTIME_DIR` names, are folders that go with this.
#[derive(Debug)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// The group of `/dev/kvm`, where it is a member of that.
    kvm: Option<u32>,
    home: TempDir,
}

impl User {
    /// The one that the machine was set up with.
    #[must_use]
    pub fn ordinary() -> Self {
        let known = nix::unistd::User::from_name(NAME).unwrap();
        let known = known.unwrap_or_else(|| panic!("no user {NAME}: run `cargo xtask setup`"));
        let home = TempDir::with_prefix("cofferdam-home-").unwrap();
        let user = Self { uid: known.uid.as_raw(), gid: known.gid.as_raw(), kvm: None, home };
        user.give(user.home.path());
        user
    }

    /// The same, to be shared by the runtimes that it runs.
    #[must_use]
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::ordinary())
    }

    /// The same user as a member of the group that may use `/dev/kvm`. In the lab, where the device is
    /// root's alone, it gets a group that nobody else has.
    #[must_use]
    pub fn with_kvm(mut self) -> Self {
        const OF_THE_LAB: u32 = 299_999_999;
        let device = Path::new("/dev/kvm");
        if std::env::var_os("COFFERDAM_LAB").is_some() {
            chown(device, None, Some(OF_THE_LAB)).unwrap();
            fs::set_permissions(device, fs::Permissions::from_mode(0o660)).unwrap();
        }
        let metadata = fs::metadata(device).unwrap();
        assert!(metadata.gid() != 0 && metadata.mode() & 0o060 == 0o060, "no group has {device:?}");
        self.kvm = Some(metadata.gid());
        self
    }

    /// The first of its subordinate users (or groups, which begin with the same number) and how
    /// many there are.
    #[must_use]
    pub fn subordinate(&self) -> (u32, u32) {
        let text = fs::read_to_string("/etc/subuid").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{NAME}:")));
        let (first, count) = line.and_then(|rest| rest.split_once(':')).unwrap();
        (first.parse().unwrap(), count.parse().unwrap())
    }

    /// Its home, which is its session's folder as well.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Makes a folder and everything in it this user's.
    pub fn give(&self, folder: &Path) {
        let owner = format!("{}:{}", self.uid, self.gid);
        let given = Command::new("chown").args(["-R", "-h", &owner]).arg(folder).status().unwrap();
        assert!(given.success());
    }

    /// Makes a folder itself this user's.
    pub fn give_only(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).unwrap();
    }

    /// A program as this user runs it in a session: with its groups.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid]);
        match self.kvm {
            Some(kvm) => command.args(["--groups", &format!("{gid},{kvm}")]),
            None => command.arg("--init-groups"),
        };
        command.arg(program);
        command.env_clear();
        command.envs([("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"), ("USER", NAME)]);
        command.env("HOME", self.home()).env("XDG_RUNTIME_DIR", self.home());
        command.current_dir(self.home());
        command
    }

    /// The binaries in a place that this user can reach: as they are, or copied there.
    #[must_use]
    pub fn reachable(&self, folder: &Path) -> PathBuf {
        let program = folder.join("cofferdam");
        let reaches = self.command(Path::new("test")).arg("-x").arg(&program).status().unwrap();
        if reaches.success() {
            return folder.to_owned();
        }
        // bin and, beside it, guest.
        let (tree, copy) = (folder.parent().unwrap(), self.home().join("cofferdam-tree"));
        let copied =
            Command::new("cp").args(["-rL", "--reflink=auto"]).arg(tree).arg(&copy).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy.join(folder.file_name().unwrap())
    }
}
