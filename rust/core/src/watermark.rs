//! Watermarks: how many frames a zone keeps back, and from whom. mm/page_alloc.c v6.12.

use serde::{Deserialize, Serialize};

use crate::boot::pcp_limits_of;
use crate::memory::Memory;
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, ZoneKind};
use crate::zone::Zone;

/// What an allocation may do: `ALLOC_*`, mm/internal.h v6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocFlags(pub u32);

impl AllocFlags {
    /// `ALLOC_WMARK_MIN`.
    pub const WMARK_MIN: Self = Self(0);
    /// `ALLOC_WMARK_LOW`.
    pub const WMARK_LOW: Self = Self(1);
    /// `ALLOC_WMARK_HIGH`.
    pub const WMARK_HIGH: Self = Self(2);
    /// `ALLOC_NO_WATERMARKS`.
    pub const NO_WATERMARKS: Self = Self(0x04);
    /// `ALLOC_OOM`.
    pub const OOM: Self = Self(0x08);
    /// `ALLOC_NON_BLOCK`.
    pub const NON_BLOCK: Self = Self(0x10);
    /// `ALLOC_MIN_RESERVE`.
    pub const MIN_RESERVE: Self = Self(0x20);
    /// `ALLOC_CPUSET`.
    pub const CPUSET: Self = Self(0x40);
    /// `ALLOC_CMA`.
    pub const CMA: Self = Self(0x80);
    /// `ALLOC_NOFRAGMENT`.
    pub const NOFRAGMENT: Self = Self(0x100);
    /// `ALLOC_HIGHATOMIC`.
    pub const HIGHATOMIC: Self = Self(0x200);
    /// `ALLOC_KSWAPD`.
    pub const KSWAPD: Self = Self(0x800);
    /// `ALLOC_RESERVES`.
    pub const RESERVES: Self =
        Self(Self::NON_BLOCK.0 | Self::MIN_RESERVE.0 | Self::HIGHATOMIC.0 | Self::OOM.0);
    const WMARK_MASK: u32 = 3;

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set less the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Tells whether any bit of `other` is set here.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The watermark to hold, as an index: min, low, high.
    pub const fn wmark(self) -> Wmark {
        match self.0 & Self::WMARK_MASK {
            0 => Wmark::Min,
            1 => Wmark::Low,
            _ => Wmark::High,
        }
    }
}

/// `enum zone_watermarks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wmark {
    /// Direct reclaim below it.
    Min,
    /// kswapd wakes below it.
    Low,
    /// kswapd sleeps above it.
    High,
}

/// The watermarks of a zone, in frames, boost not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watermarks {
    /// `WMARK_MIN`.
    pub min: u64,
    /// `WMARK_LOW`.
    pub low: u64,
    /// `WMARK_HIGH`.
    pub high: u64,
    /// `WMARK_PROMO`.
    #[serde(default)]
    pub promo: u64,
}

impl Watermarks {
    /// The watermarks of a zone: `__setup_per_zone_wmarks()`, mm/page_alloc.c v6.12.
    ///
    /// `lowmem_pages` is the sum of managed frames of all zones but Movable.
    pub fn compute(
        kind: ZoneKind,
        managed: u64,
        lowmem_pages: u64,
        min_free_kbytes: u64,
        watermark_scale_factor: u64,
    ) -> Self {
        let pages_min = min_free_kbytes / 4;
        let share = (pages_min * managed).checked_div(lowmem_pages).unwrap_or(0);
        let min = if kind == ZoneKind::Movable {
            (managed / 1024).clamp(32, 128)
        } else {
            share
        };
        let scaled = managed / 10_000 * watermark_scale_factor
            + managed % 10_000 * watermark_scale_factor / 10_000;
        let step = (share / 4).max(scaled);
        Self {
            min,
            low: min + step,
            high: min + 2 * step,
            promo: min + 3 * step,
        }
    }
}

/// `calculate_min_free_kbytes()`, mm/page_alloc.c v6.12: from the frames of `nr_free_buffer_pages()`.
pub fn min_free_kbytes(free_buffer_pages: u64) -> u64 {
    (free_buffer_pages * 4 * 16).isqrt().clamp(128, 262_144)
}

