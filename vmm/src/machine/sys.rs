//! The system calls on guest memory and KVM that the compiler cannot check.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd};

use cofferdam_virtio::mmio::RegisterPages;
use kvm_bindings::{KVM_MEM_READONLY, kvm_irqchip, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Address as _, GuestMemory as _, GuestMemoryRegion as _, MmapRegion};

use super::memory::{Memory, host_address};

/// Takes `/dev/kvm` over from its descriptor.
pub(super) fn kvm_from(descriptor: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is owned and open, and its ownership moves into the result. Whether
    // it is /dev/kvm is found out by the first ioctl, which fails on anything else.
    unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) }
}

/// The request of `KVM_GET_STATS_FD`: `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;

/// The file of a vCPU's statistics; it lives longer than the vCPU's own descriptor.
pub(super) fn statistics_of(vcpu: &VcpuFd) -> io::Result<OwnedFd> {
    // SAFETY: the request has no argument and touches no memory of this process; it fails on a
    // kernel that does not know it.
    let descriptor = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_GET_STATS_FD as _) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made the descriptor, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Gives the first regions of guest memory to the VM, one slot for each.
pub(super) fn register_memory(
    vm: &VmFd,
    memory: &Memory,
    regions: usize,
) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in memory.iter().take(regions).enumerate() {
        let description = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the region is mapped for its whole length, and stays so: the caller keeps
        // `memory` as long as the VM (both live as long as the process). Slots do not overlap,
        // since the regions of a `GuestMemoryMmap` do not.
        unsafe { vm.set_user_memory_region(description) }?;
    }
    Ok(())
}

/// Gives a part of guest memory to the VM, in a slot of its own.
///
/// `memory` must live as long as the VM.
pub(super) fn add_memory(
    vm: &VmFd,
    slot: u32,
    address: u64,
    bytes: u64,
    memory: &Memory,
) -> Result<(), kvm_ioctls::Error> {
    let invalid = |_| kvm_ioctls::Error::new(libc::EINVAL);
    let host = host_address(memory, address, bytes).map_err(invalid)?;
    let description = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: address,
        memory_size: bytes,
        userspace_addr: host as u64,
    };
    // SAFETY: `bytes` bytes are mapped there, in one region of `memory`, which lives as long as the
    // VM (both live as long as the process). KVM refuses a slot that overlaps another.
    unsafe { vm.set_user_memory_region(description) }
}

/// Gives register pages to the VM, for reading.
///
/// `pages` must live as long as the VM.
pub(super) fn add_registers(
    vm: &VmFd,
    slot: u32,
    address: u64,
    pages: &RegisterPages,
) -> Result<(), kvm_ioctls::Error> {
    let description = kvm_userspace_memory_region {
        slot,
        flags: KVM_MEM_READONLY,
        guest_phys_addr: address,
        memory_size: pages.bytes(),
        userspace_addr: pages.as_ptr() as u64,
    };
    // SAFETY: the pages are whole ones, `bytes` long together, which stay where they are as long as
    // the VM (both live as long as the process), and nothing but atomics. The guest only reads
    // there. KVM refuses a slot that overlaps another.
    unsafe { vm.set_user_memory_region(description) }
}

/// Takes a slot away from the VM.
pub(super) fn remove_memory(vm: &VmFd, slot: u32) -> Result<(), kvm_ioctls::Error> {
    let description = kvm_userspace_memory_region { slot, ..Default::default() };
    // SAFETY: a slot of size 0 is removed; nothing is mapped.
    unsafe { vm.set_user_memory_region(description) }
}

