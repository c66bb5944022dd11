//! The flags of `checkpoint` and `restore` that are words for CRIU: read, and passed on.
//!
//! What is not passed on is refused by its name: [`FlagError`].

use rust_criu::rust_criu_protobuf::rpc;

use crate::sandbox::request::ImageRequest;

/// A flag that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FlagError {
    /// Not done.
    #[error("{0} is not supported for a container in namespaces")]
    Unsupported(&'static str),
    /// Another namespace.
    #[error("--empty-ns is {0}: it can be network")]
    EmptyNamespace(String),
    /// Groups are the bundle's.
    #[error(
        "--manage-cgroups-mode is {0}: it can be soft or ignore. The control group of a restored container is made anew, with the limits of its bundle"
    )]
    ControlGroups(String),
}

/// What was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CriuFlags {
    tcp_established: bool,
    ext_unix_sk: bool,
    /// The caller's terminal is the container's.
    pub(super) shell_job: bool,
    file_locks: bool,
    auto_dedup: bool,
    empty_network: bool,
    /// Only memory is saved, and the container runs on.
    pub(super) pre_dump: bool,
    lsm_profile: Option<String>,
    lsm_mount_context: Option<String>,
}

impl CriuFlags {
    /// Reads them.
    ///
    /// # Errors
    /// Those that cannot be followed.
    pub(super) fn of(request: &ImageRequest) -> Result<Self, FlagError> {
        let mut flags = Self::default();
        for (name, value) in &request.flags {
            flags.take(name, value.as_deref().unwrap_or_default())?;
        }
        Ok(flags)
    }

    fn take(&mut self, name: &'static str, value: &str) -> Result<(), FlagError> {
        match name {
            "--tcp-established" => self.tcp_established = true,
            "--ext-unix-sk" => self.ext_unix_sk = true,
            "--shell-job" => self.shell_job = true,
            "--file-locks" => self.file_locks = true,
            "--auto-dedup" => self.auto_dedup = true,
            "--pre-dump" => self.pre_dump = true,
            "--lsm-profile" => self.lsm_profile = Some(value.to_owned()),
            "--lsm-mount-context" => self.lsm_mount_context = Some(value.to_owned()),
            // Looked at elsewhere: it is a path.
            "--parent-path" => {}
            "--empty-ns" if value == "network" => self.empty_network = true,
            "--empty-ns" => return Err(FlagError::EmptyNamespace(value.to_owned())),
            "--manage-cgroups-mode" if ["soft", "ignore"].contains(&value) => {}
            "--manage-cgroups-mode" => return Err(FlagError::ControlGroups(value.to_owned())),
            other => return Err(FlagError::Unsupported(other)),
        }
        Ok(())
    }

    /// Tells CRIU.
    pub(super) fn apply(&self, options: &mut rpc::Criu_opts) {
        options.set_tcp_established(self.tcp_established);
        options.set_ext_unix_sk(self.ext_unix_sk);
        options.set_shell_job(self.shell_job);
        options.set_file_locks(self.file_locks);
        options.set_auto_dedup(self.auto_dedup);
        if self.empty_network {
            options.set_empty_ns(libc::CLONE_NEWNET.cast_unsigned());
        }
        options.lsm_profile.clone_from(&self.lsm_profile);
        options.lsm_mount_context.clone_from(&self.lsm_mount_context);
        // The control groups are not CRIU's: `super::restore` makes them.
        options.set_manage_cgroups_mode(rpc::Criu_cg_mode::IGNORE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[(&'static str, Option<&str>)]) -> Result<CriuFlags, FlagError> {
        let flags = flags.iter().map(|(name, value)| (*name, value.map(str::to_owned))).collect();
        CriuFlags::of(&ImageRequest { flags, ..ImageRequest::default() })
    }

    #[test]
    fn what_is_said_reaches_criu() {
        let mut options = rpc::Criu_opts::new();
        let flags = [("--file-locks", None), ("--empty-ns", Some("network"))];
        read(&flags).unwrap().apply(&mut options);
        assert!(options.file_locks() && !options.tcp_established());
        assert_eq!(options.empty_ns(), 0x4000_0000);
        assert_eq!(options.manage_cgroups_mode(), rpc::Criu_cg_mode::IGNORE);
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_name() {
        for flag in ["--lazy-pages", "--page-server", "--status-fd"] {
            assert!(read(&[(flag, None)]).unwrap_err().to_string().contains(flag));
        }
        assert!(read(&[("--empty-ns", Some("ipc"))]).is_err());
        assert!(read(&[("--manage-cgroups-mode", Some("full"))]).is_err());
        assert!(read(&[("--manage-cgroups-mode", Some("ignore"))]).is_ok());
    }
}
