//! `features`: what this runtime supports, as the OCI features document. Fixed: it is about this
//! program, not about the machine (that is `doctor`).

use std::io;

use crate::commands::print;

/// What either kind of sandbox honours.
const DOCUMENT: &str = include_str!("features.json");

pub(super) fn run() -> io::Result<()> {
    print(&DOCUMENT.replace("@VERSION@", env!("CARGO_PKG_VERSION")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_of_features() {
        let features: oci_spec::runtime::Features = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(features.oci_version_min(), "1.0.0");
    }
}
