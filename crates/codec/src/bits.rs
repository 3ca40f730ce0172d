//! Reading and writing single bits; the only place in this crate that looks at positions.

use crate::Error;

/// Reads bits, most significant first.
#[derive(Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
    what: &'static str,
}

impl<'a> BitReader<'a> {
    /// Reads `bytes`; `what` names them in errors.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, position: 0, what }
    }

    pub(crate) fn bit(&mut self) -> Result<bool, Error> {
        let byte = self.bytes.get(self.position / 8).ok_or(Error::Truncated(self.what))?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Ok(bit == 1)
    }

    /// Up to 32 bits.
    pub(crate) fn bits(&mut self, count: u32) -> Result<u32, Error> {
        debug_assert!(count <= 32, "a u32 holds 32 bits");
        (0..count).try_fold(0u32, |value, _| Ok(value << 1 | u32::from(self.bit()?)))
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Error> {
        (0..8).try_fold(0u8, |value, _| Ok(value << 1 | u8::from(self.bit()?)))
    }

    pub(crate) fn skip(&mut self, count: u32) -> Result<(), Error> {
        (0..count).try_for_each(|_| self.bit().map(drop))
    }

    /// Bits read so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The next `count` bytes, from any bit on.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<Vec<u8>, Error> {
        let shift = self.position % 8;
        let from = self.bytes.get(self.position / 8..).unwrap_or_default();
        let from = from.get(..count + usize::from(shift > 0)).ok_or(Error::Truncated(self.what))?;
        self.position += count * 8;
        if shift == 0 {
            return Ok(from.to_vec());
        }
        Ok(from.array_windows().map(|[first, second]| first << shift | second >> (8 - shift)).collect())
    }

    /// Unsigned Exp-Golomb code: H.264 §9.1, H.265 §9.2.
    pub(crate) fn ue(&mut self) -> Result<u32, Error> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return Err(Error::Invalid(self.what));
            }
        }
        Ok((1u32 << zeros) - 1 + self.bits(zeros)?)
    }
}

/// Writes bits, most significant first.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    used: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `value`.
    pub(crate) fn put(&mut self, value: u32, count: u32) {
        for shift in (0..count).rev() {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= u8::from(value >> shift & 1 == 1) << (7 - self.used % 8);
            }
            self.used += 1;
        }
    }

    /// The bytes; the last is filled up with zeros.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_read_back() {
        let mut reader = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000], "test");
        assert_eq!([reader.ue(), reader.ue(), reader.ue(), reader.ue()], [Ok(0), Ok(1), Ok(2), Ok(3)]);
    }

    #[test]
    fn an_endless_exp_golomb_prefix_is_an_error() {
        assert_eq!(BitReader::new(&[0; 16], "test").ue(), Err(Error::Invalid("test")));
        assert_eq!(BitReader::new(&[0; 2], "test").ue(), Err(Error::Truncated("test")));
    }

    #[test]
    fn bits_written_read_back() {
        let mut writer = BitWriter::default();
        writer.put(0b101, 3);
        writer.put(0x1ff, 9);
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes, "test");
        assert_eq!((reader.bits(3), reader.bits(9)), (Ok(0b101), Ok(0x1ff)));
    }
}
