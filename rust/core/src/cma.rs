//! CMA areas: ranges that movable pages may use until their owner asks for them. mm/cma.c v6.12.
//!
//! An area is declared at boot. Its pageblocks are of type `Cma`: requests that may use them and what
//! the watermarks make of them is the allocator's business (`watermark`, `fallback`). A bitmap says
//! what the owner has taken; `alloc_contig_range()` empties it.

use serde::{Deserialize, Serialize};

use crate::boot::BootError;
use crate::contig_range::{ContigGfp, Tally};
use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::mem_map::{MemMap, PageClass};
use crate::memory::Memory;
use crate::page_isolation::Obstacle;
use crate::units::{Cpu, MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn, ZoneId};
use crate::zone::{PAGEBLOCK, Zone};

/// An area to declare at boot: `cma_declare_contiguous()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmaSpec {
    /// Its name, as of /sys/kernel/mm/cma.
    pub name: String,
    /// First frame, the first of a pageblock: `CMA_MIN_ALIGNMENT_PAGES`.
    pub start_pfn: u32,
    /// Frames, whole pageblocks.
    pub nr: u32,
    /// log2 of the frames that one bit of the bitmap stands for.
    #[serde(default)]
    pub order_per_bit: u8,
}

/// What an area's owner has taken, and how often that went well: `struct cma`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmaArea {
    bitmap: Vec<u64>,
    /// `alloc_pages_success`, in frames.
    pub allocated: u64,
    /// `alloc_pages_fail`, in frames.
    pub failed: u64,
    /// `release_pages_success`, in frames.
    pub released: u64,
}

impl CmaArea {
    fn new(spec: &CmaSpec) -> Self {
        let bits = spec.nr >> spec.order_per_bit;
        Self {
            bitmap: vec![0; bits.div_ceil(u64::BITS) as usize],
            allocated: 0,
            failed: 0,
            released: 0,
        }
    }

    fn is_taken(&self, bit: u32) -> bool {
        self.bitmap[(bit / u64::BITS) as usize] >> (bit % u64::BITS) & 1 == 1
    }

    fn set(&mut self, bits: std::ops::Range<u32>) {
        for bit in bits {
            self.bitmap[(bit / u64::BITS) as usize] |= 1 << (bit % u64::BITS);
        }
    }

    fn clear(&mut self, bits: std::ops::Range<u32>) {
        for bit in bits {
            self.bitmap[(bit / u64::BITS) as usize] &= !(1 << (bit % u64::BITS));
        }
    }
}

impl CmaSpec {
    /// Bits that `nr` frames take: `cma_bitmap_pages_to_bits()`.
    const fn bits(&self, nr: u32) -> u32 {
        nr.div_ceil(1 << self.order_per_bit)
    }

    /// The first frame of a bit.
    const fn pfn_of(&self, bit: u32) -> u32 {
        self.start_pfn + (bit << self.order_per_bit)
    }

    /// The next bit from `from` on whose frame is aligned to 2^`align` and behind which `nr` bits are
    /// clear: `bitmap_find_next_zero_area_off()` with `cma_bitmap_aligned_mask()` and its offset.
    fn find(&self, area: &CmaArea, from: u32, nr: u32, align: u8) -> Option<u32> {
        let end = self.bits(self.nr);
        let unit = 1_u64 << align.max(self.order_per_bit);
        let mut bit = from;
        loop {
            let pfn = u64::from(self.pfn_of(bit)).next_multiple_of(unit);
            bit = u32::try_from((pfn - u64::from(self.start_pfn)) >> self.order_per_bit).ok()?;
            if bit.checked_add(nr)? > end {
                return None;
            }
            match (bit..bit + nr).rev().find(|&bit| area.is_taken(bit)) {
                None => return Some(bit),
                Some(taken) => bit = taken + 1,
            }
        }
    }
}

/// Checks the areas of a description and gives their pageblocks to them: `cma_activate_area()`.
pub(crate) fn activate_areas(
    map: &mut MemMap,
    zones: &mut [Zone],
    specs: &[CmaSpec],
) -> Result<Vec<CmaArea>, BootError> {
    for spec in specs {
        let refuse = |why: &str| BootError(format!("the CMA area {:?} {why}", spec.name));
        let aligned = spec.start_pfn | spec.nr;
        if spec.nr == 0 || !aligned.is_multiple_of(PAGEBLOCK_NR_PAGES) {
            return Err(refuse("is not made of whole pageblocks"));
        }
        if spec.order_per_bit > PAGEBLOCK.get() {
            return Err(refuse("has bits for more than a pageblock"));
        }
        let end = u64::from(spec.start_pfn) + u64::from(spec.nr);
        if end > u64::from(map.nr_frames()) {
            return Err(refuse("goes beyond the last frame"));
        }
        let zone = map.zone_of(Pfn(spec.start_pfn));
        for start in (spec.start_pfn..spec.start_pfn + spec.nr).step_by(512) {
            let free = map.block_of(Pfn(start));
            let whole = free.class == PageClass::Free && free.order >= PAGEBLOCK;
            let own = map.pageblock_migratetype(Pfn(start));
            if !whole || own == MigrateType::Cma || map.zone_of(Pfn(start)) != zone {
                return Err(refuse(
                    "does not lie in memory of one zone that the allocator has for it alone",
                ));
            }
            let id = zone.expect("a free frame belongs to a zone");
            zones[id.index()].init_cma_reserved_pageblock(map, Pfn(start));
        }
    }
    Ok(specs.iter().map(CmaArea::new).collect())
}

