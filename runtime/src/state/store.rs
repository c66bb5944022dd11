//! The folder of all containers (`--root`), and the locks on them.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cofferdam_protocol::id::ContainerId;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::host::process::ProcessIdentity;
use crate::host::user::User;
use crate::sandbox::request::SandboxRef;
use crate::state::record::Record;

const RECORD: &str = "state.json";
const LOCK: &str = "lock";

/// Longer than a verb holds a container's lock that waits for nobody inside. One that waits for a
/// guest may hold it longer, as long as a minute or more: other verbs then say that the container is
/// busy, `kill` takes no lock, and `delete --force` ends the guest first.
const LOCK_DEADLINE: Duration = Duration::from_secs(20);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// All containers of one `--root`.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// One container that was found.
#[derive(Debug)]
pub struct Entry {
    /// `<root>/<id>`.
    pub folder: PathBuf,
    /// As it was when it was read.
    pub record: Record,
}

/// The right to change one container: an exclusive `flock`, given back when dropped (or when the
/// process dies).
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Lets other verbs at the container while its holder waits for it.
    pub fn release(&self) {
        let _ = flock(&self.file, FlockOperation::Unlock);
    }

    /// Takes it again. False when the container was deleted meanwhile: the folder of its name, if
    /// there is one, is another container's.
    #[must_use]
    pub fn retake(&self, entry: &Entry) -> bool {
        flock(&self.file, FlockOperation::LockExclusive).is_ok()
            && is_current(&self.file, &entry.folder.join(LOCK))
    }
}

/// Whether a lock file is still the one of this name.
fn is_current(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        (Ok(_) | Err(_), _) => false,
    }
}

/// Why the containers' folder did not serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The word of runc: engines look for it.
    #[error("container does not exist")]
    NotFound,
    /// Another container has the id.
    #[error("container with given ID already exists")]
    Exists,
    /// Another verb holds the container's lock and does not come to an end.
    #[error("Container {0} is busy: another command has been at work on it for too long")]
    Busy(ContainerId),
    /// A file or folder refused.
    #[error("Cannot {action} {path}")]
    Io {
        /// Read, make, write, …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record is not one.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

impl Store {
    /// The containers below a folder, which need not exist yet.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a container's folder with its first record and holds its lock: the id is taken.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when it was taken before.
    pub fn claim(&self, record: Record) -> Result<(Entry, Lock), StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(root_mode())
            .create(&self.root)
            .map_err(StoreError::io("make", &self.root))?;
        let folder = self.root.join(record.id.as_str());
        let draft = aside(&folder, record.creator.pid);
        let _ = fs::remove_dir_all(&draft);
        DirBuilder::new().mode(0o711).create(&draft).map_err(StoreError::io("make", &draft))?;
        let claimed = prepare(&draft, &record).and_then(|lock| {
            renameat_with(CWD, &draft, CWD, &folder, RenameFlags::NOREPLACE)
                .map_err(|error| match error {
                    rustix::io::Errno::EXIST => StoreError::Exists,
                    other => StoreError::io("make", &folder)(other.into()),
                })
                .map(|()| lock)
        });
        match claimed {
            Ok(lock) => Ok((Entry { folder, record }, lock)),
            Err(error) => {
                let _ = fs::remove_dir_all(&draft);
                Err(error)
            }
        }
    }

    /// A container as it is now.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none.
    pub fn open(&self, id: &ContainerId) -> Result<Entry, StoreError> {
        let folder = self.root.join(id.as_str());
        let record = read_record(&folder)?;
        Ok(Entry { folder, record })
    }

    /// Opens a container and takes its lock: what is read then stays true until it is given back.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none, [`StoreError::Busy`] after the deadline.
    pub fn open_locked(&self, id: &ContainerId) -> Result<(Entry, Lock), StoreError> {
        let path = self.root.join(id.as_str()).join(LOCK);
        let deadline = Instant::now() + LOCK_DEADLINE;
        loop {
            let file = File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::NotFound,
                _ => StoreError::io("open", &path)(error),
            })?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Whoever held it may have deleted the container, and someone made another.
                Ok(()) if is_current(&file, &path) => {
                    return Ok((self.open(id)?, Lock { file }));
                }
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    thread::sleep(LOCK_POLL);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Busy(id.clone())),
                Err(error) => return Err(StoreError::io("lock", &path)(error.into())),
            }
        }
    }

    /// Sees that the folder is there.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_root(&self) -> Result<(), StoreError> {
        fs::metadata(&self.root).map(|_| ()).map_err(StoreError::io("read", &self.root))
    }

    /// Removes what commands that were killed have left aside of one id: folders that were not a
    /// container yet, or not any more.
    ///
    /// # Errors
    /// When something in them refuses.
    pub fn sweep(&self, id: &ContainerId) -> Result<(), StoreError> {
        let Ok(names) = fs::read_dir(&self.root) else { return Ok(()) };
        for entry in names.filter_map(Result::ok) {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| set_aside_by(name, id));
            if pid.is_some_and(|pid| !is_alive(pid)) {
                remove_abandoned(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Every container, by id.
    ///
    /// # Errors
    /// When the folder cannot be read. A root that does not exist has no containers.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let names = match fs::read_dir(&self.root) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("read", &self.root)(error)),
        };
        let mut entries: Vec<_> = names
            .filter_map(|name| name.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|id| self.open(&id).ok())
            .collect();
        entries.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(entries)
    }
}

