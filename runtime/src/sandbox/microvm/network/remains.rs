//! What is to be taken away of a namespace once its machine has ended, and its taps with it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use super::guest::Guest;
use super::record::NetworkRecord;
use super::{NetworkError, changing, enter, path, redirect};
use crate::host::log::with_causes;
use crate::host::network_namespace::{self, NetworkNamespace};
use crate::host::process::ProcessIdentity;

/// The namespace of a monitor that may live. To be called before it is ended: a namespace that
/// nobody else keeps goes with it.
pub(in super::super) fn of_live(monitor: Option<ProcessIdentity>) -> Option<NetworkNamespace> {
    monitor.and_then(|process| NetworkNamespace::of_process(process.pid).ok())
}

/// What there is to take away.
#[derive(Debug)]
pub(in super::super) struct Remains {
    namespace: NetworkNamespace,
    record: NetworkRecord,
}

impl Remains {
    /// What there is, in the namespace that the monitor had or the one that the configuration
    /// names. To be called when nobody adds to it any more.
    pub(in super::super) fn find(
        state_folder: &Path,
        of_monitor: Option<NetworkNamespace>,
        spec: impl FnOnce() -> Option<Spec>,
    ) -> Result<Option<Self>, NetworkError> {
        let record = NetworkRecord::find(state_folder)?;
        if record.attached.is_empty() {
            return Ok(None);
        }
        let is_it = |found: &NetworkNamespace| Some(found.id()) == record.namespace;
        let of_path = || NetworkNamespace::open(&path(&spec()?)?).ok();
        let namespace = of_monitor.filter(is_it).or_else(|| of_path().filter(is_it));
        Ok(namespace.map(|namespace| Self { namespace, record }))
    }

    /// Takes it away.
    pub(in super::super) fn remove(self) -> Result<(), NetworkError> {
        enter(&self.namespace, || {
            let mut kernel = network_namespace::netlink().map_err(NetworkError::Enter)?;
            for attached in &self.record.attached {
                redirect::remove(&mut kernel, attached.index, attached.own_discipline)
                    .map_err(changing("what is left"))?;
            }
            Ok(())
        })
    }
}

/// A network that is taken away when this is dropped before its release.
#[derive(Debug, Default)]
pub(in super::super) struct Connected {
    made: Option<(PathBuf, NetworkNamespace)>,
}

impl Connected {
    /// What [`Guest::follow`] makes from now on.
    pub(in super::super) fn by(guest: Guest<'_>) -> Self {
        Self { made: Some((guest.state_folder.to_owned(), guest.namespace)) }
    }

    /// Lets it stay.
    pub(in super::super) fn release(mut self) {
        self.made = None;
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Some((state_folder, namespace)) = self.made.take() else { return };
        let remains = Remains::find(&state_folder, Some(namespace), || None);
        if let Err(error) = remains.and_then(|remains| remains.map_or(Ok(()), Remains::remove)) {
            tracing::warn!("{}", with_causes(&error));
        }
    }
}
