//! A pod's sandbox that the shim makes by itself: a container without an image, which nobody knows as
//! a task, and the files that the pod's containers share.
//!
//! ```text
//!   created ──▶ started ──▶ stopped ──▶ deleted
//!      └──────────────────────▲
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::sandbox_api::CreateSandboxRequest;
use containerd_shim_protos::types::mount::Mount;
use serde_json::Value;

use crate::container::Container;
use crate::cri::PodSandboxConfig;
use crate::options::Options;
use crate::pod::{self, SandboxPlan};
use crate::pod_files::PodFiles;
use crate::process::State;
use crate::reaper::Exit;
use crate::shared::Shared;
use crate::step::StepError;

/// What CRI describes a pod by.
const POD: &str = "runtime.v1.PodSandboxConfig";

/// A sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    /// Its name.
    pub(crate) id: String,
    /// When it was made.
    pub(crate) created_at: SystemTime,
    container: Arc<Container>,
    files: PodFiles,
}

impl Sandbox {
    /// Makes it, in its bundle. Nothing is left when it fails.
    ///
    /// # Errors
    /// What failed.
    pub(crate) async fn create(
        shared: &Shared,
        request: &CreateSandboxRequest,
    ) -> Result<Self, StepError> {
        let bundle = PathBuf::from(&request.bundle_path);
        let unusable = |error| StepError::Bundle(bundle.clone(), error);
        let options = Options::saved(&bundle).map_err(unusable)?.unwrap_or_default();
        let pod = described(request.options.as_ref())?;
        let config = planned(request, &pod, &options, &own_program().map_err(unusable)?)?;
        write_config(&bundle, &config).map_err(unusable)?;
        let files = PodFiles::of(&bundle);
        files.make(&pod).map_err(unusable)?;
        let (shared, task) = (Arc::new(shared.without_events()), as_task(request));
        let container = Container::create(&shared, &task, options).await;
        let container = container.inspect_err(|_| files.unmount())?;
        let (id, created_at) = (request.sandbox_id.clone(), SystemTime::now());
        Ok(Self { id, created_at, container, files })
    }

    /// Starts it: its process on the host.
    ///
    /// # Errors
    /// What failed.
    pub(crate) async fn start(&self) -> Result<u32, StepError> {
        self.container.start("").await
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        self.container.init.state()
    }

    /// Waits for its end.
    pub(crate) async fn exit(&self) -> Exit {
        self.container.init.exit().await
    }

    /// Ends it, if it has not ended: of a microVM everything that is in it.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(&self) -> Result<(), StepError> {
        self.container.end(false).await
    }

    /// Takes it away with everything of it.
    ///
    /// # Errors
    /// What is left.
    pub(crate) async fn delete(&self) -> Result<(), StepError> {
        self.stop().await?;
        self.container.delete("").await?;
        self.files.unmount();
        Ok(())
    }

    /// What it uses, as `events --stats` has it.
    ///
    /// # Errors
    /// The runtime says why it cannot tell.
    pub(crate) async fn statistics(&self) -> Result<Value, StepError> {
        self.container.statistics().await
    }

    /// Has one of the pod's containers share the pod's files, before it is made, and writes it down. The
    /// options that it is made with are the sandbox's: containerd 2 hands no others on. None: it
    /// is in no pod of this sandbox's.
    ///
    /// # Errors
    /// A bundle cannot be used.
    pub(crate) fn admit(&self, id: &str, bundle: &Path) -> Result<Option<Options>, StepError> {
        let admitted = self.try_admit(id, bundle);
        admitted.map_err(|error| StepError::Bundle(bundle.to_owned(), error))
    }

    fn try_admit(&self, id: &str, bundle: &Path) -> io::Result<Option<Options>> {
        let mut config: Value = serde_json::from_slice(&fs::read(bundle.join(CONFIG))?)?;
        if !pod::is_member(&config, &self.id) {
            return Ok(None);
        }
        pod::share(&mut config, &self.files);
        write_config(bundle, &config)?;
        fs::write(self.record(id), bundle.as_os_str().as_encoded_bytes())?;
        Ok(Some(self.container.options.clone()))
    }

    /// It is none of the pod's any more. It may be none.
    pub(crate) fn release(&self, id: &str) {
        let _ = fs::remove_file(self.record(id));
    }

    fn record(&self, id: &str) -> PathBuf {
        self.container.bundle.join(format!("{MEMBER}{id}"))
    }
}

