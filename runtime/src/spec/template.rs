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

/// The same for a microVM: its network is its guest's, and so is what `/sys` shows.
#[must_use]
pub fn rootless_in_microvm(uid: u32, gid: u32) -> String {
    let of_the_host = "\"type\": \"none\",\n\t\t\t\"source\": \"/sys\",\n\t\t\t\"options\": [\n\t\t\t\t\"rbind\",";
    let of_the_guest = "\"type\": \"sysfs\",\n\t\t\t\"source\": \"sysfs\",\n\t\t\t\"options\": [";
    let users = "\"type\": \"user\"\n\t\t\t}";
    let network = ",\n\t\t\t{\n\t\t\t\t\"type\": \"network\"\n\t\t\t}";
    rootless(uid, gid)
        .replace(of_the_host, of_the_guest)
        .replace(users, &format!("{users}{network}"))
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
    fn the_rootless_one_for_a_microvm_can_be_run_in_one() {
        let spec = |text: &str| serde_json::from_str::<Spec>(text).unwrap();
        assert_eq!(crate::plan::unsupported(&spec(&rootless_in_microvm(1000, 1000))), []);
        assert!(!rootless_in_microvm(1000, 1000).contains("rbind"));
        assert_ne!(crate::plan::unsupported(&spec(&rootless(1000, 1000))), []);
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
