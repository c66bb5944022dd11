//! The header before every vsock packet (virtio 1.2, section 5.10.6).
//!
//! Hostile: every field. Reading one allocates nothing and refuses nothing: what the values mean
//! is for the muxer to judge.

/// The header's length in bytes.
pub(super) const HEADER_BYTES: usize = 44;
/// The only socket type there is here.
pub(super) const TYPE_STREAM: u16 = 1;
/// Shutdown flag: the sender will receive no more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// Shutdown flag: the sender will send no more.
pub(super) const SHUTDOWN_SEND: u32 = 2;
/// The sender is done with the connection.
pub(super) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Asks for a connection.
    Request,
    /// Grants it.
    Response,
    /// Ends it at once, or refuses it.
    Reset,
    /// Announces the end of one or both directions.
    Shutdown,
    /// Carries data.
    Data,
    /// Tells how much room there is.
    CreditUpdate,
    /// Asks how much room there is.
    CreditRequest,
    /// None of those defined.
    Unknown(u16),
}

impl Operation {
    fn from_number(number: u16) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            other => Self::Unknown(other),
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
            Self::Unknown(number) => number,
        }
    }
}

/// The fields of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) destination_cid: u64,
    pub(super) source_port: u32,
    pub(super) destination_port: u32,
    pub(super) length: u32,
    pub(super) socket_type: u16,
    pub(super) operation: Operation,
    pub(super) flags: u32,
    /// How many bytes the sender takes in all without having handed them on.
    pub(super) buffer: u32,
    /// How many bytes the sender has handed on since the connection began, modulo 2^32.
    pub(super) forwarded: u32,
}

impl Header {
    /// The header's bytes.
    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.source_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.destination_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.destination_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.socket_type.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.number().to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buffer.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.forwarded.to_le_bytes());
        bytes
    }

    /// Reads a header; any bytes are one.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            source_cid: u64_at(0),
            destination_cid: u64_at(8),
            source_port: u32_at(16),
            destination_port: u32_at(20),
            length: u32_at(24),
            socket_type: u16_at(28),
            operation: Operation::from_number(u16_at(30)),
            flags: u32_at(32),
            buffer: u32_at(36),
            forwarded: u32_at(40),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn writing_is_the_inverse_of_reading(
            low in any::<[u8; 22]>(), high in any::<[u8; 22]>()
        ) {
            let mut bytes = [0; HEADER_BYTES];
            bytes[..22].copy_from_slice(&low);
            bytes[22..].copy_from_slice(&high);
            prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
        }
    }
}
