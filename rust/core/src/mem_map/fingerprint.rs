//! Whether a pageblock may look different than before, told from one byte a frame.

use super::MemMap;
use crate::units::{PAGEBLOCK_NR_PAGES, Pfn};

/// Odd, its bits spread evenly: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Words that are mixed side by side, so that a multiplication need not wait for the last one.
const LANES: usize = 4;
const WORD: usize = size_of::<u64>();

impl MemMap {
    /// A number that is another one, but for one chance in 2^32, when blocks of a pageblock begin
    /// elsewhere or have another class. Flags of frames, such as those of `mlock(2)`, are not in it.
    ///
    /// # Panics
    /// When there is no such pageblock.
    pub(crate) fn fingerprint(&self, pageblock: usize) -> u32 {
        let first = pageblock * PAGEBLOCK_NR_PAGES as usize;
        let end = self.lo.state.len().min(first + PAGEBLOCK_NR_PAGES as usize);
        let state = &self.lo.state[first..end];
        // A block of a whole pageblock, or of more, has its byte elsewhere.
        let head = u32::try_from(first).map_or(0, |pfn| {
            let block = self.block_of(Pfn(pfn));
            u64::from(block.class as u8) << 8 | u64::from(block.order.get())
        });
        let mut lanes = [head, 1, 2, 3];
        let mut words = state.chunks_exact(WORD * LANES);
        for some in &mut words {
            for (lane, word) in lanes.iter_mut().zip(some.chunks_exact(WORD)) {
                let word = u64::from_le_bytes(word.try_into().expect("a word long"));
                *lane = (*lane ^ word).wrapping_mul(SPREAD).rotate_left(29);
            }
        }
        for &byte in words.remainder() {
            lanes[0] = (lanes[0] ^ u64::from(byte))
                .wrapping_mul(SPREAD)
                .rotate_left(29);
        }
        let mixed = lanes.iter().fold(0, |mixed: u64, lane| {
            (mixed ^ lane).wrapping_mul(SPREAD).rotate_left(29)
        });
        (mixed >> 32) as u32 // the upper half, where all words have come to
    }
}
