//! `linux.resources.memory.checkBeforeUpdate`: v2 takes a limit below what is used, and kills.

use oci_spec::runtime::LinuxResources;

/// Less than is used, where that was not to be. The words are runc's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rejecting {what} limit {limit} <= usage {usage}")]
pub struct BelowUsage {
    what: &'static str,
    limit: u64,
    usage: u64,
}

/// Whether the limits have to be compared with what is used.
#[must_use]
pub fn is_to_be_checked(wanted: &LinuxResources) -> bool {
    let memory = wanted.memory().unwrap_or_default();
    memory.check_before_update() == Some(true)
}

/// Compares the limits with what is used, in bytes.
///
/// # Errors
/// For a limit that is not above.
pub fn check(wanted: &LinuxResources, usage: u64) -> Result<(), BelowUsage> {
    let memory = wanted.memory().unwrap_or_default();
    for (what, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
        let limit = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        if let Some(limit) = limit.filter(|limit| *limit <= usage) {
            return Err(BelowUsage { what, limit, usage });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(memory: &str, usage: u64) -> Result<(), String> {
        let wanted = serde_json::from_str(&format!(r#"{{"memory":{memory}}}"#)).unwrap();
        check(&wanted, usage).map_err(|refused| refused.to_string())
    }

    #[test]
    fn a_limit_that_is_not_above_what_is_used_is_named() {
        let memory = r#"{"limit":1024}"#;
        assert_eq!(checked(memory, 1024), Err("rejecting memory limit 1024 <= usage 1024".into()));
        assert_eq!(checked(memory, 1023), Ok(()));
        let both = r#"{"limit":1024,"swap":2048}"#;
        let swap = "rejecting memory+swap limit 2048 <= usage 4096";
        assert_eq!(checked(both, 4096), Err(swap.into()));
    }

    #[test]
    fn no_limit_is_above_everything() {
        assert_eq!(checked(r#"{"limit":-1,"swap":0}"#, u64::MAX), Ok(()));
    }
}
