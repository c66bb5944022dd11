//! `install`: Cofferdam as a runtime of an engine, by the engine's own configuration file.
//!
//! ```text
//!   every file is read ─▶ every edit is planned ─▶ one by one: shown, then written
//! ```
//!
//! What is refused is refused before anything is written. Engines are not restarted: what does it is
//! said.

mod diff;
mod file;
mod words;

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::{GlobalArgs, InstallArgs};
use crate::commands::{Context, print};
use crate::engines::{self, Edit, EditError, Engine, Entry};
use crate::host::user::User;
use file::{ConfigFile, FileError};

/// Why an engine's configuration is as it was.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// An ordinary user.
    #[error("Only root may change /etc: run it with sudo, or look with --dry-run")]
    NotRoot,
    /// Where this program is.
    #[error("Cannot tell where this program is")]
    OwnPath(#[source] io::Error),
    /// A path that no configuration can have.
    #[error("{0:?} cannot be written into a configuration: it is not UTF-8")]
    NotText(PathBuf),
    /// The file on the disk.
    #[error(transparent)]
    File(#[from] FileError),
    /// What it says.
    #[error("{path} is left as it is")]
    Edit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: EditError,
    },
    /// Standard output refuses.
    #[error("Cannot write the output")]
    Output(#[source] io::Error),
}

pub(super) fn run(context: &Context, args: &InstallArgs) -> Result<(), InstallError> {
    if !args.dry_run && args.system_root.is_none() && User::current().is_ordinary() {
        return Err(InstallError::NotRoot);
    }
    let root = args.system_root.as_deref().unwrap_or(Path::new("/"));
    let entry = Entry {
        name: args.name.clone(),
        program: own_path(root)?,
        arguments: arguments(&context.global)?,
    };
    let steps = args.engines().map(|engine| Step::plan(engine, root, &entry, args.uninstall));
    for step in steps.collect::<Result<Vec<_>, _>>()? {
        step.take(args, root)?;
    }
    Ok(())
}

/// What is done for one engine.
struct Step {
    engine: Engine,
    file: ConfigFile,
    edit: Edit,
}

impl Step {
    fn plan(
        engine: Engine,
        root: &Path,
        entry: &Entry,
        uninstall: bool,
    ) -> Result<Self, InstallError> {
        let file = ConfigFile::read(root, &engine.file(&entry.name))?;
        let (text, backup) = (file.text.as_deref(), file.backup.as_deref());
        let edit = if uninstall {
            engines::uninstall(engine, text, backup, &entry.name)
        } else {
            engines::install(engine, text, entry)
        };
        let edit =
            edit.map_err(|source| InstallError::Edit { path: file.shown.clone(), source })?;
        Ok(Self { engine, file, edit })
    }

    fn take(&self, args: &InstallArgs, root: &Path) -> Result<(), InstallError> {
        let is_coloured = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        say(&diff::render(&self.file.shown, self.texts(), is_coloured))?;
        if self.engine == Engine::Containerd && !args.uninstall {
            words::warn_without_shim(root);
        }
        if args.dry_run {
            return say(&words::dry(self.engine, &self.file.shown, &self.edit));
        }
        let backup = self.file.apply(&self.edit)?;
        say(&words::done(self.engine, &self.file.shown, &self.edit, &backup))?;
        if self.edit != Edit::Nothing {
            say(&words::next(self.engine, &args.name, args.uninstall))?;
        }
        Ok(())
    }

    /// Before and after.
    fn texts(&self) -> (Option<&str>, Option<&str>) {
        let before = self.file.text.as_deref();
        let after = match &self.edit {
            Edit::Nothing => before,
            Edit::Write { text, .. } => Some(text.as_str()),
            Edit::Restore => self.file.backup.as_deref(),
            Edit::Remove => None,
        };
        (before, after)
    }
}

fn say(text: &str) -> Result<(), InstallError> {
    print(text).map_err(InstallError::Output)
}

/// Where this program is, or will be: a package is built in a folder that becomes the root.
fn own_path(root: &Path) -> Result<String, InstallError> {
    let path = env::current_exe().map_err(InstallError::OwnPath)?;
    let path = match root.canonicalize() {
        Ok(root) => path.strip_prefix(&root).map(|rest| Path::new("/").join(rest)).unwrap_or(path),
        Err(_) => path,
    };
    text(path)
}

/// The flags of this command line that are about containers: nothing that was said is dropped.
fn arguments(global: &GlobalArgs) -> Result<Vec<String>, InstallError> {
    let mut arguments = Vec::new();
    if let Some(isolation) = global.isolation.and_then(|kind| kind.to_possible_value()) {
        arguments.extend(["--isolation".to_owned(), isolation.get_name().to_owned()]);
    }
    if global.compat {
        arguments.push("--compat".to_owned());
    }
    if let Some(config) = &global.config {
        let config = std::path::absolute(config).unwrap_or_else(|_| config.clone());
        arguments.extend(["--config".to_owned(), text(config)?]);
    }
    Ok(arguments)
}

fn text(path: PathBuf) -> Result<String, InstallError> {
    path.into_os_string().into_string().map_err(|path| InstallError::NotText(path.into()))
}
