//! `process`: the container's first process, and with `exec` any other.

use super::Treatment::{Both, Guest, Host, Refused, Void, Where};
use super::{Field, NO_SECURITY_MODULE, OTHER_PLATFORM, field};

const NO_SELINUX: &str = "SELinux labels are not supported";
const NO_APPARMOR: &str = "AppArmor is not enabled on this host";
const WINDOWS_USER: &str = "a user of Linux is a number; the name is for Windows";

pub(super) const FIELDS: &[Field] = &[
    field("process.terminal", Guest, Host),
    field("process.consoleSize.height", Guest, Host),
    field("process.consoleSize.width", Guest, Host),
    field("process.user.uid", Guest, Host),
    field("process.user.gid", Guest, Host),
    field("process.user.umask", Guest, Host),
    field("process.user.additionalGids", Guest, Host),
    field("process.user.username", Void(WINDOWS_USER), Void(WINDOWS_USER)),
    field("process.args", Guest, Host),
    field("process.commandLine", Refused(OTHER_PLATFORM), Refused("another platform")),
    field("process.env", Guest, Host),
    field("process.cwd", Guest, Host),
    field("process.capabilities.bounding", Guest, Host),
    field("process.capabilities.effective", Guest, Host),
    field("process.capabilities.inheritable", Guest, Host),
    field("process.capabilities.permitted", Guest, Host),
    field("process.capabilities.ambient", Guest, Host),
    field("process.rlimits[].type", Guest, Host),
    field("process.rlimits[].soft", Guest, Host),
    field("process.rlimits[].hard", Guest, Host),
    field("process.noNewPrivileges", Guest, Host),
    field("process.apparmorProfile", Refused(NO_SECURITY_MODULE), Where(NO_APPARMOR)),
    field("process.oomScoreAdj", Both, Host),
    field("process.selinuxLabel", Refused(NO_SECURITY_MODULE), Refused(NO_SELINUX)),
    field("process.ioPriority.class", Guest, Host),
    field("process.ioPriority.priority", Guest, Host),
    field("process.scheduler.policy", Guest, Host),
    field("process.scheduler.nice", Guest, Host),
    field("process.scheduler.priority", Guest, Host),
    field("process.scheduler.flags", Guest, Host),
    field("process.scheduler.runtime", Guest, Host),
    field("process.scheduler.deadline", Guest, Host),
    field("process.scheduler.period", Guest, Host),
    field("process.execCPUAffinity.initial", Guest, Host),
    field("process.execCPUAffinity.final", Guest, Host),
];
