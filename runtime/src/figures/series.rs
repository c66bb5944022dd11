//! Everything that is counted, by name. The sets are closed: what a series is called is decided here
//! and nowhere else, so that there is a known number of them and nobody's words among them.

use crate::kind::SandboxKind;

/// Makes an enum of unit variants with a name for each, and the list of all.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$of])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in labels.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

names!(
    /// A phase of a container's start.
    Phase {
        /// The configuration is read and checked, and the isolation decided.
        Check = "check",
        /// The sandbox is made with the container in it, the guest's boot included.
        Sandbox = "sandbox",
        /// Of that, in a microVM: the monitor shuts itself into its jail.
        BootJail = "boot_jail",
        /// The machine is made and the kernel loaded.
        BootLoad = "boot_load",
        /// The kernel, from its first instruction to its first device.
        BootKernel = "boot_kernel",
        /// From there to an agent that is ready.
        BootDevices = "boot_devices",
        /// `start`.
        Start = "start",
    }
);

names!(
    /// A call of the guest's agent that is waited for.
    AgentMethod {
        /// Makes a container.
        CreateContainer = "CreateContainer",
        /// Lets its program run.
        StartContainer = "StartContainer",
        /// One more process.
        Exec = "Exec",
        /// A signal.
        Signal = "Signal",
        /// The processes.
        ListProcesses = "ListProcesses",
        /// Freezes or thaws.
        FreezeContainer = "FreezeContainer",
        /// Limits.
        UpdateContainer = "UpdateContainer",
        /// Statistics.
        ReadCgroup = "ReadCgroup",
        /// Memory and processors.
        ResizeMachine = "ResizeMachine",
        /// A terminal's size.
        ResizeTerminal = "ResizeTerminal",
        /// A network interface.
        AddInterface = "AddInterface",
        /// Takes a disk into use.
        AddDisk = "AddDisk",
        /// Gives one back.
        RemoveDisk = "RemoveDisk",
        /// A network interface.
        ChangeInterface = "ChangeInterface",
        /// A network interface.
        RemoveInterface = "RemoveInterface",
        /// Any other.
        Other = "other",
    }
);

impl AgentMethod {
    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let named = Self::ALL.iter().find(|method| method.name() == name);
        named.copied().unwrap_or(Self::Other)
    }
}

names!(
    /// A verb whose failures are counted.
    FailedVerb {
        /// `create`.
        Create = "create",
        /// `start`.
        Start = "start",
        /// `run`.
        Run = "run",
        /// `exec`.
        Exec = "exec",
        /// `kill`.
        Kill = "kill",
        /// `delete`.
        Delete = "delete",
        /// `pause` and `resume`.
        Freeze = "freeze",
        /// `checkpoint`.
        Checkpoint = "checkpoint",
        /// `restore`.
        Restore = "restore",
        /// `update`.
        Update = "update",
    }
);

names!(
    /// Why a verb failed.
    FailureReason {
        /// The command line, or the operator's configuration.
        Usage = "usage",
        /// The bundle cannot be found or read.
        Bundle = "bundle",
        /// `config.json` is wrong, or says what cannot be done.
        Spec = "spec",
        /// No isolation that everyone accepts, KVM that is not fit among the causes.
        Isolation = "isolation",
        /// There is no such container, or one of that name.
        Container = "container",
        /// The container's status does not allow it.
        Status = "status",
        /// Another command holds the container.
        Busy = "busy",
        /// A file of the state.
        State = "state",
        /// The pod.
        Pod = "pod",
        /// A hook.
        Hook = "hook",
        /// The program is not there or cannot be executed.
        Program = "program",
        /// The files that a microVM is made of, or KVM.
        Machine = "machine",
        /// The guest did not come up.
        Boot = "boot",
        /// The guest's agent refused, or did not answer.
        Guest = "guest",
        /// The network.
        Network = "network",
        /// A control group.
        Cgroup = "cgroup",
        /// The terminal, or a descriptor that is handed over.
        Terminal = "terminal",
        /// Told to stop.
        Interrupted = "interrupted",
        /// Anything else in the kind of sandbox.
        Sandbox = "sandbox",
        /// Anything else of the host.
        Host = "host",
    }
);

names!(
    /// How a microVM ended.
    Ending {
        /// The container's first process ended.
        Exited = "exited",
        /// It ended after the guest had run out of memory.
        OutOfMemory = "out_of_memory",
        /// The guest broke down.
        GuestLost = "guest_lost",
        /// The monitor was killed, be it by `kill` or `delete`.
        Killed = "killed",
    }
);

names!(
    /// What became of a change of a container's network after its start.
    NetworkOutcome {
        /// The guest has an interface more.
        Added = "added",
        /// An interface of the guest's is another.
        Changed = "changed",
        /// The guest has an interface less.
        Removed = "removed",
        /// It was not followed.
        Failed = "failed",
    }
);

/// Something that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// A phase of a start, in this kind of sandbox.
    Phase(SandboxKind, Phase),
    /// A call of the agent.
    Agent(AgentMethod),
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// A verb failed.
    Failure(FailedVerb, FailureReason),
    /// A container came back.
    Restart(SandboxKind),
    /// A microVM ended.
    End(Ending),
    /// The network of a microVM's container changed.
    Network(NetworkOutcome),
}

/// Both kinds of sandbox, in the order of the figures.
pub const KINDS: [SandboxKind; 2] = [SandboxKind::Microvm, SandboxKind::Namespace];

impl Timed {
    /// Every one, in the order of the file.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_kind = |kind| Phase::ALL.iter().map(move |phase| Self::Phase(kind, *phase));
        let methods = AgentMethod::ALL.iter().map(|method| Self::Agent(*method));
        KINDS.into_iter().flat_map(of_kind).chain(methods)
    }
}

impl Counted {
    /// Every one, in the order of the file.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_verb =
            |verb| FailureReason::ALL.iter().map(move |reason| Self::Failure(verb, *reason));
        let failures = FailedVerb::ALL.iter().flat_map(move |verb| of_verb(*verb));
        let ends = Ending::ALL.iter().map(|ending| Self::End(*ending));
        let network = NetworkOutcome::ALL.iter().map(|outcome| Self::Network(*outcome));
        failures.chain(KINDS.map(Self::Restart)).chain(ends).chain(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_a_series_of_its_own_is_counted_with_the_others() {
        assert_eq!(AgentMethod::named("Exec"), AgentMethod::Exec);
        assert_eq!(AgentMethod::named("Reawaken"), AgentMethod::Other);
        assert_eq!(AgentMethod::named("guest\"} 1"), AgentMethod::Other);
    }
}
