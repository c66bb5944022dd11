//! What KVM counts of each vCPU: its binary statistics (Documentation/virt/kvm/api.rst, 4.135), a
//! file that describes itself. Opened before the vCPU runs, read by another thread whenever somebody
//! asks; the vCPU is not disturbed.
//!
//! Not hostile: the host kernel writes it. It is read as if it were all the same, for kernels differ.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use cofferdam_protocol::monitor_metrics::KvmExits;
use kvm_ioctls::VcpuFd;

use super::sys;

/// Linux 6.12 describes some sixty figures of a vCPU in 64 bytes each, with 2 KiB of values.
const MAX_FILE_BYTES: usize = 64 << 10;
/// A description without its name.
const DESCRIPTION_BYTES: usize = 16;

/// The files of all vCPUs.
#[derive(Debug, Default)]
pub struct KvmStatistics {
    files: Vec<File>,
}

impl KvmStatistics {
    /// Opens them; none of them where the host's kernel has no such thing.
    #[must_use]
    pub fn open(vcpus: &[VcpuFd]) -> Self {
        let open = |vcpu| sys::statistics_of(vcpu).map(File::from);
        Self { files: vcpus.iter().map(open).collect::<Result<_, _>>().unwrap_or_default() }
    }

    /// The exits of all vCPUs together, if KVM counts them.
    #[must_use]
    pub fn exits(&self) -> Option<KvmExits> {
        let mut buffer = vec![0; MAX_FILE_BYTES];
        let each = self.files.iter().map(|file| {
            let read = file.read_at(&mut buffer, 0).ok()?;
            Image { bytes: buffer.get(..read)? }.exits()
        });
        each.reduce(|sum, next| Some(together(sum?, next?)))?
    }
}

/// One file, whole.
struct Image<'a> {
    bytes: &'a [u8],
}

impl Image<'_> {
    fn exits(&self) -> Option<KvmExits> {
        // A reason that this kernel does not count has not been seen.
        let reason = |name| self.value(name).unwrap_or(0);
        Some(KvmExits {
            exits: self.value("exits")?,
            io_exits: reason("io_exits"),
            mmio_exits: reason("mmio_exits"),
            halt_exits: reason("halt_exits"),
            irq_exits: reason("irq_exits"),
            irq_window_exits: reason("irq_window_exits"),
            nmi_window_exits: reason("nmi_window_exits"),
            request_irq_exits: reason("request_irq_exits"),
            signal_exits: reason("signal_exits"),
            hypercalls: reason("hypercalls"),
            insn_emulation: reason("insn_emulation"),
        })
    }

    /// The value of this name: its description is found first, behind the header's words on where
    /// names, descriptions and values are.
    fn value(&self, name: &str) -> Option<u64> {
        let [name_bytes, count, first, data] =
            [4, 8, 16, 20].map(|at| self.word(at).and_then(|word| usize::try_from(word).ok()));
        let (name_bytes, count, first, data) = (name_bytes?, count?, first?, data?);
        let stride = DESCRIPTION_BYTES.checked_add(name_bytes)?;
        let places = (0..count).map_while(|index| first.checked_add(index.checked_mul(stride)?));
        let descriptions = places.map_while(|at| Some((at, self.bytes.get(at..at + stride)?)));
        let is_it = |description: &[u8]| {
            let text = description.get(DESCRIPTION_BYTES..).unwrap_or_default();
            text.split(|byte| *byte == 0).next() == Some(name.as_bytes())
        };
        let (at, _) = { descriptions }.find(|(_, description)| is_it(description))?;
        let offset = usize::try_from(self.word(at + 8)?).ok()?;
        let place = data.checked_add(offset)?;
        self.bytes.get(place..)?.first_chunk().copied().map(u64::from_ne_bytes)
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
    }
}

fn together(one: KvmExits, other: KvmExits) -> KvmExits {
    KvmExits {
        exits: one.exits.saturating_add(other.exits),
        io_exits: one.io_exits.saturating_add(other.io_exits),
        mmio_exits: one.mmio_exits.saturating_add(other.mmio_exits),
        halt_exits: one.halt_exits.saturating_add(other.halt_exits),
        irq_exits: one.irq_exits.saturating_add(other.irq_exits),
        irq_window_exits: one.irq_window_exits.saturating_add(other.irq_window_exits),
        nmi_window_exits: one.nmi_window_exits.saturating_add(other.nmi_window_exits),
        request_irq_exits: one.request_irq_exits.saturating_add(other.request_irq_exits),
        signal_exits: one.signal_exits.saturating_add(other.signal_exits),
        hypercalls: one.hypercalls.saturating_add(other.hypercalls),
        insn_emulation: one.insn_emulation.saturating_add(other.insn_emulation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_BYTES: usize = 24;
    const NAME_BYTES: usize = 48;

    /// A file as KVM writes it, of these figures.
    fn file(figures: &[(&str, u64)]) -> Vec<u8> {
        let descriptions = HEADER_BYTES + NAME_BYTES;
        let data = descriptions + figures.len() * (DESCRIPTION_BYTES + NAME_BYTES);
        let words = [0, NAME_BYTES, figures.len(), HEADER_BYTES, descriptions, data];
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|word| u32::try_from(*word).unwrap().to_ne_bytes()).collect();
        bytes.resize(descriptions, 0);
        for (index, (name, _)) in figures.iter().enumerate() {
            let words = [0, 1 << 16, u32::try_from(index * 8).unwrap(), 0];
            bytes.extend(words.iter().flat_map(|word: &u32| word.to_ne_bytes()));
            let mut text = name.as_bytes().to_vec();
            text.resize(NAME_BYTES, 0);
            bytes.extend(text);
        }
        bytes.extend(figures.iter().flat_map(|(_, value)| value.to_ne_bytes()));
        bytes
    }

    #[test]
    fn a_figure_is_found_by_its_whole_name() {
        let bytes = file(&[("io_exits", 5), ("exits", 7), ("mmio_exits", 3)]);
        let exits = Image { bytes: &bytes }.exits().unwrap();
        assert_eq!((exits.exits, exits.io_exits, exits.mmio_exits), (7, 5, 3));
        assert_eq!(exits.halt_exits, 0);
    }

    #[test]
    fn a_file_without_the_sum_or_cut_anywhere_is_no_statistics() {
        assert_eq!(Image { bytes: &file(&[("io_exits", 5)]) }.exits(), None);
        let bytes = file(&[("exits", 7)]);
        for length in 0..bytes.len() {
            assert_eq!(Image { bytes: &bytes[..length] }.exits(), None, "{length} bytes");
        }
    }

    #[test]
    fn vcpus_are_added_up() {
        let one = KvmExits { exits: u64::MAX - 1, halt_exits: 1, ..KvmExits::default() };
        let sum = together(one, KvmExits { exits: 5, halt_exits: 2, ..KvmExits::default() });
        assert_eq!((sum.exits, sum.halt_exits), (u64::MAX, 3));
    }
}
