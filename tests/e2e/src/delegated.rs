//! A control group (v2) that was given to an ordinary user.

use std::fs;
use std::path::{Path, PathBuf};

use crate::User;

const TOP: &str = "/sys/fs/cgroup";

/// A control group that is the user's, and one in it for the runtime; removed when dropped.
#[derive(Debug)]
pub struct Delegated {
    folder: PathBuf,
}

impl Delegated {
    /// Gives one.
    #[must_use]
    pub fn new(name: &str, user: &User) -> Self {
        // The root alone may divide what it has with processes in it.
        let top = Path::new(TOP);
        fs::write(top.join("cgroup.subtree_control"), "+memory +pids +cpu").unwrap();
        let given = Self { folder: top.join(format!("delegated-{name}")) };
        fs::create_dir_all(given.caller()).unwrap();
        for group in [given.folder.clone(), given.caller()] {
            user.give_only(&group);
            for file in ["cgroup.procs", "cgroup.subtree_control"] {
                user.give_only(&group.join(file));
            }
        }
        given
    }

    /// The group.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The group below it for the user's own processes.
    #[must_use]
    pub fn caller(&self) -> PathBuf {
        self.folder.join("caller")
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.caller());
        let _ = fs::remove_dir(&self.folder);
    }
}
