//! A pod as the annotations of Kubernetes' CRI make one: a container that the others join. With runc and
//! in namespaces to join is to have its namespaces; for every runtime the pod has one shim.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::containerd::Containerd;
use super::handler::Handler;

const KIND: &str = "io.kubernetes.cri.container-type";
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
/// What the first container does.
const STAYS: [&str; 2] = ["sleep", "100000"];

/// It may be running or not.
pub(super) struct Pod<'a> {
    containerd: &'a Containerd,
    handler: &'a Handler,
    id: String,
    /// The network namespace that somebody made for it.
    network: Option<PathBuf>,
    pid_file: PathBuf,
}

impl<'a> Pod<'a> {
    /// One that does not run yet.
    pub(super) fn new(
        containerd: &'a Containerd,
        handler: &'a Handler,
        id: &str,
        network: Option<PathBuf>,
    ) -> Self {
        let pid_file = containerd.folder().join(format!("{id}.pid"));
        Self { containerd, handler, id: id.to_owned(), network, pid_file }
    }

    /// Its name, which is also its first container's.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The words that start it.
    pub(super) fn start_words(&self) -> Vec<String> {
        let mut options = vec!["--detach".to_owned(), "--pid-file".to_owned()];
        options.push(self.pid_file.display().to_string());
        options.extend(annotation(KIND, "sandbox"));
        options.extend(annotation(SANDBOX, &self.id));
        options.extend(self.network.iter().flat_map(|path| joined("network", path)));
        self.containerd.run_words(self.handler, &options, &self.id, &STAYS)
    }

    /// The words that run another container in it, to its end.
    pub(super) fn member_words(&self, program: &[&str]) -> Result<Vec<String>> {
        let pid = fs::read_to_string(&self.pid_file)
            .with_context(|| format!("The pid of {}", self.id))?;
        let mut options = vec!["--rm".to_owned()];
        options.extend(annotation(KIND, "container"));
        options.extend(annotation(SANDBOX, &self.id));
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            options.extend(joined(kind, Path::new(&format!("/proc/{}/ns/{file}", pid.trim()))));
        }
        let id = format!("{}-member", self.id);
        Ok(self.containerd.run_words(self.handler, &options, &id, program))
    }

    /// The words that end it, one command after the other.
    pub(super) fn stop_words(&self) -> [Vec<String>; 2] {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        [words(&["task", "delete", "--force", &self.id]), words(&["container", "delete", &self.id])]
    }

    /// Starts it.
    pub(super) fn start(&self) -> Result<()> {
        self.containerd.run(&self.start_words())
    }

    /// Ends it.
    pub(super) fn stop(&self) -> Result<()> {
        self.stop_words().iter().try_for_each(|words| self.containerd.run(words))?;
        Ok(fs::remove_file(&self.pid_file)?)
    }
}

fn annotation(name: &str, value: &str) -> [String; 2] {
    ["--annotation".to_owned(), format!("{name}={value}")]
}

fn joined(kind: &str, path: &Path) -> [String; 2] {
    ["--with-ns".to_owned(), format!("{kind}:{}", path.display())]
}
