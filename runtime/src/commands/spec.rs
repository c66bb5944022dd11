//! `spec`: a starter configuration in a bundle.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::SpecArgs;
use crate::commands::Context;
use crate::config::IsolationRequest;
use crate::spec::template;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum WriteSpecError {
    /// Nothing is overwritten. The words are runc's.
    #[error("File {0} exists. Remove it first")]
    Exists(PathBuf),
    /// The bundle refuses.
    #[error("Cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(super) fn run(context: &Context, args: &SpecArgs) -> Result<(), WriteSpecError> {
    let path = args.bundle.join("config.json");
    let path = path.strip_prefix(".").map(Path::to_path_buf).unwrap_or(path);
    let text = if args.rootless {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        match context.global.isolation {
            Some(IsolationRequest::Microvm) => {
                template::rootless_in_microvm(uid.as_raw(), gid.as_raw())
            }
            Some(IsolationRequest::Auto | IsolationRequest::Namespace) | None => {
                template::rootless(uid.as_raw(), gid.as_raw())
            }
        }
    } else {
        template::ROOTFUL.to_owned()
    };
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let text = if unified { text } else { without_cgroup_namespace(&text) };
    let written = File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteSpecError::Exists(path),
        _ => WriteSpecError::Write { path, source },
    })
}

/// As runc's: with v1 the namespace hides less than the mounts of the hierarchies need.
fn without_cgroup_namespace(template: &str) -> String {
    template.replace(",\n\t\t\t{\n\t\t\t\t\"type\": \"cgroup\"\n\t\t\t}", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_namespace_is_one_that_can_be_left_out() {
        for template in [template::ROOTFUL.to_owned(), template::rootless(1, 1)] {
            let without = without_cgroup_namespace(&template);
            let count = |text: &str| {
                let document: serde_json::Value = serde_json::from_str(text).unwrap();
                document["linux"]["namespaces"].as_array().unwrap().len()
            };
            assert_eq!(count(&without) + 1, count(&template));
        }
    }
}
