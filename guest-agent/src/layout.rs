//! Where the agent keeps what it works on.

use cofferdam_protocol::plan::ContainerPlan;

/// Folders of the guest.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The host's shares, by their index.
    pub shares: String,
    /// An empty folder on a file system of the guest's own: each container mounts its root there,
    /// in its own mount namespace.
    pub scratch: String,
    /// The cgroup v2 tree: each container has a group in it.
    pub cgroups: String,
}

impl Layout {
    /// The folder with a container's shares, each by its index.
    #[must_use]
    pub fn shares_of(&self, plan: &ContainerPlan) -> String {
        match &plan.pod {
            Some(pod) => format!("{}/{}", self.shares, pod.place.shares()),
            None => self.shares.clone(),
        }
    }

    /// The guest's.
    #[must_use]
    pub fn of_guest() -> Self {
        Self {
            shares: "/run/share".to_owned(),
            scratch: "/run/root".to_owned(),
            cgroups: "/sys/fs/cgroup".to_owned(),
        }
    }
}
