//! `/init` of the guest.

use std::convert::Infallible;
use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use cofferdam_agent::boot;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        let _ = writeln!(io::stderr(), "cofferdam-agent is the first process of a guest");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Err(error) = match runtime {
        Ok(runtime) => runtime.block_on(boot::run()).map_err(Into::into),
        Err(error) => Err::<Infallible, Box<dyn Error>>(error.into()),
    };
    lament(error.as_ref());
    // The console is slow: what was said must be out before the machine stops.
    std::thread::sleep(Duration::from_millis(10));
    let Err(error) = boot::power_off();
    lament(&error);
    ExitCode::FAILURE
}

/// The last words, with all causes in one line. To the kernel's log, which its console shows.
fn lament(error: &dyn Error) {
    let mut text = format!("cofferdam-agent: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    // 2: critical, shown by a quiet console too.
    let log = OpenOptions::new().write(true).open("/dev/kmsg");
    let said = log.and_then(|mut log| log.write_all(format!("<2>{text}\n").as_bytes()));
    if said.is_err() {
        // There is nowhere else to say it.
        let _ = writeln!(io::stderr(), "{text}");
    }
}
