//! Which containers share a shim: those of a pod.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

/// By which annotations a container names its group, the stronger first: that of any engine, and
/// that of CRI for a pod's sandbox.
const ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// The name of a container's group: its pod's, or its own. A sandbox that the shim is to make has no
/// configuration yet.
pub(crate) fn of_bundle(bundle: &Path, id: &str) -> io::Result<String> {
    let config = match fs::read(bundle.join("config.json")) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(error) => return Err(error),
    };
    Ok(of_config(&config).unwrap_or(id).to_owned())
}

fn of_config(config: &Value) -> Option<&str> {
    let annotations = config.get("annotations")?;
    ANNOTATIONS
        .iter()
        .filter_map(|name| annotations.get(name)?.as_str())
        .find(|group| !group.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_s_containers_have_the_pod_s_name() {
        let config = json!({ "annotations": { "io.kubernetes.cri.sandbox-id": "pod" } });
        assert_eq!(of_config(&config), Some("pod"));
        assert_eq!(of_config(&json!({ "annotations": {} })), None);
        assert_eq!(of_config(&json!({})), None);
    }

    #[test]
    fn a_sandbox_without_a_configuration_is_a_group_of_its_own() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(of_bundle(bundle.path(), "pod").unwrap(), "pod");
        fs::write(bundle.path().join("config.json"), "{").unwrap();
        assert!(of_bundle(bundle.path(), "pod").is_err());
    }
}
