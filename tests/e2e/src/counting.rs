//! A container that counts, so that a scenario sees whether it goes on where it was.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::{Bundle, Container, Runtime};

/// How long the next two numbers may take, on a processor in software too.
const DEADLINE: Duration = Duration::from_secs(60);

const SCRIPT: &str = "cd /tmp; exec 3>>/count; i=0; \
     while [ ! -e /go ]; do i=$((i+1)); echo $i >&3; sleep 0.1; done; \
     echo over in $(pwd) with $KEPT; exit 7";

/// What it prints in the end.
pub const LAST_WORDS: &str = "over in /tmp with environment\n";

/// Counts in a file that it holds open and in a variable; with the file `go` it says [`LAST_WORDS`]
/// and ends with code 7.
#[must_use]
pub fn bundle() -> Bundle {
    Bundle::script(SCRIPT)
        .edit(|config| config["process"]["env"] = json!(["PATH=/bin", "KEPT=environment"]))
}

/// What it has counted.
#[must_use]
pub fn counts(bundle: &Bundle) -> Vec<u32> {
    let text = fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Waits until it has counted further than it has now.
#[track_caller]
pub fn goes_on(bundle: &Bundle) {
    let (before, end) = (counts(bundle).len(), Instant::now() + DEADLINE);
    while counts(bundle).len() < before + 2 {
        assert!(Instant::now() < end, "it does not count");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Started, and seen counting.
#[must_use]
pub fn started<'a>(runtime: &'a Runtime, bundle: &Bundle) -> Container<'a> {
    let container = runtime.start(bundle);
    goes_on(bundle);
    container
}
