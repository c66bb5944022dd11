//! How `ctr` is told of a runtime.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::bench::subject::Subject;

/// The shim that runc comes with.
pub(super) const RUNC_SHIM: &str = "containerd-shim-runc-v2";
const RUNC: &str = "io.containerd.runc.v2";
const COFFERDAM: &str = "io.containerd.cofferdam.v2";
/// Where our shims keep the states of their containers, a folder for each of containerd's namespaces.
const STATES: &str = "/run/containerd/cofferdam";

/// A runtime as containerd calls it.
pub(super) struct Handler {
    subject: Subject,
    flags: [String; 4],
}

impl Handler {
    /// That of a subject; its configuration goes to this folder.
    pub(super) fn of(subject: Subject, folder: &Path) -> Result<Self> {
        let flags = match subject.name {
            "runc" | "crun" => {
                let program = subject.program.display().to_string();
                ["--runtime", RUNC, "--runc-binary", &program].map(str::to_owned)
            }
            isolation => {
                let file = folder.join(format!("{isolation}.toml"));
                fs::write(&file, format!("[isolation]\npolicy = \"{isolation}\"\n"))?;
                let file = file.display().to_string();
                ["--runtime", COFFERDAM, "--runtime-config-path", &file].map(str::to_owned)
            }
        };
        Ok(Self { subject, flags })
    }

    /// The subject's name in the report.
    pub(super) fn name(&self) -> &'static str {
        self.subject.name
    }

    /// What the runtime says of its version.
    pub(super) fn version(&self) -> String {
        self.subject.version()
    }

    /// Whether its containers have a kernel of their own.
    pub(super) fn is_vm(&self) -> bool {
        self.name() == "microvm"
    }

    /// The flags of `ctr run` that choose it.
    pub(super) fn flags(&self) -> &[String] {
        &self.flags
    }

    /// Where a container of ours has its state.
    pub(super) fn state(namespace: &str, id: &str) -> PathBuf {
        Path::new(STATES).join(namespace).join(id)
    }
}
