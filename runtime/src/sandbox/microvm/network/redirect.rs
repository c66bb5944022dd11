//! What comes in at one interface goes out at another, before the host's own network sees it:
//! `tc qdisc add dev A ingress`, `tc filter add dev A ingress matchall action mirred egress redirect
//! dev B`.

use std::fs::File;
use std::io;

use cofferdam_protocol::netlink::numbers::{
    CREATE, DELETE_DISCIPLINE, DELETE_FILTER, EXCLUSIVE, GET_DISCIPLINE, NEW_DISCIPLINE, NEW_FILTER,
};
use cofferdam_protocol::netlink::{Message, Netlink, NetlinkError};

const TCM_BYTES: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_MATCHALL_ACT: u16 = 2;
/// The first of a filter's actions.
const FIRST: u16 = 1;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

const INGRESS_HANDLE: u32 = 0xffff_0000;
const INGRESS_PARENT: u32 = 0xffff_fff1;
/// Of the filters of `ingress` and `clsact` alike.
const FILTER_PARENT: u32 = 0xffff_fff2;
/// Late, so that what somebody else filters there comes first; and by which ours are known.
const PRIORITY: u32 = 0xfff0;
const FILTER_HANDLE: u32 = 1;
/// `ETH_P_ALL` in network order.
const EVERY_PROTOCOL: u32 = 0x0300;

const STOLEN: u32 = 4;
const EGRESS_REDIRECT: u32 = 1;

/// Whether somebody has put a discipline on what comes in at an interface.
pub(super) fn has_discipline(kernel: &mut Netlink<File>, index: u32) -> Result<bool, NetlinkError> {
    let all = kernel.dump(GET_DISCIPLINE, &header(0, 0, 0, 0))?;
    Ok(all.iter().any(|answer| {
        let of = answer.fixed::<TCM_BYTES>().map(|fixed| [fixed[4], fixed[5], fixed[6], fixed[7]]);
        let mut kinds = answer.attributes(TCM_BYTES).filter(|(kind, _)| *kind == TCA_KIND);
        of == Some(index.to_le_bytes())
            && kinds.any(|(_, name)| name == b"ingress\0" || name == b"clsact\0")
    }))
}

/// Puts a discipline there.
pub(super) fn add_discipline(kernel: &mut Netlink<File>, index: u32) -> Result<(), NetlinkError> {
    let fixed = header(index, INGRESS_HANDLE, INGRESS_PARENT, 0);
    kernel
        .request(Message::new(NEW_DISCIPLINE, CREATE | EXCLUSIVE, &fixed).name(TCA_KIND, "ingress"))
}

/// Sends everything on.
pub(super) fn add_filter(
    kernel: &mut Netlink<File>,
    from: u32,
    to: u32,
) -> Result<(), NetlinkError> {
    let action = |message: Message| {
        message
            .name(TCA_ACT_KIND, "mirred")
            .nested(TCA_ACT_OPTIONS, |options| options.attribute(TCA_MIRRED_PARMS, &mirred(to)))
    };
    let options = |message: Message| {
        message.nested(TCA_MATCHALL_ACT, |actions| actions.nested(FIRST, action))
    };
    let message = Message::new(NEW_FILTER, CREATE | EXCLUSIVE, &filter(from))
        .name(TCA_KIND, "matchall")
        .nested(TCA_OPTIONS, options);
    kernel.request(message)
}

/// Takes the filter away again, and the discipline if it is ours. What is gone is no error.
pub(super) fn remove(
    kernel: &mut Netlink<File>,
    index: u32,
    own_discipline: bool,
) -> Result<(), NetlinkError> {
    let message = if own_discipline {
        let fixed = header(index, INGRESS_HANDLE, INGRESS_PARENT, 0);
        Message::new(DELETE_DISCIPLINE, 0, &fixed)
    } else {
        Message::new(DELETE_FILTER, 0, &filter(index)).name(TCA_KIND, "matchall")
    };
    match kernel.request(message) {
        Err(error) if is_gone(&error) => Ok(()),
        done => done,
    }
}

/// No interface, no discipline, no filter.
fn is_gone(error: &NetlinkError) -> bool {
    let NetlinkError::Refused(error) = error else { return false };
    let number = error.raw_os_error();
    error.kind() == io::ErrorKind::NotFound
        || [nix::libc::ENODEV, nix::libc::EINVAL].map(Some).contains(&number)
}

fn filter(index: u32) -> [u8; TCM_BYTES] {
    header(index, FILTER_HANDLE, FILTER_PARENT, PRIORITY << 16 | EVERY_PROTOCOL)
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; TCM_BYTES] {
    let mut bytes = [0; TCM_BYTES];
    for (place, value) in bytes[4..].chunks_exact_mut(4).zip([index, handle, parent, info]) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// `struct tc_mirred`.
fn mirred(to: u32) -> [u8; 28] {
    let mut bytes = [0; 28];
    for (place, value) in bytes.chunks_exact_mut(4).zip([0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to]) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}
