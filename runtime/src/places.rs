//! Where files are that no flag names: below `/run`, `/var/cache` and `/etc` for root, and in places
//! of one's own for everyone else, as the XDG base directory specification has them.
//!
//! Hostile: `/tmp`, where other users can make a folder of the name that is looked for.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::host::user::User;

const NAME: &str = "cofferdam";

/// What others may not do with a folder that holds what is believed.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The places of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The state of all containers, when `--root` does not say.
    pub state: PathBuf,
    /// Whether that is a folder of our own making among those of others.
    is_among_others: bool,
    /// The configuration, when `--config` does not say: the first that is there.
    pub configurations: Vec<PathBuf>,
    /// What the KVM probe found.
    pub probe: PathBuf,
    /// What commands have noted for the node's metrics. Absent: nowhere, lest a command leave a
    /// folder among those of others for that alone.
    pub figures: Option<PathBuf>,
    /// What can be made anew. Absent: nowhere.
    pub cache: Option<PathBuf>,
}

/// Why there is no place for the containers' state.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be made.
    #[error(
        "Cannot make {path}, which is used without XDG_RUNTIME_DIR: set XDG_RUNTIME_DIR, or use --root"
    )]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else made it.
    #[error(
        "{0} is not a folder that this user alone can write to: set XDG_RUNTIME_DIR, or use --root"
    )]
    Foreign(PathBuf),
}

/// What the places depend on.
#[derive(Clone, Debug)]
struct Surroundings {
    user: User,
    runtime: Option<PathBuf>,
    config: Option<PathBuf>,
    cache: Option<PathBuf>,
    home: Option<PathBuf>,
    /// `USER`, by which runc tells a root that an engine has made of a user.
    name: Option<OsString>,
}

impl Places {
    /// Those of whoever runs this process.
    #[must_use]
    pub fn current() -> Self {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        Self::of(&Surroundings {
            user: User::current(),
            runtime: folder("XDG_RUNTIME_DIR"),
            config: folder("XDG_CONFIG_HOME"),
            cache: folder("XDG_CACHE_HOME"),
            home: folder("HOME"),
            name: std::env::var_os("USER"),
        })
    }

    fn of(around: &Surroundings) -> Self {
        let system = PathBuf::from("/etc").join(NAME).join("config.toml");
        if !has_places_of_its_own(around) {
            return Self {
                state: Path::new("/run").join(NAME),
                is_among_others: false,
                configurations: vec![system],
                probe: Path::new("/run").join(NAME).join("kvm-probe.json"),
                figures: Some(Path::new("/run").join(NAME).join("figures")),
                cache: Some(Path::new("/var/cache").join(NAME)),
            };
        }
        let below_home = |folder: &Option<PathBuf>, hidden: &str| {
            folder.clone().or_else(|| Some(around.home.as_ref()?.join(hidden)))
        };
        let config = below_home(&around.config, ".config");
        let (state, is_among_others) = match &around.runtime {
            Some(folder) => (folder.join(NAME), false),
            None => (PathBuf::from(format!("/tmp/{NAME}-{}", around.user.uid)), true),
        };
        Self {
            probe: state.join(".kvm-probe.json"),
            figures: (!is_among_others).then(|| state.join(".figures")),
            state,
            is_among_others,
            configurations: config
                .map(|folder| folder.join(NAME).join("config.toml"))
                .into_iter()
                .chain([system])
                .collect(),
            cache: below_home(&around.cache, ".cache").map(|folder| folder.join(NAME)),
        }
    }

    /// Makes the state's folder where others could have made it, or sees that they have not.
    ///
    /// # Errors
    /// When it is not this user's alone.
    pub fn secure_state(&self) -> Result<(), PlaceError> {
        if self.is_among_others { make_private(&self.state) } else { Ok(()) }
    }
}

/// As runc: a root of a user namespace has them, unless it is said to be called root.
fn has_places_of_its_own(around: &Surroundings) -> bool {
    let called_root = around.name.as_ref().is_some_and(|name| name == "root");
    let user = around.user;
    user.is_ordinary() || (user.is_rootless() && !called_root && around.runtime.is_some())
}

fn make_private(folder: &Path) -> Result<(), PlaceError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PlaceError::Make { path: folder.to_owned(), source: error });
        }
        Ok(()) | Err(_) => {}
    }
    if is_private(folder) { Ok(()) } else { Err(PlaceError::Foreign(folder.to_owned())) }
}

/// Whether this is a folder, no link to one, that nobody but this process's user can write to.
#[must_use]
pub fn is_private(folder: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == own && metadata.mode() & WRITABLE_BY_OTHERS == 0
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn around(uid: u32, in_user_namespace: bool) -> Surroundings {
        Surroundings {
            user: User { uid, gid: uid, in_user_namespace },
            runtime: Some("/run/user/1000".into()),
            config: None,
            cache: None,
            home: Some("/home/u".into()),
            name: None,
        }
    }

    #[test]
    fn root_s_are_the_machine_s() {
        let places = Places::of(&around(0, false));
        assert_eq!(places.state, Path::new("/run/cofferdam"));
        assert_eq!(places.configurations, [Path::new("/etc/cofferdam/config.toml")]);
        assert_eq!(places.cache.as_deref(), Some(Path::new("/var/cache/cofferdam")));
    }

    #[test]
    fn an_ordinary_user_s_are_below_the_session_and_the_home() {
        let places = Places::of(&around(1000, false));
        assert_eq!(places.state, Path::new("/run/user/1000/cofferdam"));
        let own = Path::new("/home/u/.config/cofferdam/config.toml");
        assert_eq!(places.configurations, [own, Path::new("/etc/cofferdam/config.toml")]);
        assert_eq!(places.cache.as_deref(), Some(Path::new("/home/u/.cache/cofferdam")));
        assert!(!places.is_among_others);
    }

    #[test]
    fn without_a_session_the_state_is_in_a_folder_of_the_user_s_name() {
        let places = Places::of(&Surroundings { runtime: None, ..around(1000, false) });
        assert_eq!(places.state, Path::new("/tmp/cofferdam-1000"));
        assert!(places.is_among_others);
        assert_eq!(places.figures, None);
    }

    #[test]
    fn the_root_that_an_engine_makes_of_a_user_has_that_user_s() {
        let state = |around: &Surroundings| Places::of(around).state;
        let within = around(0, true);
        assert_eq!(state(&within), Path::new("/run/user/1000/cofferdam"));
        let called_root = Surroundings { name: Some("root".into()), ..within };
        assert_eq!(state(&called_root), Path::new("/run/cofferdam"));
    }

    #[test]
    fn a_folder_that_others_made_or_can_write_to_is_not_used() {
        let tmp = tempfile::tempdir().unwrap();
        let own = tmp.path().join("own");
        make_private(&own).unwrap();
        make_private(&own).unwrap();
        let link = tmp.path().join("link");
        symlink(&own, &link).unwrap();
        assert!(matches!(make_private(&link), Err(PlaceError::Foreign(_))));
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(make_private(&own), Err(PlaceError::Foreign(_))));
        let nowhere = tmp.path().join("a/b");
        assert!(matches!(make_private(&nowhere), Err(PlaceError::Make { .. })));
    }
}
