//! The flags of `metrics`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

/// `metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// How to print them: as Prometheus reads them, or as JSON
    #[arg(long, short, value_enum, default_value_t, conflicts_with = "listen")]
    pub format: MetricsFormat,
    /// Serve them over HTTP at /metrics: HOST:PORT, or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<ListenAddress>,
    /// One more folder of containers to look into; can be repeated [default: those of all engines]
    #[arg(long, value_name = "DIR")]
    pub also: Vec<PathBuf>,
}

/// Prometheus' format or JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MetricsFormat {
    /// OpenMetrics.
    #[default]
    Text,
    /// For other programs.
    Json,
}

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address, to be resolved.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.to_owned()),
        })
    }
}