/// `set_recommended_min_free_kbytes()`, mm/khugepaged.c v6.12: what transparent huge pages raise
/// `min_free_kbytes` to, for `nr_zones` populated zones that `GFP_USER` may use.
pub fn recommended_min_free_kbytes(nr_zones: u64, free_buffer_pages: u64) -> u64 {
    let pageblock = u64::from(PAGEBLOCK_NR_PAGES);
    // MIGRATE_PCPTYPES * MIGRATE_PCPTYPES pageblocks a zone, and two more.
    let recommended = pageblock * nr_zones * 2 + pageblock * nr_zones * 9;
    recommended.min(free_buffer_pages / 20) * 4
}

/// `sysctl_lowmem_reserve_ratio`, mm/page_alloc.c v6.12, by zone.
pub const LOWMEM_RESERVE_RATIO: [u64; ZoneKind::COUNT] = [256, 256, 32, 0];

/// `setup_per_zone_lowmem_reserve()`, mm/page_alloc.c v6.12: what each zone of one node keeps back
/// from requests that could have been served by a higher zone. `managed` is by zone kind.
pub fn lowmem_reserve(
    managed: [u64; ZoneKind::COUNT],
    ratio: [u64; ZoneKind::COUNT],
) -> [[u64; ZoneKind::COUNT]; ZoneKind::COUNT] {
    let mut reserve = [[0; ZoneKind::COUNT]; ZoneKind::COUNT];
    for low in 0..ZoneKind::COUNT {
        let mut above = 0;
        for high in low + 1..ZoneKind::COUNT {
            above += managed[high];
            let clear = ratio[low] == 0 || managed[low] == 0;
            reserve[low][high] = if clear { 0 } else { above / ratio[low] };
        }
    }
    reserve
}

impl Memory {
    /// Starts or stops khugepaged, as enabling the first and disabling the last kind of huge pages of
    /// the PMD's size does. It sets `min_free_kbytes` anew, on a machine on which nobody set it by
    /// hand; watermarks and the limits of per-CPU lists follow, reserves stay:
    /// `set_recommended_min_free_kbytes()`, mm/khugepaged.c, `setup_per_zone_wmarks()`,
    /// mm/page_alloc.c v6.12.
    pub fn set_khugepaged(&mut self, on: bool) {
        self.spec.thp = on;
        let kbytes = if on {
            let now = self.spec.min_free_kbytes.unwrap_or(0);
            now.max(self.recommended_min_free_kbytes())
        } else {
            min_free_kbytes(self.nr_free_buffer_pages())
        };
        self.spec.min_free_kbytes = Some(kbytes);
        self.setup_zone_marks(kbytes);
        for zone in &mut self.zones {
            zone.pcp_limits = pcp_limits_of(zone, &self.cpu_nodes, &self.spec);
        }
    }

    /// `set_recommended_min_free_kbytes()`, mm/khugepaged.c v6.12, of these zones.
    pub(crate) fn recommended_min_free_kbytes(&self) -> u64 {
        let is_counted = |zone: &&Zone| zone.present > 0 && zone.kind <= ZoneKind::Normal;
        let nr_zones = self.zones.iter().filter(is_counted).count();
        recommended_min_free_kbytes(nr_zones as u64, self.nr_free_buffer_pages())
    }

    /// `__setup_per_zone_wmarks()`, mm/page_alloc.c v6.12.
    pub(crate) fn setup_zone_marks(&mut self, min_free_kbytes: u64) {
        let is_low = |zone: &&Zone| zone.kind != ZoneKind::Movable;
        let lowmem = self.zones.iter().filter(is_low);
        let lowmem_pages = lowmem.map(|zone| zone.managed).sum();
        let factor = self.spec.watermark_scale_factor;
        for zone in &mut self.zones {
            let (kind, managed) = (zone.kind, zone.managed);
            zone.watermark =
                Watermarks::compute(kind, managed, lowmem_pages, min_free_kbytes, factor);
            zone.watermark_boost = 0;
        }
    }
}

