//! What frames are used for, counted.

use crate::mem_map::{PageClass, page_flags};
use crate::memory::Memory;
use crate::units::{PAGEBLOCK_NR_PAGES, Pfn};

/// In [`Memory::frame_files`]: the frame caches no file.
pub const NO_FILE: u32 = u32::MAX;

impl Memory {
    /// Frames of each class in every pageblock, from frame 0 on. A frame that `mlock(2)` keeps in
    /// memory counts as such, whatever it was before.
    pub fn class_counts(&self) -> Vec<[u16; PageClass::COUNT]> {
        let mut counts = vec![[0; PageClass::COUNT]; self.map.nr_pageblocks()];
        for block in self.map.blocks() {
            let mut at = block.pfn.0;
            let end = at + block.order.nr_pages();
            let mut class = block.class;
            if self.map.flags(block.pfn) & page_flags::MLOCKED != 0 {
                class = PageClass::Mlocked;
            }
            while at < end {
                let pageblock = Pfn(at).pageblock();
                let stop = end.min((at / PAGEBLOCK_NR_PAGES + 1) * PAGEBLOCK_NR_PAGES);
                let nr = u16::try_from(stop - at).expect("within a pageblock");
                counts[pageblock][class.index()] += nr;
                at = stop;
            }
        }
        counts
    }

    /// Class of every frame by number, from frame 0 on; mlocked frames as [`Self::class_counts`].
    pub fn frame_classes(&self) -> Vec<u8> {
        let mut classes = vec![PageClass::Nopage as u8; self.map.nr_frames() as usize];
        for block in self.map.blocks() {
            let locked = self.map.flags(block.pfn) & page_flags::MLOCKED != 0;
            let class = if locked {
                PageClass::Mlocked
            } else {
                block.class
            };
            let start = block.pfn.0 as usize;
            classes[start..start + block.order.nr_pages() as usize].fill(class as u8);
        }
        classes
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
    use crate::import::Import;
    use crate::mem_map::PageClass;
    use crate::memory::Memory;

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
}
