//! The five capability sets.

use cofferdam_protocol::plan::CapabilityPlan;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::failure::{StartError, Step};

/// Cuts the bounding set. Before the user changes: it takes `CAP_SETPCAP`.
///
/// A capability of the plan that this kernel does not know is an error: the kernel itself would
/// drop it silently.
pub(crate) fn limit(plan: &CapabilityPlan) -> Result<(), StartError> {
    let wanted = plan.bounding | plan.effective | plan.permitted | plan.inheritable | plan.ambient;
    for number in 0..u64::BITS {
        let bit = 1 << number;
        let capability = CapabilitySet::from_bits_retain(bit);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if plan.bounding & bit == 0 => {
                let removed = remove_capability_from_bounding_set(capability);
                removed.step(|| format!("dropping capability {number} from the bounding set"))?;
            }
            Ok(_) => {}
            Err(error) if wanted >> number != 0 => {
                let unknown = 63 - wanted.leading_zeros();
                return Err(error).step(|| {
                    format!("granting capability {unknown}, which the guest's kernel lacks")
                });
            }
            // The first one that the kernel does not know: nor those after it.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Sets the other four. After the user has changed, with the capabilities kept.
pub(crate) fn set(plan: &CapabilityPlan) -> Result<(), StartError> {
    clear_ambient_capability_set().step(|| "clearing the ambient capabilities".to_owned())?;
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(plan.effective),
        permitted: CapabilitySet::from_bits_retain(plan.permitted),
        inheritable: CapabilitySet::from_bits_retain(plan.inheritable),
    };
    set_capabilities(None, sets).step(|| "setting the capabilities".to_owned())?;
    // A capability is ambient only while it is permitted and inheritable: capabilities(7). The
    // configuration that `runc spec` writes lists ambient ones that are not; with runc as well
    // they have no effect.
    let ambient = plan.ambient & plan.permitted & plan.inheritable;
    for number in (0..u64::BITS).filter(|number| ambient & (1 << number) != 0) {
        raise_ambient(1 << number).step(|| format!("raising ambient capability {number}"))?;
    }
    Ok(())
}

fn raise_ambient(bit: u64) -> Result<(), Errno> {
    configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(bit), true)
}
