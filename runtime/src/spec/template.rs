//! The starter configuration that `spec` writes: the same container as runc's, under our name.

/// The version of the specification that the template is written for.
pub const OCI_VERSION: &str = "1.2.0";

/// For root.
pub const ROOTFUL: &str = include_str!("template.json");

const ROOTLESS: &str = include_str!("template-rootless.json");

/// For a user without privileges: a user namespace in which that user is root, the host's network
/// (with the host's sysfs, which belongs to it), terminals without a group, and no limits (whose
/// cgroups are not the user's).
#[must_use]
pub fn rootless(uid: u32, gid: u32) -> String {
    ROOTLESS.replace("@UID@", &uid.to_string()).replace("@GID@", &gid.to_string())
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Spec;

    use super::*;

    #[test]
    fn both_templates_pass_the_rules_and_are_of_the_version_named() {
        for document in [ROOTFUL, &rootless(1000, 1000)] {
            let spec: Spec = serde_json::from_str(document).unwrap();
            crate::spec::rules::check(&spec).unwrap();
            assert_eq!(spec.version(), OCI_VERSION);
        }
    }

    #[test]
    fn the_rootless_one_asks_for_nothing_that_needs_root() {
        let text = rootless(1000, 100);
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["linux"]["uidMappings"][0]["hostID"], 1000);
        assert_eq!(document["linux"]["gidMappings"][0]["hostID"], 100);
        assert!(!text.contains("gid=5"));
        assert!(!text.contains("resources"));
        assert!(!text.contains("\"network\""));
    }
}
