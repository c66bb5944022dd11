//! Whether this machine's own KVM can run the microVMs, or the lab has to.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::build::Tree;
use crate::process;

/// What the monitor's probe says of this machine. The words are those of `protocol::probe`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
enum Verdict {
    Fit {},
    Unfit { reason: String },
    Absent { reason: String },
}

/// Why microVMs cannot run here; nothing when they can.
pub(crate) fn obstacle(tree: &Tree) -> Result<Option<String>> {
    let monitor = tree.programs().join("cofferdam-vmm");
    let report = process::output(Command::new(&monitor).arg("probe"))?;
    let verdict = serde_json::from_str(&report)
        .with_context(|| format!("`cofferdam-vmm probe` printed {report:?}"))?;
    Ok(match verdict {
        Verdict::Fit {} => None,
        Verdict::Unfit { reason } | Verdict::Absent { reason } => Some(reason),
    })
}