impl Zone {
    /// `init_cma_reserved_pageblock()`, mm/mm_init.c v6.12: a free pageblock becomes one of an area.
    fn init_cma_reserved_pageblock(&mut self, map: &mut MemMap, start: Pfn) {
        let block = map.block_of(start);
        self.take_free(map, block.pfn, block.order);
        map.set_pageblock_migratetype(start, MigrateType::Cma);
        self.split_large_buddy(map, block.pfn, block.order);
    }
}

impl Memory {
    /// The areas, in the order of the description.
    pub fn cma_areas(&self) -> impl Iterator<Item = (&CmaSpec, &CmaArea)> {
        self.spec.cma.iter().zip(&self.cma)
    }

    /// Frames of a zone that are in areas: `cma_pages`.
    pub fn cma_pages(&self, zone: ZoneId) -> u64 {
        let within = |spec: &&CmaSpec| self.map.zone_of(Pfn(spec.start_pfn)) == Some(zone);
        let areas = self.spec.cma.iter().filter(within);
        areas.map(|spec| u64::from(spec.nr)).sum()
    }

    /// Takes `nr` frames of an area, the first aligned to 2^`align`: each is then a block of order 0
    /// of class `Kernel`. Where something is in the way the next aligned place is tried:
    /// `cma_alloc()`.
    ///
    /// # Errors
    /// [`AllocError::NoRange`] where so many aligned frames are not left, else
    /// [`AllocError::RangeBlocked`]; [`AllocError::UnsupportedGfp`].
    ///
    /// # Panics
    /// When there is no such area.
    pub fn cma_alloc(
        &mut self,
        area: usize,
        nr: u32,
        align: u8,
        cpu: Cpu,
        gfp: Gfp,
    ) -> Result<Pfn, AllocError> {
        let gfp = ContigGfp::new(gfp)?;
        let spec = self.spec.cma[area].clone();
        let (bits, mut tally) = (spec.bits(nr), Tally::default());
        let step = 1 << align.min(31).saturating_sub(spec.order_per_bit);
        let mut from = 0_u32;
        while nr > 0
            && align < 32
            && let Some(bit) = spec.find(&self.cma[area], from, bits, align)
        {
            let first = spec.pfn_of(bit);
            let range = (first, first + nr);
            self.cma[area].set(bit..bit + bits);
            match self.alloc_contig_range(range, MigrateType::Cma, cpu, gfp, PageClass::Kernel) {
                Ok(()) => {
                    self.cma[area].allocated += u64::from(nr);
                    return Ok(Pfn(first));
                }
                Err(blocked) => {
                    self.cma[area].clear(bit..bit + bits);
                    tally.count(blocked);
                    if blocked.by == Obstacle::NoTarget {
                        break;
                    }
                }
            }
            from = bit.saturating_add(step);
        }
        self.cma[area].failed += u64::from(nr);
        Err(tally.refusal(nr))
    }

    /// Gives frames of an area back, one by one; false, and nothing is done, where they are not all
    /// frames that its owner took: `cma_release()`.
    ///
    /// # Panics
    /// When there is no such area.
    pub fn cma_release(&mut self, area: usize, pfn: Pfn, nr: u32, cpu: Cpu) -> bool {
        let spec = self.spec.cma[area].clone();
        let past = spec.start_pfn + spec.nr;
        if pfn.0 < spec.start_pfn || pfn.0 >= past || nr > past - pfn.0 {
            return false;
        }
        let first = (pfn.0 - spec.start_pfn) >> spec.order_per_bit;
        let bits = first..first + spec.bits(nr);
        let taken = bits.clone().all(|bit| self.cma[area].is_taken(bit));
        let used = |pfn| self.map.is_allocated_head(Pfn(pfn), Order::ZERO);
        if !taken || !(pfn.0..pfn.0 + nr).all(used) {
            return false;
        }
        self.free_each(cpu, pfn, nr);
        let area = &mut self.cma[area];
        area.clear(bits);
        area.released += u64::from(nr);
        true
    }

    /// No frame of a bit that is set is free or has an owner.
    pub(crate) fn check_cma(&self) -> Result<(), String> {
        if self.cma.len() != self.spec.cma.len() {
            return Err(format!("{} CMA areas are declared", self.spec.cma.len()));
        }
        for (spec, area) in self.cma_areas() {
            if area.bitmap.len() != CmaArea::new(spec).bitmap.len() {
                return Err(format!("the CMA area {:?} has another length", spec.name));
            }
            let set = (0..spec.bits(spec.nr)).filter(|&bit| area.is_taken(bit));
            for pfn in set.map(|bit| spec.pfn_of(bit)) {
                let class = self.map.class(Pfn(pfn));
                if class != PageClass::Kernel {
                    let name = &spec.name;
                    return Err(format!(
                        "frame {pfn} is taken of CMA area {name:?}, and {class:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}