/// Gives the pages of a part of guest memory back to the host: it reads as zeros then.
pub(super) fn discard(memory: &Memory, address: u64, bytes: u64) -> io::Result<()> {
    let host = host_address(memory, address, bytes).map_err(io::Error::other)?;
    // SAFETY: `bytes` bytes are mapped there, guest memory that no reference of Rust's points into.
    let result = unsafe { libc::madvise(host.cast(), bytes as usize, libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Maps private anonymous memory with no swap reserved, aligned so that a guest-physical huge page
/// can be one of the host.
///
/// The mapping stays until the process ends, even if the region is dropped.
pub(super) fn map_aligned(bytes: usize, alignment: usize) -> io::Result<MmapRegion> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let reserved = bytes + alignment;
    // SAFETY: a new mapping at an address of the kernel's choice touches none that is there.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), reserved, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = mapped.cast::<u8>();
    let before = start.align_offset(alignment);
    // SAFETY: `before < alignment`, so that the result is within the mapping.
    let aligned = unsafe { start.add(before) };
    unmap(start, before)?;
    // SAFETY: `before + bytes <= reserved`: within the mapping, or just past its end.
    unmap(unsafe { aligned.add(bytes) }, alignment - before)?;
    // SAFETY: the `bytes` bytes from `aligned` are mapped as said, and never unmapped.
    unsafe { MmapRegion::build_raw(aligned, bytes, protection, flags) }.map_err(io::Error::other)
}

/// Maps a part of a file privately, readable and writable, at an aligned address: what is written
/// is this process's own.
///
/// The mapping stays until the process ends, even if the region is dropped.
pub(super) fn map_file_aligned(
    bytes: usize,
    alignment: usize,
    file: BorrowedFd<'_>,
    offset: u64,
) -> io::Result<MmapRegion> {
    let region = map_aligned(bytes, alignment)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE | libc::MAP_FIXED;
    let offset =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let place = region.as_ptr().cast();
    // SAFETY: the range is that of `region`, which is ours and which nothing points into yet: it
    // was made above.
    let mapped = unsafe { libc::mmap(place, bytes, protection, flags, file.as_raw_fd(), offset) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(region) }
}

/// Sets a vCPU's floating point and vector registers.
pub(super) fn set_extended_state(
    vcpu: &VcpuFd,
    state: &kvm_xsave,
) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the kernel reads more than `state` only where a dynamic feature was asked for with
    // `arch_prctl`, which nothing here does.
    unsafe { vcpu.set_xsave(state) }
}

/// Gives back a part of a mapping that nothing knows of yet.
fn unmap(start: *mut u8, bytes: usize) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the range belongs to a mapping just made, and no reference points into it.
    let result = unsafe { libc::munmap(start.cast(), bytes) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for huge pages, or against them, in `bytes` bytes of guest memory from `address`.
pub(super) fn advise_huge_pages(address: *mut u8, bytes: usize, wanted: bool) -> io::Result<()> {
    let advice = if wanted { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // SAFETY: the caller has checked the range against the region's bounds; the advice changes no
    // contents.
    let result = unsafe { libc::madvise(address.cast(), bytes, advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a part of a file into memory of the guest.
///
/// `target` is the start of `bytes` bytes of guest memory.
pub(super) fn read_file_into(
    target: *mut u8,
    bytes: usize,
    file: BorrowedFd<'_>,
    offset: u64,
) -> io::Result<()> {
    let mut done = 0;
    while done < bytes {
        let position = libc::off_t::try_from(offset + done as u64)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: `done < bytes`, so the pointer stays within the range that the caller has
        // checked against the region's bounds.
        let rest = unsafe { target.add(done) };
        // SAFETY: the kernel writes at most `bytes - done` bytes from there, all guest memory.
        let read = unsafe { libc::pread(file.as_raw_fd(), rest.cast(), bytes - done, position) };
        match read {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            1.. => done += read as usize,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// The interrupts that wait in a PIC's request register.
///
/// `chip` was filled in by KVM for one of the two PICs.
pub(super) fn pending_of(chip: &kvm_irqchip) -> u8 {
    // SAFETY: KVM filled the union in for a PIC; and every bit pattern is a valid PIC state.
    unsafe { chip.chip.pic }.irr
}
