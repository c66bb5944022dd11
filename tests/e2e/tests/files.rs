//! Files behave as a local file system's for the programs in a container: the same cases under
//! Cofferdam, in either mode, and under runc.

use std::fs;
use std::path::Path;

use cofferdam_e2e::{Bundle, Image, Runtime};
use serde_json::{Value, json};

/// The cases that are not worth a scenario of their own.
const CASES: [&str; 20] = [
    "append",
    "attributes",
    "copied_ranges",
    "hard_links",
    "holes",
    "mapping_of_two_processes",
    "new_files_owner",
    "places_in_a_folder",
    "punched_holes",
    "record_locks",
    "rename_flags",
    "set_id_bits",
    "shared_mapping",
    "sticky_folder",
    "supplementary_group",
    "symbolic_links",
    "times",
    "unlinked_but_open",
    "unnamed_file",
    "unnamed_file_for_ever",
];

/// What the cases say in a folder of `image`, bound into a container.
fn results(runtime: &Runtime, image: &Image, name: &str, cases: &[&str]) -> Value {
    let source = image.folder(name);
    if cases.contains(&"large_folder") {
        fill(&source.join("large_folder"));
    }
    let mut args = vec!["/probe", "--files", "/work"];
    args.extend(cases);
    let bundle = Bundle::probe(&[])
        .mount(json!({
            "destination": "/work", "type": "bind", "source": source,
            "options": ["rbind", "rw"]
        }))
        .edit(|config| {
            config["process"]["args"] = json!(args);
            let capabilities = json!([
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_SETGID",
                "CAP_SETUID"
            ]);
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = capabilities.clone();
            }
        });
    let outcome = runtime.run(&bundle);
    outcome.exits(0);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{outcome:?}: {error}"))
}

/// Makes the entries that the case would make from inside, one by one.
fn fill(folder: &Path) {
    let made = fs::create_dir(folder).and_then(|()| {
        (0..10_000).try_for_each(|number| fs::write(folder.join(format!("entry-{number:05}")), ""))
    });
    made.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

/// All must be well, under runc as well: a case that fails there is a wrong case.
#[track_caller]
fn all_well(cases: &[&str]) {
    let image = Image::ext4();
    let expected: Value = cases.iter().map(|&case| (case.to_owned(), json!("ok"))).collect();
    assert_eq!(results(&Runtime::runc(), &image, "oracle", cases), expected, "runc");
    assert_eq!(results(&Runtime::cofferdam(), &image, "ours", cases), expected);
}

#[test]
fn programs_find_what_they_rely_on() {
    all_well(&CASES);
}

#[test]
fn two_thousand_random_operations_leave_what_a_model_has() {
    all_well(&["random_operations"]);
}

#[test]
fn ten_thousand_entries_are_listed_once_each() {
    all_well(&["large_folder"]);
}

#[test]
fn what_is_removed_while_a_folder_is_read_hides_nothing() {
    all_well(&["removed_while_read"]);
}