impl Zone {
    /// A watermark with the boost: `wmark_pages()`, include/linux/mmzone.h v6.12.
    #[inline]
    pub fn wmark_pages(&self, wmark: Wmark) -> u64 {
        self.watermark_boost
            + match wmark {
                Wmark::Min => self.watermark.min,
                Wmark::Low => self.watermark.low,
                Wmark::High => self.watermark.high,
            }
    }

    /// `__zone_watermark_unusable_free()`, mm/page_alloc.c v6.12.
    #[inline]
    fn unusable_free(&self, order: Order, flags: AllocFlags) -> u64 {
        let mut unusable = u64::from(order.nr_pages() - 1);
        if !flags.has(AllocFlags::RESERVES) {
            unusable += self.nr_free_highatomic;
        }
        if !flags.has(AllocFlags::CMA) {
            unusable += self.nr_free_cma;
        }
        unusable
    }

    /// `__zone_watermark_ok()`, mm/page_alloc.c v6.12: would `mark` still be held after an
    /// allocation of `order`, and is there a block for it?
    pub fn watermark_ok(
        &self,
        order: Order,
        mark: u64,
        highest: ZoneKind,
        flags: AllocFlags,
    ) -> bool {
        self.watermark_ok_at(order, mark, highest, flags, self.nr_free_pages)
    }

    /// As [`Self::watermark_ok`], as if `free` frames were free.
    pub(crate) fn watermark_ok_at(
        &self,
        order: Order,
        mark: u64,
        highest: ZoneKind,
        flags: AllocFlags,
        free: u64,
    ) -> bool {
        let needed = reserve_of(mark, flags) + self.lowmem_reserve[highest.index()];
        free > self.unusable_free(order, flags) + needed && self.has_block_for(order, flags)
    }

    /// Tells whether any list that a request with `flags` may use has a block of `order` or more.
    pub(crate) fn has_block_for(&self, order: Order, flags: AllocFlags) -> bool {
        if order == Order::ZERO {
            return true;
        }
        let usable = |migratetype| self.free_area.has_at_least(order, migratetype);
        usable(MigrateType::Unmovable)
            || usable(MigrateType::Movable)
            || usable(MigrateType::Reclaimable)
            || (flags.has(AllocFlags::CMA) && usable(MigrateType::Cma))
            || (flags.has(AllocFlags::HIGHATOMIC.with(AllocFlags::OOM))
                && usable(MigrateType::HighAtomic))
    }

    /// `zone_watermark_fast()`, mm/page_alloc.c v6.12.
    #[inline]
    pub(crate) fn watermark_fast(
        &self,
        order: Order,
        mark: u64,
        highest: ZoneKind,
        flags: AllocFlags,
    ) -> bool {
        // Without saturation: `free - min(free, unusable) > needed` is the same test.
        let needed = mark + self.lowmem_reserve[highest.index()];
        if order == Order::ZERO && self.nr_free_pages > needed + self.unusable_free(order, flags) {
            return true;
        }
        self.watermark_slow(order, mark, highest, flags)
    }

    fn watermark_slow(
        &self,
        order: Order,
        mark: u64,
        highest: ZoneKind,
        flags: AllocFlags,
    ) -> bool {
        if self.watermark_ok(order, mark, highest, flags) {
            return true;
        }
        // __GFP_HIGH order-0 requests ignore the boost at the min mark.
        order == Order::ZERO
            && flags.has(AllocFlags::MIN_RESERVE)
            && self.watermark_boost > 0
            && flags.wmark() == Wmark::Min
            && self.watermark_ok(order, self.watermark.min, highest, flags)
    }
}

/// What of `mark` a request with `flags` must leave: the middle of `__zone_watermark_ok()`.
pub(crate) fn reserve_of(mark: u64, flags: AllocFlags) -> u64 {
    let mut min = mark;
    if flags.has(AllocFlags::MIN_RESERVE) {
        min -= min / 2;
        if flags.has(AllocFlags::NON_BLOCK) {
            min -= min / 4;
        }
    }
    if flags.has(AllocFlags::OOM) {
        min -= min / 2;
    }
    min
}
