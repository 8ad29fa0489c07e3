//! What frames are used for, counted.

use std::ops::Range;

use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::units::{PAGEBLOCK_NR_PAGES, Pfn};

/// In [`Memory::frame_files`]: the frame caches no file.
pub const NO_FILE: u32 = u32::MAX;

impl Memory {
    /// Frames of each class in every pageblock, from frame 0 on. A frame that `mlock(2)` keeps in
    /// memory counts as such, whatever it was before.
    pub fn class_counts(&self) -> Vec<[u16; PageClass::COUNT]> {
        self.class_counts_in(0..self.map.nr_pageblocks())
    }

    /// As [`Self::class_counts`], for the pageblocks of a range that exist; the cost is the range's.
    pub fn class_counts_in(&self, pageblocks: Range<usize>) -> Vec<[u16; PageClass::COUNT]> {
        let nr = self.map.nr_pageblocks();
        let (first, end) = (pageblocks.start.min(nr), pageblocks.end.min(nr));
        let mut counts = vec![[0; PageClass::COUNT]; end.saturating_sub(first)];
        let start_of = |pageblock: usize| {
            let frame = pageblock * PAGEBLOCK_NR_PAGES as usize;
            u32::try_from(frame).unwrap_or(u32::MAX) // the end of the largest map
        };
        self.each_class(start_of(first)..start_of(end), |mut frames, class| {
            while !frames.is_empty() {
                let pageblock = Pfn(frames.start).pageblock();
                let last = frames.start | (PAGEBLOCK_NR_PAGES - 1);
                let stop = frames.end.min(last.saturating_add(1));
                let nr = u16::try_from(stop - frames.start).expect("within a pageblock");
                counts[pageblock - first][class.index()] += nr;
                frames.start = stop;
            }
        });
        counts
    }

    /// As [`Self::class_counts`], for some pageblocks by number; zeros for one that does not exist.
    pub fn class_counts_of(&self, pageblocks: &[u32]) -> Vec<[u16; PageClass::COUNT]> {
        let of = |&number: &u32| {
            let number = number as usize;
            self.class_counts_in(number..number + 1).pop()
        };
        pageblocks
            .iter()
            .map(|number| of(number).unwrap_or_default())
            .collect()
    }

    /// A number for each pageblock of a range that exists, and another one once
    /// [`Self::class_counts_in`] may tell something else of it, but for `mlock(2)`. Reads one byte a
    /// frame, far less than counting does.
    pub fn fingerprints_in(&self, pageblocks: Range<usize>) -> Vec<u32> {
        let nr = self.map.nr_pageblocks();
        let (first, end) = (pageblocks.start.min(nr), pageblocks.end.min(nr));
        (first..end)
            .map(|number| self.map.fingerprint(number))
            .collect()
    }

    /// Class of every frame by number, from frame 0 on; mlocked frames as [`Self::class_counts`].
    pub fn frame_classes(&self) -> Vec<u8> {
        self.frame_classes_in(0..self.map.nr_frames())
    }

    /// As [`Self::frame_classes`], for the frames of a range that exist; the cost is the range's.
    pub fn frame_classes_in(&self, frames: Range<u32>) -> Vec<u8> {
        let nr = self.map.nr_frames();
        let (first, end) = (frames.start.min(nr), frames.end.min(nr));
        let mut classes = vec![PageClass::Nopage as u8; end.saturating_sub(first) as usize];
        self.each_class(first..end, |frames, class| {
            classes[(frames.start - first) as usize..(frames.end - first) as usize]
                .fill(class as u8);
        });
        classes
    }

    /// Tells the class of each block that has frames in a range, and which frames of it those are.
    fn each_class(&self, frames: Range<u32>, mut tell: impl FnMut(Range<u32>, PageClass)) {
        let end = frames.end.min(self.map.nr_frames());
        let mut at = frames.start;
        while at < end {
            let block = self.map.block_of(Pfn(at));
            let stop = end.min(block.pfn.0 + block.order.nr_pages());
            let locked = self.map.flags(block.pfn) & page_flags::MLOCKED != 0;
            let class = if locked {
                PageClass::Mlocked
            } else {
                block.class
            };
            tell(at..stop, class);
            at = stop;
        }
    }

