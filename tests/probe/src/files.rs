//! What programs rely on of a file system: each case works in a folder of its own and says what is
//! not as a local file system has it.
//!
//! `--files FOLDER [CASE…]` prints one JSON object: the cases by their names, each `ok` or what was
//! wrong. `--as ROLE PATH` is a case's second process.

mod content;
mod folders;
mod links;
mod locks;
mod owners;
mod random;
mod times;
mod xattrs;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// Why a case failed.
type Outcome = Result<(), Failure>;

/// What was not as it must be.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl From<io::Error> for Failure {
    #[track_caller]
    fn from(error: io::Error) -> Self {
        Self(format!("{error} ({})", std::panic::Location::caller()))
    }
}

impl From<rustix::io::Errno> for Failure {
    #[track_caller]
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}

impl From<nix::errno::Errno> for Failure {
    #[track_caller]
    fn from(error: nix::errno::Errno) -> Self {
        io::Error::from(error).into()
    }
}

type Case = (&'static str, fn(&Path) -> Outcome);

const CASES: [Case; 24] = [
    ("append", content::append),
    ("holes", content::holes),
    ("punched_holes", content::punched_holes),
    ("shared_mapping", content::shared_mapping),
    ("mapping_of_two_processes", content::mapping_of_two_processes),
    ("unlinked_but_open", content::unlinked_but_open),
    ("copied_ranges", content::copied_ranges),
    ("large_folder", folders::large_folder),
    ("places_in_a_folder", folders::places_in_a_folder),
    ("removed_while_read", folders::removed_while_read),
    ("hard_links", links::hard_links),
    ("unnamed_file", links::unnamed_file),
    ("unnamed_file_for_ever", links::unnamed_file_for_ever),
    ("rename_flags", links::rename_flags),
    ("symbolic_links", links::symbolic_links),
    ("record_locks", locks::record_locks),
    ("whole_file_locks", locks::whole_file_locks),
    ("new_files_owner", owners::new_files_owner),
    ("set_id_bits", owners::set_id_bits),
    ("supplementary_group", owners::supplementary_group),
    ("sticky_folder", owners::sticky_folder),
    ("times", times::times),
    ("attributes", xattrs::attributes),
    ("random_operations", random::random_operations),
];

/// Runs the cases named, or all.
pub(crate) fn run(arguments: &[String]) -> io::Result<()> {
    let [folder, wanted @ ..] = arguments else { return Err(io::ErrorKind::InvalidInput.into()) };
    let cases = CASES.iter();
    let cases =
        cases.filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name));
    let mut results = BTreeMap::new();
    for (name, case) in cases {
        let folder = Path::new(folder).join(name);
        fs::create_dir_all(&folder)?;
        results.insert(name, case(&folder).map_or_else(|failure| failure.0, |()| "ok".to_owned()));
    }
    serde_json::to_writer(io::stdout(), &results)?;
    println!();
    Ok(())
}

/// A case's second process: its last word is whether it could do what the role says.
pub(crate) fn play(arguments: &[String]) -> io::Result<()> {
    let [role, path] = arguments else { return Err(io::ErrorKind::InvalidInput.into()) };
    let path = Path::new(path);
    match role.as_str() {
        "record-lock" => locks::take_record(path),
        "whole-lock" => locks::take_whole(path),
        "map" => content::change_by_mapping(path),
        "make" => fs::write(path, "made"),
        "make-as-member" => owners::make_as_member(path),
        "overwrite" => owners::overwrite(path),
        "remove" => fs::remove_file(path),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// This program in a role; to be started as whoever the case wants.
fn role(role: &str, path: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--as").arg(role).arg(path);
    command
}

/// Runs a second process and says whether it could.
fn could(command: &mut Command) -> io::Result<bool> {
    Ok(command.stderr(std::process::Stdio::null()).status()?.success())
}

/// Both must be equal.
#[track_caller]
fn same<T: PartialEq + Debug>(what: &str, seen: T, expected: T) -> Outcome {
    if seen == expected {
        return Ok(());
    }
    let place = std::panic::Location::caller();
    Err(Failure(format!("{what}: {seen:?} and not {expected:?} ({place})")))
}

/// It must fail in this way.
#[track_caller]
fn refused<T>(what: &str, done: Result<T, impl Into<io::Error>>, errno: i32) -> Outcome {
    let seen = done.err().and_then(|error| error.into().raw_os_error()).unwrap_or(0);
    same(
        what,
        io::Error::from_raw_os_error(seen).to_string(),
        io::Error::from_raw_os_error(errno).to_string(),
    )
}
