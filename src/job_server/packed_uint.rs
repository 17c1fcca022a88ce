//! Unsigned integers in fewer bytes than a `u64`.

use std::fmt;

/// An unsigned integer that takes `BYTES` bytes. Larger numbers saturate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PackedUint<const BYTES: usize>([u8; BYTES]);

impl<const BYTES: usize> PackedUint<BYTES> {
    pub(super) fn new(number: u64) -> Self {
        let number = number.min((1 << (8 * BYTES)) - 1).to_le_bytes();
        Self(std::array::from_fn(|index| number[index]))
    }

    pub(super) fn get(self) -> u64 {
        let mut number = [0; 8];
        number[..BYTES].copy_from_slice(&self.0);
        u64::from_le_bytes(number)
    }
}

impl<const BYTES: usize> fmt::Debug for PackedUint<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_as_much_as_does() {
        for number in [0, 1, 255, 256, 0xff_ffff_ffff] {
            assert_eq!(PackedUint::<5>::new(number).get(), number);
        }
        for number in [0x100_0000_0000, u64::MAX] {
            assert_eq!(PackedUint::<5>::new(number).get(), 0xff_ffff_ffff);
        }
    }
}