    /// File of every frame that caches a page of one, from frame 0 on; [`NO_FILE`] for the others.
    pub fn frame_files(&self) -> Vec<u32> {
        let mut files = vec![NO_FILE; self.map.nr_frames() as usize];
        for (id, file) in &self.owners.cache.files {
            for (_, pfn) in file.cached(0..u32::MAX) {
                files[pfn.0 as usize] = id.0;
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use crate::gfp::Gfp;
    use crate::import::Import;
    use crate::mem_map::PageClass;
    use crate::memory::Memory;
    use crate::units::{Cpu, Order};

    #[test]
    fn every_frame_counts_in_its_pageblock() {
        let spec = r#"{"zones": [{"kind": "DMA", "start_pfn": 0, "spanned": 1536}]}"#;
        let spec = serde_json::from_str(spec).expect("a spec");
        let mut memory = Memory::boot(&spec).expect("it boots");
        let state = Import {
            run_start: &[0, 510],
            run_nr: &[510, 2],
            run_class: &[PageClass::Anon as u8, PageClass::Slab as u8],
            free_pfn: &[512, 1024],
            free_order: &[9, 9],
            ..Import::default()
        };
        memory.import(&state).expect("it fits");
        let counts = memory.class_counts();
        let of = |block: usize, class: PageClass| counts[block][class.index()];
        assert_eq!((of(0, PageClass::Anon), of(0, PageClass::Slab)), (510, 2));
        assert_eq!((of(1, PageClass::Free), of(2, PageClass::Free)), (512, 512));
        let total: u32 = counts.iter().flatten().map(|&nr| u32::from(nr)).sum();
        assert_eq!(total, 1536);
        let classes = memory.frame_classes();
        let mut nr = [0; PageClass::COUNT];
        for class in classes {
            nr[usize::from(class)] += 1;
        }
        let of = |class: PageClass| nr[class.index()];
        assert_eq!(
            [PageClass::Anon, PageClass::Slab, PageClass::Free].map(of),
            [510, 2, 1024]
        );
    }

    #[test]
    fn a_fingerprint_is_another_once_the_counts_are() {
        let spec = r#"{"zones": [{"kind": "DMA", "start_pfn": 0, "spanned": 4096}]}"#;
        let spec = serde_json::from_str(spec).expect("a spec");
        let mut memory = Memory::boot(&spec).expect("it boots");
        for order in [10, 0, 9, 3, 0, 0, 9, 1] {
            let (counts, prints) = (memory.class_counts(), memory.fingerprints_in(0..99));
            assert_eq!(prints.len(), counts.len());
            assert_eq!(prints, memory.fingerprints_in(0..99));
            let order = Order::new(order).expect("an order");
            memory
                .alloc_pages(Cpu(0), Gfp::KERNEL, order, None)
                .expect("16 MiB have room");
            let now = memory.class_counts();
            let others = memory.fingerprints_in(0..99);
            for at in 0..counts.len() {
                let moved = counts[at] != now[at];
                assert!(!moved || prints[at] != others[at], "pageblock {at}");
            }
            assert!(counts != now, "nothing was asked");
            assert_eq!(memory.class_counts_of(&[7, 1]), [now[7], now[1]]);
        }
    }

    #[test]
    fn a_range_is_cut_out_of_the_whole_even_within_a_block() {
        let spec = r#"{"zones": [{"kind": "DMA", "start_pfn": 0, "spanned": 4096}]}"#;
        let spec = serde_json::from_str(spec).expect("a spec");
        let memory = Memory::boot(&spec).expect("it boots");
        let (counts, classes) = (memory.class_counts(), memory.frame_classes());
        assert_eq!(memory.class_counts_in(1..3), counts[1..3]);
        assert_eq!(memory.class_counts_in(7..99), counts[7..]);
        assert_eq!(memory.frame_classes_in(700..1500), classes[700..1500]);
        assert!(memory.frame_classes_in(9000..9001).is_empty());
        assert!(memory.class_counts_in(99..100).is_empty());
    }
}
