//! `metrics`: the figures of this machine, once or as a server. The server is the one verb that has
//! threads: it makes no child, and so needs to be single-threaded for nobody.

use std::path::PathBuf;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{ListenAddress, MetricsArgs, MetricsFormat};
use crate::commands::{Context, print};
use crate::metrics::server::{self, ListenError, Listener};
use crate::metrics::{Roots, Snapshot, exposition, families};
use crate::state::store::StoreError;

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// A folder of containers that was named is not there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Its end.
    #[error("Cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// The format.
    #[error("The metrics cannot be written")]
    Format(#[from] std::fmt::Error),
    /// The other format.
    #[error("The metrics cannot be written")]
    Json(#[from] serde_json::Error),
    /// Standard output.
    #[error("Cannot write the output")]
    Output(#[source] std::io::Error),
}

pub(super) fn run(context: &Context, args: &MetricsArgs) -> Result<(), MetricsError> {
    let roots = roots(context, &args.also)?;
    match &args.listen {
        Some(address) => listen(address, roots),
        None => {
            let families = families(&Snapshot::take(&roots));
            let text = match args.format {
                MetricsFormat::Text => exposition::text(&families)?,
                MetricsFormat::Json => exposition::json(&families)?,
            };
            print(&text).map_err(MetricsError::Output)
        }
    }
}

/// The root that was named and no other, or ours and those of the engines. One that is named must be
/// there.
fn roots(context: &Context, also: &[PathBuf]) -> Result<Roots, MetricsError> {
    for folder in also {
        crate::state::store::Store::new(folder.clone()).check_root()?;
    }
    let named = [&[context.store.root().to_owned()], also].concat();
    if context.global.root.is_some() {
        context.store.check_root()?;
        return Ok(Roots::named(named));
    }
    Ok(Roots::with_engines(named))
}

fn listen(address: &ListenAddress, roots: Roots) -> Result<(), MetricsError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(MetricsError::Signals)?;
    let listener = Arc::new(match address {
        ListenAddress::Tcp(address) => Listener::tcp(address)?,
        ListenAddress::Unix(path) => Listener::unix(path)?,
    });
    server::serve(&listener, move || exposition::text(&families(&Snapshot::take(&roots))).ok());
    let address = listener.address().map_err(MetricsError::Output)?;
    print(&format!("{address}\n")).map_err(MetricsError::Output)?;
    signals.forever().next();
    listener.remove();
    Ok(())
}