impl Entry {
    /// Replaces the record on disk with the one in memory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, _lock: &Lock) -> Result<(), StoreError> {
        write_record(&self.folder, &self.record)
    }

    /// Removes the folder with everything in it. Of a folder that is half gone the rest.
    ///
    /// # Errors
    /// When something in it refuses.
    pub fn remove(&self, _lock: &Lock) -> Result<(), StoreError> {
        remove_folder(&self.folder)
    }

    /// What a sandbox needs to find itself again.
    #[must_use]
    pub fn sandbox(&self) -> SandboxRef {
        SandboxRef {
            id: self.record.id.clone(),
            state_folder: self.folder.clone(),
            bundle: self.record.bundle.clone(),
            process: self.record.process,
        }
    }

    /// User id of whoever created the container.
    ///
    /// # Errors
    /// When the folder is gone.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(fs::metadata(&self.folder)?.uid())
    }
}

/// Removes a state folder: first its name, so that no other verb meets a half of it.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), StoreError> {
    let grave = aside(folder, std::process::id().cast_signed());
    match fs::rename(folder, &grave) {
        Ok(()) => fs::remove_dir_all(&grave).map_err(StoreError::io("remove", &grave)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("remove", folder)(error)),
    }
}

/// Where a process has a container's folder that is not finished, or not yet removed. No id has a
/// tilde: it is never taken for a container.
fn aside(folder: &Path, pid: i32) -> PathBuf {
    let id = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{id}~{pid}"))
}

/// Removes what was left aside, unless its lock is held: the number may be one of another process
/// namespace, where its owner lives.
fn remove_abandoned(folder: &Path) -> Result<(), StoreError> {
    // Held until all is gone.
    let lock = File::open(folder.join(LOCK));
    let take = |lock| flock(lock, FlockOperation::NonBlockingLockExclusive);
    if lock.as_ref().is_ok_and(|lock| take(lock).is_err()) {
        return Ok(());
    }
    fs::remove_dir_all(folder).map_err(StoreError::io("remove", folder))
}

/// Whose such a folder of this id is.
fn set_aside_by(name: &str, id: &ContainerId) -> Option<i32> {
    name.strip_prefix(id.as_str())?.strip_prefix('~')?.parse().ok()
}

fn is_alive(pid: i32) -> bool {
    ProcessIdentity::of(pid).is_ok_and(ProcessIdentity::is_alive)
}

/// Sticky where a session's folder holds it: what is old there and is not is taken away.
fn root_mode() -> u32 {
    if User::current().is_rootless() { 0o1700 } else { 0o711 }
}

fn prepare(draft: &Path, record: &Record) -> Result<Lock, StoreError> {
    let path = draft.join(LOCK);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("make", &path))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| StoreError::io("lock", &path)(error.into()))?;
    write_record(draft, record)?;
    Ok(Lock { file })
}

fn read_record(folder: &Path) -> Result<Record, StoreError> {
    let path = folder.join(RECORD);
    let bytes = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound,
        _ => StoreError::io("read", &path)(error),
    })?;
    serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged { path, source })
}

