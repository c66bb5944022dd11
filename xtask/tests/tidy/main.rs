//! What holds for the whole tree and no compiler checks: who may depend on whom, what stands
//! where, and that documents name what exists. Each check is a function over text that is shown
//! to fail on a fixture, and is then run on the tree.

// Outside of `#[test]` functions too: everything here is part of a test.
#![allow(clippy::unwrap_used)]

mod cycles;
mod edges;
mod paths;
mod sources;
mod specification;

use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every file of ours below a folder: what is built, hidden or made by a fuzzer is not.
fn files(folder: &Path) -> Vec<PathBuf> {
    let ours = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        let is_hidden = name.starts_with('.') && entry.depth() > 0;
        let is_kept = matches!(&*name, ".ci" | ".cargo");
        let is_made = matches!(&*name, "target" | "corpus" | "artifacts") && entry.depth() > 0;
        (!is_hidden || is_kept) && !is_made
    };
    let walk = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(ours);
    walk.map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
        .collect()
}

/// Every Rust file of ours, by its path from the root, with its text.
fn rust_files() -> Vec<(PathBuf, String)> {
    files(root())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.strip_prefix(root()).unwrap().to_owned(), text)
        })
        .collect()
}

/// Fails with all that was found.
#[track_caller]
fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n  {}\n", found.join("\n  "));
}