/// The containers of the pod whose sandbox has this bundle, each with its own bundle: containerd names
/// none but the sandbox when its shim is gone.
pub(crate) fn members(bundle: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(bundle).into_iter().flatten().filter_map(Result::ok);
    let member = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.strip_prefix(MEMBER)?.to_owned();
        let bundle = OsString::from_vec(fs::read(entry.path()).ok()?);
        Some((id, bundle.into()))
    };
    entries.filter_map(member).collect()
}

/// A file of the sandbox's bundle for each container of the pod: where that has its own.
const MEMBER: &str = "member-";

/// There where the host's kernel has SELinux and it is on.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// A bundle's configuration.
const CONFIG: &str = "config.json";

fn write_config(bundle: &Path, config: &Value) -> io::Result<()> {
    fs::write(bundle.join(CONFIG), serde_json::to_vec(config)?)
}

/// What waits inside is this program.
fn own_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// Nothing is a pod of which nothing is said.
fn described(options: Option<&Any>) -> Result<PodSandboxConfig, StepError> {
    let Some(any) = options.filter(|any| !any.type_url.is_empty()) else {
        return Ok(PodSandboxConfig::default());
    };
    match any.type_url.rsplit('/').next() {
        Some(POD) => Ok(PodSandboxConfig::parse_from_bytes(&any.value)?),
        _ => Err(StepError::Pod(any.type_url.clone())),
    }
}

fn planned(
    request: &CreateSandboxRequest,
    pod: &PodSandboxConfig,
    options: &Options,
    program: &Path,
) -> Result<Value, StepError> {
    let plan = SandboxPlan {
        id: &request.sandbox_id,
        pod,
        network: &request.netns_path,
        annotations: &request.annotations.clone().into_iter().collect::<BTreeMap<_, _>>(),
        systemd: options.systemd_cgroup,
        program,
        has_selinux: Path::new(SELINUX).exists(),
    };
    Ok(plan.config()?)
}

/// Its root file system is its own: empty, but for where its program is mounted.
fn as_task(request: &CreateSandboxRequest) -> CreateTaskRequest {
    let empty = || Mount {
        type_: "tmpfs".to_owned(),
        source: "tmpfs".to_owned(),
        options: ["nosuid", "nodev", "mode=755", "size=64k"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let given = request.rootfs.clone();
    CreateTaskRequest {
        id: request.sandbox_id.clone(),
        bundle: request.bundle_path.clone(),
        rootfs: if given.is_empty() { vec![empty()] } else { given },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_s_containers_are_found_by_what_is_written_down() {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("config.json"), "{}").unwrap();
        assert_eq!(members(bundle.path()), []);
        fs::write(bundle.path().join("member-web"), "/run/web").unwrap();
        assert_eq!(members(bundle.path()), [("web".to_owned(), "/run/web".into())]);
    }

    #[test]
    fn a_pod_is_described_in_cri_s_words_and_in_no_others() {
        let pod = PodSandboxConfig { hostname: "web".into(), ..Default::default() };
        let any = |kind: &str| Any {
            type_url: kind.into(),
            value: pod.write_to_bytes().unwrap(),
            ..Default::default()
        };
        assert_eq!(described(Some(&any("types/runtime.v1.PodSandboxConfig"))).unwrap(), pod);
        assert_eq!(described(None).unwrap(), PodSandboxConfig::default());
        let refused = described(Some(&any("some.Pod"))).unwrap_err().to_string();
        assert!(refused.contains("some.Pod"), "{refused}");
    }
}
