//! `checkpoint`: a container is saved into a folder, from which `restore` sets it going again.
//!
//! Unless it is to run on, it is deleted once the image is whole, as with runc; when there is no
//! image it runs on.

use std::io;
use std::path::{Path, PathBuf};

use crate::cli::{CheckpointArgs, CriuArgs, RestoreArgs};
use crate::commands::{Context, DeleteError, IdError, delete, parse_id};
use crate::sandbox;
use crate::sandbox::request::ImageRequest;
use crate::state::status::{Refusal, Transition};
use crate::state::store::StoreError;

/// The image's folder where none is named, as runc has it.
const DEFAULT_IMAGE: &str = "checkpoint";

/// Why a container was not saved.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The folder.
    #[error("Cannot find the folder of the image")]
    Folder(#[source] io::Error),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::CheckpointError),
    /// It was saved, and something of it is left.
    #[error(transparent)]
    Delete(#[from] DeleteError),
}

pub(super) fn run(context: &Context, args: &CheckpointArgs) -> Result<(), CheckpointError> {
    let (entry, lock) = context.store.open_locked(&parse_id(&args.target.id)?)?;
    entry.record.permit(Transition::Checkpoint)?;
    let request = request(args).map_err(CheckpointError::Folder)?;
    sandbox::checkpoint(entry.record.isolation, &entry.sandbox(), &request)?;
    if !request.leave_running {
        delete::delete(&entry, &lock)?;
    }
    Ok(())
}

fn request(args: &CheckpointArgs) -> io::Result<ImageRequest> {
    let mut request = common(&args.criu)?;
    request.parent.clone_from(&args.parent_path);
    request.leave_running = args.leave_running || args.pre_dump;
    let text = |value: &Path| value.display().to_string();
    let own = [
        ("--parent-path", args.parent_path.as_deref().map(text)),
        // runc's own default is -1: no descriptor.
        ("--status-fd", args.status_fd.filter(|fd| *fd >= 0).map(|fd| fd.to_string())),
        ("--page-server", args.page_server.clone()),
    ];
    request.flags.extend(own.into_iter().filter(|(_, value)| value.is_some()));
    if args.pre_dump {
        request.flags.push(("--pre-dump", None));
    }
    Ok(request)
}

/// What `restore` says of an image.
pub(super) fn restore_request(args: &RestoreArgs) -> io::Result<ImageRequest> {
    let mut request = common(&args.criu)?;
    let own = [
        ("--lsm-profile", args.lsm_profile.clone()),
        ("--lsm-mount-context", args.lsm_mount_context.clone()),
    ];
    request.flags.extend(own.into_iter().filter(|(_, value)| value.is_some()));
    Ok(request)
}

fn common(criu: &CriuArgs) -> io::Result<ImageRequest> {
    let image = criu.image_path.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_IMAGE));
    let set = [
        ("--tcp-established", criu.tcp_established),
        ("--ext-unix-sk", criu.ext_unix_sk),
        ("--shell-job", criu.shell_job),
        ("--lazy-pages", criu.lazy_pages),
        ("--file-locks", criu.file_locks),
        ("--auto-dedup", criu.auto_dedup),
    ];
    let mut flags: Vec<_> =
        set.into_iter().filter(|(_, given)| *given).map(|(flag, _)| (flag, None)).collect();
    flags.extend(criu.empty_ns.iter().map(|name| ("--empty-ns", Some(name.clone()))));
    let mode = criu.manage_cgroups_mode.clone();
    flags.extend(mode.map(|mode| ("--manage-cgroups-mode", Some(mode))));
    Ok(ImageRequest {
        image: std::path::absolute(image)?,
        work: criu.work_path.as_deref().map(std::path::absolute).transpose()?,
        flags,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::cli::{Cli, Verb};

    #[test]
    fn flags_are_passed_on_by_their_names() {
        let criu = CriuArgs {
            image_path: Some("/image".into()),
            file_locks: true,
            empty_ns: vec!["network".into()],
            ..Default::default()
        };
        let args =
            CheckpointArgs { criu, status_fd: Some(-1), pre_dump: true, ..Default::default() };
        let request = request(&args).unwrap();
        let names: Vec<_> = request.flags.iter().map(|(flag, _)| *flag).collect();
        assert_eq!(names, ["--file-locks", "--empty-ns", "--pre-dump"]);
        assert!(request.leave_running, "a pre-dump leaves it running");
    }

    /// What the request says in fields of its own, or the creation takes, as of `run`.
    const NOT_OF_THE_IMAGE: [&str; 8] = [
        "--bundle",
        "--console-socket",
        "--detach",
        "--image-path",
        "--leave-running",
        "--no-pivot",
        "--no-subreaper",
        "--pid-file",
    ];

    /// Each option of a verb is put into a command line of its own; those that did not come
    /// through to the kind of sandbox, which has to honour or refuse them, are given back.
    fn lost(verb: &str, request: impl Fn(Vec<String>) -> ImageRequest) -> Vec<String> {
        let command = Cli::command();
        let options = command.find_subcommand(verb).unwrap().get_opts();
        let names = options.filter_map(|option| Some(format!("--{}", option.get_long()?)));
        let taken = |name: &String| {
            let value = if name == "--manage-cgroups-mode" { "soft" } else { "7" };
            let line = |given: String| vec!["cofferdam".to_owned(), verb.to_owned(), given];
            let with_value = line(format!("{name}={value}"));
            let takes_value = Cli::try_parse_from([&with_value[..], &["a".into()]].concat());
            let mut line = if takes_value.is_ok() { with_value } else { line(name.clone()) };
            line.push("a".to_owned());
            let request = request(line);
            request.flags.iter().any(|(flag, _)| flag == name) || request.work.is_some()
        };
        let own = |name: &String| NOT_OF_THE_IMAGE.contains(&name.as_str());
        names.filter(|name| !own(name) && !taken(name)).collect()
    }

    #[test]
    fn no_option_is_dropped_on_its_way_to_the_sandbox() {
        let checkpoint = lost("checkpoint", |line| match Cli::parse_from(line).verb {
            Verb::Checkpoint(args) => request(&args).unwrap(),
            other => panic!("{other:?}"),
        });
        let restore = lost("restore", |line| match Cli::parse_from(line).verb {
            Verb::Restore(args) => restore_request(&args).unwrap(),
            other => panic!("{other:?}"),
        });
        assert_eq!([checkpoint, restore].concat(), [""; 0]);
    }

    #[test]
    fn the_image_is_beside_the_caller_where_none_is_named() {
        let request = request(&CheckpointArgs::default()).unwrap();
        assert_eq!(request.image, std::env::current_dir().unwrap().join("checkpoint"));
    }
}
