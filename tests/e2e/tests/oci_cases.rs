//! The project's own cases of the specification, runc being the oracle: `cofferdam_e2e::conformance`.

use std::fs;
use std::path::Path;

use cofferdam_e2e::conformance::{config, config_linux, lifecycle, page};

#[test]
fn a_users_process_is_as_under_the_oracle() {
    config::PROCESS.is_as_under_the_oracle();
}

#[test]
fn a_read_only_root_and_capabilities_are_as_under_the_oracle() {
    config::ROOT_OF_ITS_OWN.is_as_under_the_oracle();
}

#[test]
fn mounts_are_as_under_the_oracle() {
    config::MOUNTS.is_as_under_the_oracle();
}

#[test]
fn namespaces_devices_and_parameters_are_as_under_the_oracle() {
    config_linux::ISOLATION.is_as_under_the_oracle();
}

#[test]
fn users_are_as_under_the_oracle() {
    config_linux::USERS.is_as_under_the_oracle();
}

#[test]
fn restrictions_are_as_under_the_oracle() {
    config_linux::RESTRICTIONS.is_as_under_the_oracle();
}

#[test]
fn life_is_as_under_the_oracle() {
    for behaviour in lifecycle::BEHAVIOURS {
        behaviour.is_as_under_the_oracle();
    }
}

#[test]
fn the_page_lists_every_case() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/oci-cases.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, page()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "{} is out of date: UPDATE=1 writes it anew", path.display());
}
