//! Nothing names a path that one machine has and another has not.

use std::fs;

use crate::{assert_none, files, root};

/// Where this checkout and those of the project's own machines are.
fn private_folders() -> Vec<String> {
    let mut folders = vec![["", "work", ""].join("/")];
    if root().components().count() > 2 {
        folders.push(root().display().to_string());
    }
    folders
}

/// The lines of a text that name such a folder.
fn private_paths(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let named = private_folders().iter().any(|folder| {
            // The same name within a longer path is another folder.
            line.match_indices(folder.as_str()).any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}*)".contains(c))
            })
        });
        if named {
            found.push(index + 1);
        }
    }
    found
}

#[test]
fn no_path_is_of_one_machine_only() {
    let mut found = Vec::new();
    for path in files(root()) {
        // What is not text names nothing.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let path = path.strip_prefix(root()).unwrap().display();
        found.extend(private_paths(&text).iter().map(|line| format!("{path}:{line}")));
    }
    assert_none(&found, "These lines name a path of one machine:");
}

#[test]
fn a_path_of_this_checkout_is_found() {
    let text = ["fine: /tmp/work/x and target/x", &format!("not: {}x", private_folders()[0])];
    let text = text.join("\n");
    assert_eq!(private_paths(&text), [2]);
}