fn write_record(folder: &Path, record: &Record) -> Result<(), StoreError> {
    let path = folder.join(RECORD);
    let write = || {
        let bytes = serde_json::to_vec(record)?;
        crate::host::replace::replace_file(&path, &bytes, 0o600)
    };
    write().map_err(StoreError::io("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::record::tests::record;
    use crate::state::status::Status;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("root"));
        (folder, store)
    }

    #[test]
    fn a_claimed_id_is_found_and_cannot_be_claimed_again() {
        let (_guard, store) = store();
        let (entry, lock) = store.claim(record("a")).unwrap();
        assert_eq!(store.open(&entry.record.id).unwrap().record, entry.record);
        assert!(matches!(store.claim(record("a")), Err(StoreError::Exists)));
        drop(lock);
        assert!(matches!(store.claim(record("a")), Err(StoreError::Exists)));
    }

    #[test]
    fn of_many_claims_at_once_one_wins() {
        let (_guard, store) = store();
        let mut template = record("a");
        let wins = thread::scope(|scope| {
            let claims: Vec<_> = (0..8)
                .map(|pid| {
                    template.creator.pid = pid;
                    let (store, record) = (&store, template.clone());
                    scope.spawn(move || store.claim(record).is_ok())
                })
                .collect();
            claims.into_iter().map(|claim| claim.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(wins, 1);
        assert_eq!(fs::read_dir(&store.root).unwrap().count(), 1);
    }

    #[test]
    fn a_removed_container_leaves_nothing() {
        let (_guard, store) = store();
        let (entry, lock) = store.claim(record("a")).unwrap();
        entry.remove(&lock).unwrap();
        entry.remove(&lock).unwrap();
        assert!(matches!(store.open(&entry.record.id), Err(StoreError::NotFound)));
        assert_eq!(fs::read_dir(&store.root).unwrap().count(), 0);
    }

    #[test]
    fn what_dead_commands_left_aside_is_swept_and_what_living_ones_hold_is_not() {
        let (_guard, store) = store();
        let (entry, _lock) = store.claim(record("a")).unwrap();
        let own = std::process::id();
        for name in ["a~4194305".to_owned(), "ab~4194305".to_owned(), format!("a~{own}")] {
            fs::create_dir(store.root.join(name)).unwrap();
        }
        store.sweep(&entry.record.id).unwrap();
        let left = |name: &str| store.root.join(name).exists();
        assert!(!left("a~4194305"));
        assert!(left("a") && left("ab~4194305") && left(&format!("a~{own}")));
    }

    #[test]
    fn what_is_locked_is_left_to_its_owner_whose_number_may_be_of_another_namespace() {
        let (_guard, store) = store();
        let (entry, _lock) = store.claim(record("a")).unwrap();
        let aside = store.root.join("a~4194305");
        fs::create_dir(&aside).unwrap();
        let owner = File::create(aside.join(LOCK)).unwrap();
        flock(&owner, FlockOperation::NonBlockingLockExclusive).unwrap();
        store.sweep(&entry.record.id).unwrap();
        assert!(aside.exists());
        drop(owner);
        store.sweep(&entry.record.id).unwrap();
        assert!(!aside.exists());
    }

    #[test]
    fn a_saved_record_is_what_the_next_verb_reads() {
        let (_guard, store) = store();
        let (mut entry, lock) = store.claim(record("a")).unwrap();
        entry.record.phase = Status::Created;
        entry.save(&lock).unwrap();
        drop(lock);
        let (again, _lock) = store.open_locked(&entry.record.id).unwrap();
        assert_eq!(again.record.phase, Status::Created);
    }

    #[test]
    fn a_lock_is_not_taken_for_that_of_another_container_with_the_same_name() {
        let (_guard, store) = store();
        let (entry, lock) = store.claim(record("a")).unwrap();
        lock.release();
        assert!(lock.retake(&entry));
        entry.remove(&lock).unwrap();
        assert!(!lock.retake(&entry));
        let _second = store.claim(record("a")).unwrap();
        assert!(!lock.retake(&entry));
    }

    #[test]
    fn a_list_has_containers_only_and_no_root_is_no_containers() {
        let (_guard, store) = store();
        assert!(store.list().unwrap().is_empty());
        let _b = store.claim(record("b")).unwrap();
        let _a = store.claim(record("a")).unwrap();
        fs::create_dir(store.root.join("c~1")).unwrap();
        fs::create_dir(store.root.join("d")).unwrap();
        let ids: Vec<_> = store.list().unwrap().into_iter().map(|e| e.record.id).collect();
        assert_eq!(ids, [record("a").id, record("b").id]);
    }
}
