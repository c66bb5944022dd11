//! A runtime whose verbs are measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A runtime as it is called.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// Its name in the report.
    pub(super) name: &'static str,
    /// Its program.
    pub(super) program: PathBuf,
    /// Before the verb.
    flags: &'static [&'static str],
}

impl Subject {
    /// All of them, in the report's order. Cofferdam's programs are in this folder.
    pub(super) fn all(programs: &Path) -> [Self; 4] {
        let cofferdam = programs.join("cofferdam");
        let subject = |name, program, flags| Self { name, program, flags };
        [
            subject("runc", PathBuf::from("/usr/sbin/runc"), &[]),
            subject("crun", PathBuf::from("/usr/bin/crun"), &[]),
            subject("namespace", cofferdam.clone(), &["--isolation", "namespace"]),
            subject("microvm", cofferdam, &["--isolation", "microvm"]),
        ]
    }

    /// A verb and its arguments, connected to nothing.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.flags).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs a verb. What it says is looked at only if it fails, by running it again: reading its
    /// output is work that would be measured.
    pub(super) fn verb(&self, arguments: &[&str]) -> Result<()> {
        let status = self
            .command(arguments)
            .status()
            .with_context(|| format!("Could not start {}", self.program.display()))?;
        if status.success() {
            return Ok(());
        }
        let again = self.command(arguments).stderr(Stdio::piped()).output()?;
        let said = String::from_utf8_lossy(&again.stderr);
        bail!("{} {}: {status}; again: {}", self.name, arguments.join(" "), said.trim_end())
    }

    /// What it says of its version.
    pub(super) fn version(&self) -> String {
        let output = self.command(&["--version"]).stdout(Stdio::piped()).output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    }
}
