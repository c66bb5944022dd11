//! The document in `state.json`, and what `state` prints of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use cofferdam_protocol::id::ContainerId;
use serde::{Deserialize, Serialize};

use crate::host::process::ProcessIdentity;
use crate::kind::SandboxKind;
use crate::state::status::{Refusal, Status, Transition};

/// One container, as its state folder has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The spec's.
    pub oci_version: String,
    /// Its id.
    pub id: ContainerId,
    /// How far it came by what the verbs did. [`Record::status`] says where it is.
    pub phase: Status,
    /// Its processes are frozen, or about to be. Written before they are and taken back after they
    /// run again, so that a verb that is cut leaves nothing frozen that `resume` refuses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The process that makes it, for as long as `phase` is `creating`.
    pub creator: ProcessIdentity,
    /// The sandbox's process, once there is one.
    pub process: Option<ProcessIdentity>,
    /// What it runs in.
    pub isolation: SandboxKind,
    /// Absolute.
    pub bundle: PathBuf,
    /// Absolute.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// The spec's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What the runtime has to say of the container, as annotations of its own
    /// (`dev.cofferdam.*`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

impl Record {
    /// Where the container is now. A process that is gone, or that is another with the same
    /// number, is a container that stopped.
    #[must_use]
    pub fn status(&self) -> Status {
        let alive = match self.phase {
            Status::Creating => self.creator.is_alive(),
            Status::Created | Status::Running | Status::Paused => {
                self.process.is_some_and(ProcessIdentity::is_alive)
            }
            Status::Stopped => false,
        };
        match (alive, self.phase) {
            (false, _) => Status::Stopped,
            (true, Status::Created | Status::Running) if self.paused => Status::Paused,
            (true, phase) => phase,
        }
    }

    /// The status after a transition from the present one.
    ///
    /// # Errors
    /// When it is not allowed now.
    pub fn permit(&self, transition: Transition) -> Result<Status, Refusal> {
        self.status().after(transition)
    }

    /// What `state` prints. Of what the runtime notes nobody else has the word, whatever the
    /// configuration says under that name.
    #[must_use]
    pub fn view(&self) -> StateView<'_> {
        let mut view = self.hook_view(self.status());
        if !self.notes.is_empty() {
            view.annotations.to_mut().extend(self.notes.clone());
        }
        view
    }

    /// What a hook reads, at a moment that has its status: the specification's annotations are
    /// the configuration's, and what the runtime notes is not among them.
    #[must_use]
    pub fn hook_view(&self, status: Status) -> StateView<'_> {
        let alive = self.process.filter(|_| status != Status::Stopped);
        StateView {
            oci_version: &self.oci_version,
            id: self.id.as_str(),
            pid: alive.map_or(0, |process| process.pid),
            status,
            bundle: &self.bundle,
            rootfs: &self.rootfs,
            created: &self.created,
            annotations: Cow::Borrowed(&self.annotations),
            owner: String::new(),
        }
    }
}

fn no_annotations(annotations: &BTreeMap<String, String>) -> bool {
    annotations.is_empty()
}

/// A container's state as runc prints it, in runc's order. `owner` is known to `list` alone.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateView<'a> {
    /// The spec's.
    pub oci_version: &'a str,
    /// The container.
    pub id: &'a str,
    /// The sandbox's process; 0 when it is stopped.
    pub pid: i32,
    /// Where it is.
    pub status: Status,
    /// Absolute.
    pub bundle: &'a PathBuf,
    /// Absolute.
    pub rootfs: &'a PathBuf,
    /// RFC 3339.
    pub created: &'a str,
    /// The spec's, and for people the runtime's own.
    #[serde(skip_serializing_if = "no_annotations")]
    pub annotations: Cow<'a, BTreeMap<String, String>>,
    /// Name of the state folder's owner.
    pub owner: String,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(id: &str) -> Record {
        let own = ProcessIdentity::of(std::process::id().cast_signed()).unwrap();
        Record {
            oci_version: "1.2.0".into(),
            id: id.parse().unwrap(),
            phase: Status::Creating,
            paused: false,
            creator: own,
            process: None,
            isolation: SandboxKind::Namespace,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-21T03:56:47.929968269Z".into(),
            annotations: BTreeMap::new(),
            notes: BTreeMap::new(),
        }
    }

    #[test]
    fn a_phase_holds_as_long_as_its_process() {
        let own = record("a").creator;
        let reused = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own };
        let status =
            |phase, creator, process| Record { phase, creator, process, ..record("a") }.status();
        assert_eq!(status(Status::Creating, own, None), Status::Creating);
        assert_eq!(status(Status::Creating, reused, None), Status::Stopped);
        assert_eq!(status(Status::Created, reused, Some(own)), Status::Created);
        assert_eq!(status(Status::Running, reused, Some(own)), Status::Running);
        assert_eq!(status(Status::Running, own, Some(reused)), Status::Stopped);
        assert_eq!(status(Status::Created, own, None), Status::Stopped);
    }

    #[test]
    fn a_container_is_paused_before_its_start_and_after_but_not_when_it_is_gone() {
        let own = record("a").creator;
        let status =
            |phase, process| Record { phase, process, paused: true, ..record("a") }.status();
        assert_eq!(status(Status::Created, Some(own)), Status::Paused);
        assert_eq!(status(Status::Running, Some(own)), Status::Paused);
        assert_eq!(status(Status::Running, None), Status::Stopped);
    }

    #[test]
    fn a_stopped_container_has_no_pid() {
        let record = Record { process: Some(record("a").creator), ..record("a") };
        assert_ne!(record.hook_view(Status::Created).pid, 0);
        assert_eq!(record.hook_view(Status::Stopped).pid, 0);
    }

    #[test]
    fn hooks_read_the_annotations_of_the_configuration_and_state_shows_the_notes_too() {
        let map = |list: &[(&str, &str)]| -> BTreeMap<String, String> {
            list.iter().map(|(key, value)| (String::from(*key), String::from(*value))).collect()
        };
        // One that a configuration has of another runtime's output, say.
        let said = map(&[("org.x", "1"), ("dev.cofferdam.vm.vcpus", "99")]);
        let notes = map(&[("dev.cofferdam.vm.vcpus", "2"), ("dev.cofferdam.of.tomorrow", "1")]);
        let record = Record { annotations: said.clone(), notes, ..record("a") };
        assert_eq!(*record.hook_view(Status::Created).annotations, said);
        let shown = map(&[
            ("org.x", "1"),
            ("dev.cofferdam.vm.vcpus", "2"),
            ("dev.cofferdam.of.tomorrow", "1"),
        ]);
        assert_eq!(*record.view().annotations, shown);
    }

    #[test]
    fn the_view_has_the_fields_of_runc_in_their_order() {
        insta::assert_json_snapshot!(record("a").hook_view(Status::Stopped), @r#"
        {
          "ociVersion": "1.2.0",
          "id": "a",
          "pid": 0,
          "status": "stopped",
          "bundle": "/b",
          "rootfs": "/b/rootfs",
          "created": "2026-11-21T03:56:47.929968269Z",
          "owner": ""
        }
        "#);
    }
}
