//! Names that follow from content.

/// FNV-1a, 64 bits: the same for the same bytes, also after a restart. Not for what a peer may choose.
pub fn content_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
