//! What a container's configuration says about watching it, and the watch for a lack of memory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::reaper::Reaper;
use crate::runtime::Runtime;

/// Nobody asks for statistics here, and they cannot be turned off.
const NEVER: &str = "8760h";

/// Watches a container, until it is dropped or the container ends.
#[derive(Debug)]
pub(crate) struct OutOfMemory {
    reaper: Arc<Reaper>,
    /// `events`, which ends by itself with the container.
    pid: i32,
}

impl OutOfMemory {
    /// Calls whenever the kernel ends a process of a container for its memory limit. None: it has no
    /// limit of its own, or cannot be watched.
    pub(crate) fn watch(
        runtime: &Runtime,
        reaper: &Arc<Reaper>,
        id: &str,
        bundle: &Path,
        tell: impl Fn() + Send + 'static,
    ) -> Option<Self> {
        if !has_memory_limit(&config(bundle)) {
            return None;
        }
        let mut command = runtime.command(&["events", "--interval", NEVER, id]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let expectation = reaper.expect();
        let mut events = command.spawn().ok()?;
        let pid = events.id().cast_signed();
        // Nobody asks how it ended; until it has, its number is its own.
        drop(expectation.claim(pid));
        let watch = Self { reaper: reaper.clone(), pid };
        let output = BufReader::new(events.stdout.take()?);
        let lines = move || {
            output
                .lines()
                .map_while(Result::ok)
                .filter(|line| is_out_of_memory(line))
                .for_each(|_| tell());
        };
        std::thread::Builder::new().name("oom".to_owned()).spawn(lines).ok()?;
        Some(watch)
    }
}

impl Drop for OutOfMemory {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.reaper.signal(self.pid, Signal::SIGKILL);
    }
}

/// Whether a container's other processes end with its first one.
pub(crate) fn has_own_processes(bundle: &Path) -> bool {
    namespaces_own_processes(&config(bundle))
}

fn config(bundle: &Path) -> Value {
    let text = fs::read(bundle.join("config.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn namespaces_own_processes(config: &Value) -> bool {
    let namespaces = config.pointer("/linux/namespaces").and_then(Value::as_array);
    namespaces.into_iter().flatten().any(|one| one["type"] == "pid" && one.get("path").is_none())
}

fn has_memory_limit(config: &Value) -> bool {
    let limit = config.pointer("/linux/resources/memory/limit").and_then(Value::as_i64);
    limit.is_some_and(|limit| limit > 0)
}

fn is_out_of_memory(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|event| event["type"] == "oom")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_with_a_process_namespace_of_another_s_has_none_of_its_own() {
        let config = |one: Value| json!({ "linux": { "namespaces": [one] } });
        assert!(namespaces_own_processes(&config(json!({ "type": "pid" }))));
        assert!(!namespaces_own_processes(&config(json!({ "type": "pid", "path": "/p" }))));
        assert!(!namespaces_own_processes(&config(json!({ "type": "ipc" }))));
    }

    #[test]
    fn only_a_limit_can_be_run_into() {
        let config =
            |limit: i64| json!({ "linux": { "resources": { "memory": { "limit": limit }}}});
        assert!(has_memory_limit(&config(1 << 20)));
        assert!(!has_memory_limit(&config(-1)));
        assert!(!has_memory_limit(&json!({})));
        assert!(is_out_of_memory("{\"type\":\"oom\",\"id\":\"a\"}"));
        assert!(!is_out_of_memory("{\"type\":\"stats\"}"));
    }
}
