//! Bytes of a snapshot: a canonical encoding (one state, one sequence of bytes) and its reader, which
//! trusts nothing.

use thiserror::Error;

/// Why bytes are no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a snapshot: {0}")]
pub struct SnapshotError(pub String);

impl SnapshotError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// Appends values to a snapshot.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// All bytes written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A number as an unsigned LEB128, at most ten bytes.
    pub fn number(&mut self, value: impl Into<u64>) {
        let mut value = value.into();
        while value >= 0x80 {
            self.bytes.push(low_byte(value) | 0x80);
            value >>= 7;
        }
        self.bytes.push(low_byte(value));
    }

    /// A length or an index.
    pub fn size(&mut self, value: usize) {
        self.number(value as u64);
    }

    /// A truth value.
    pub fn flag(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, value: &[u8]) {
        self.size(value.len());
        self.bytes.extend_from_slice(value);
    }

    /// Numbers, each as its difference from the one before, with their count.
    pub fn sequence(&mut self, values: impl ExactSizeIterator<Item = u32>) {
        self.size(values.len());
        let mut previous = 0;
        for value in values {
            let step = i64::from(value) - i64::from(previous);
            self.number((step.unsigned_abs() << 1) | u64::from(step < 0));
            previous = value;
        }
    }
}

fn low_byte(value: u64) -> u8 {
    u8::try_from(value & 0x7f).expect("masked to seven bits")
}

/// Takes values from a snapshot.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the first byte on.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Tells whether everything was read.
    pub const fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    fn byte(&mut self) -> Result<u8, SnapshotError> {
        let (&first, rest) = self
            .bytes
            .split_first()
            .ok_or_else(|| SnapshotError::new("it ends too soon"))?;
        self.bytes = rest;
        Ok(first)
    }

    /// A number that fits the type asked for.
    ///
    /// # Errors
    /// [`SnapshotError`] at the end of the bytes, or when the number is too large.
    pub fn number<T: TryFrom<u64>>(&mut self) -> Result<T, SnapshotError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                if shift > 0 && part == 0 {
                    break;
                }
                return T::try_from(value).map_err(|_| SnapshotError::new("a number is too large"));
            }
        }
        Err(SnapshotError::new("a number is malformed"))
    }

    /// A length, which cannot be more than the bytes that are left.
    ///
    /// # Errors
    /// [`SnapshotError`] when it is.
    pub fn length(&mut self) -> Result<usize, SnapshotError> {
        let length: usize = self.number()?;
        if length > self.bytes.len() {
            return Err(SnapshotError::new("a length goes beyond the end"));
        }
        Ok(length)
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`SnapshotError`] when it is neither.
    pub fn flag(&mut self) -> Result<bool, SnapshotError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(SnapshotError::new("a flag is neither 0 nor 1")),
        }
    }

    /// Bytes with their length.
    ///
    /// # Errors
    /// [`SnapshotError`] when there are not so many.
    pub fn bytes(&mut self) -> Result<&'a [u8], SnapshotError> {
        let length = self.length()?;
        let (bytes, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(bytes)
    }

    /// What [`Writer::sequence`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`] when it is not that.
    pub fn sequence(&mut self) -> Result<Vec<u32>, SnapshotError> {
        let length = self.length()?;
        let mut previous = 0_i64;
        let mut values = Vec::with_capacity(length);
        for _ in 0..length {
            let signed: u64 = self.number()?;
            let step = i64::try_from(signed >> 1).expect("63 bits");
            previous = match signed & 1 {
                0 => previous.saturating_add(step),
                _ if step == 0 => return Err(SnapshotError::new("a step is malformed")),
                _ => previous.saturating_sub(step),
            };
            let value = u32::try_from(previous)
                .map_err(|_| SnapshotError::new("a step leads out of range"))?;
            values.push(value);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let mut writer = Writer::default();
        for value in [0, 1, 127, 128, u64::from(u32::MAX), u64::MAX] {
            writer.number(value);
        }
        writer.flag(true);
        writer.bytes(b"zone");
        writer.sequence([7, 0, u32::MAX, 3].into_iter());
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        for value in [0, 1, 127, 128, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(reader.number::<u64>(), Ok(value));
        }
        assert_eq!(reader.flag(), Ok(true));
        assert_eq!(reader.bytes(), Ok(&b"zone"[..]));
        assert_eq!(reader.sequence(), Ok(vec![7, 0, u32::MAX, 3]));
        assert!(reader.is_at_end());
    }

    #[test]
    fn malformed_bytes_are_refused() {
        assert!(Reader::new(&[]).number::<u64>().is_err());
        assert!(
            Reader::new(&[0x80, 0]).number::<u64>().is_err(),
            "a second way to write 0"
        );
        assert!(Reader::new(&[0xff; 10]).number::<u64>().is_err());
        assert!(Reader::new(&[0x80, 0x02]).number::<u8>().is_err());
        assert!(Reader::new(&[9, 1]).bytes().is_err());
        assert!(Reader::new(&[2]).flag().is_err());
        assert!(Reader::new(&[1, 1]).sequence().is_err(), "a step below 0");
    }
}
