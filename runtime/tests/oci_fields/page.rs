//! `docs/oci.md` as text.

use std::fmt::Write as _;

use cofferdam::spec::fields::{FIELDS, Field, Treatment, VALUES};

const HEAD: &str = "\
# The OCI runtime specification, field by field

Made from `runtime/src/spec/fields.rs` by a test, which also gives both modes a configuration with
every field set and compares what they refuse: `UPDATE=1 cargo nextest run -p cofferdam --test
oci_fields` writes this page anew. The fields are those of version 1.3 of the specification for
Linux; all of them are read from configurations of version 1.0 on.

- **guest**: the agent, or the guest's own kernel, does it.
- **host**: the runtime, the monitor, or the host's kernel does it.
- **nothing to do**: it holds without anyone's doing, for the reason given.
- **refused**: `create` fails with the field's path and the reason. With `isolation = auto` what only a
  microVM refuses makes the container run in namespaces, with a warning.

Invalid values are refused in either mode before anything is created: see
`runtime/src/spec/rules.rs`. The sections `solaris`, `windows`, `vm` and `zos` are refused as a whole:
they are for other systems, or say what the operator's configuration says here. Properties that the
specification does not know are ignored, as it demands.

What the public test suites say of both modes, and which of their cases cannot pass in a microVM, each
with its reason, is in [conformance.md](conformance.md#microvm-mode). What the project's
own cases find, with runc as the oracle, is in [oci-cases.md](oci-cases.md).
";

const VALUES_HEAD: &str = "
## Values that differ

Where a value is treated otherwise than the rest of its field.

| field | value | microVM | namespaces |
|---|---|---|---|
";

const SOURCES: &str = "
What a bind mount's source is decides as well, in a microVM: folders, files, and those character
devices that every kernel has (`/dev/null`, `/dev/fuse`, terminals and their like) are shared; a
socket, a named pipe, a disk, or a device that only the host has is refused by name, because what is
behind it is in the host's kernel. A tree of mounts that is bound with `rbind` and `ro` is read-only to
its last mount in a microVM, as with `rro`: a guest sees it as one. Processors in
`process.execCPUAffinity` are the guest's own, from 0 on; those in `linux.resources.cpu.cpus` and the
nodes in `mems` and `linux.memoryPolicy` are the host's.

What the mount that a source is on forbids (`ro`, `nosuid`, `nodev`, `noexec`, `nosymfollow`) holds for
the bind mount in a microVM, unless the option that allows it is named; runc, and namespace mode with it,
gives all of these up as soon as one option is named. `rw` makes writable what is read-only on the host, but for a
container with a user namespace.

A process with `CAP_MKNOD` in a microVM makes device nodes as under runc, and opens those that
`linux.resources.devices` allows. On the root file system and on bind mounts, which are the host's files, an empty
file with the attribute `user.cofferdam.device` stands in for each: no guest leaves a node on the host, and a container in
namespaces finds the file. Where the file system has no such attributes (a `tmpfs` of the host before Linux 6.6) `mknod` of a device is
`EPERM`. Nodes that are there already, and those in `linux.devices`, are the guest's devices inside.

A block device in `linux.devices` (`docker run --device /dev/sdb:/dev/xvdb`, a raw volume of Kubernetes') is a disk of the
guest's, which the monitor serves (virtio-blk). The host's number is looked up in `/sys/dev/block`; in the guest it has
another, `lsblk` calls it `vda`, and what `linux.resources.devices` says of the host's number holds for that. A disk that the
rules do not let be written to is opened by the monitor for reading only, so that no guest can. What was flushed is on the
host's disk. At most 8 for each microVM; of those that containers bring into a pod which runs, 4. Containers of a pod that
name the same disk share it, writable for all or for none. A microVM with disks is not saved. While a disk does not answer
when it is attached, the guest's agent waits for it.
";

/// The page.
pub(crate) fn render() -> String {
    let mut page = HEAD.to_owned();
    let mut section = "";
    for field in FIELDS.into_iter().flatten() {
        let name = section_of(field);
        if name != section {
            write!(page, "\n## {name}\n\n| field | microVM | namespaces |\n|---|---|---|\n")
                .unwrap();
            section = name;
        }
        let (microvm, namespace) = (words(field.microvm), words(field.namespace));
        writeln!(page, "| `{}` | {microvm} | {namespace} |", field.path).unwrap();
    }
    page.push_str(VALUES_HEAD);
    for value in VALUES {
        let (microvm, namespace) = (words(value.microvm), words(value.namespace));
        writeln!(page, "| `{}` | {} | {microvm} | {namespace} |", value.path, value.value).unwrap();
    }
    page.push_str(SOURCES);
    page
}

fn section_of(field: &Field) -> &'static str {
    const SECTIONS: [(&str, &str); 5] = [
        ("process.", "process"),
        ("hooks.", "hooks"),
        ("mounts[]", "mounts"),
        ("linux.resources.", "linux.resources"),
        ("linux.", "linux"),
    ];
    let found = SECTIONS.into_iter().find(|(prefix, _)| field.path.starts_with(prefix));
    found.map_or("The container", |(_, name)| name)
}

fn words(treatment: Treatment) -> String {
    match treatment {
        Treatment::Guest => "guest".to_owned(),
        Treatment::Host => "host".to_owned(),
        Treatment::Both => "guest and host".to_owned(),
        Treatment::Void(why) => format!("nothing to do: {why}"),
        Treatment::Where(otherwise) => format!("host, or refused: {otherwise}"),
        Treatment::Refused(why) => format!("refused: {why}"),
    }
}
