//! Request flags: `gfp_t`. Numbers of include/linux/gfp_types.h v6.12 (`___GFP_*_BIT`).

use serde::{Deserialize, Serialize};

use crate::units::{MigrateType, ZoneKind};

/// A set of `__GFP_*` bits: what a caller allows the allocator to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gfp(pub u32);

impl Gfp {
    /// `__GFP_DMA`: from `ZoneKind::Dma` only.
    pub const DMA: Self = Self(1 << 0);
    /// `__GFP_HIGHMEM`.
    pub const HIGHMEM: Self = Self(1 << 1);
    /// `__GFP_DMA32`: from `ZoneKind::Dma32` or below.
    pub const DMA32: Self = Self(1 << 2);
    /// `__GFP_MOVABLE`.
    pub const MOVABLE: Self = Self(1 << 3);
    /// `__GFP_RECLAIMABLE`.
    pub const RECLAIMABLE: Self = Self(1 << 4);
    /// `__GFP_HIGH`: may use half of the min reserve.
    pub const HIGH: Self = Self(1 << 5);
    /// `__GFP_IO`.
    pub const IO: Self = Self(1 << 6);
    /// `__GFP_FS`.
    pub const FS: Self = Self(1 << 7);
    /// `__GFP_ZERO`.
    pub const ZERO: Self = Self(1 << 8);
    /// `__GFP_DIRECT_RECLAIM`: the caller may wait for reclaim and compaction.
    pub const DIRECT_RECLAIM: Self = Self(1 << 10);
    /// `__GFP_KSWAPD_RECLAIM`.
    pub const KSWAPD_RECLAIM: Self = Self(1 << 11);
    /// `__GFP_WRITE`.
    pub const WRITE: Self = Self(1 << 12);
    /// `__GFP_NOWARN`.
    pub const NOWARN: Self = Self(1 << 13);
    /// `__GFP_RETRY_MAYFAIL`.
    pub const RETRY_MAYFAIL: Self = Self(1 << 14);
    /// `__GFP_NOFAIL`.
    pub const NOFAIL: Self = Self(1 << 15);
    /// `__GFP_NORETRY`.
    pub const NORETRY: Self = Self(1 << 16);
    /// `__GFP_MEMALLOC`: no watermarks.
    pub const MEMALLOC: Self = Self(1 << 17);
    /// `__GFP_COMP`: one folio, head and tails.
    pub const COMP: Self = Self(1 << 18);
    /// `__GFP_NOMEMALLOC`.
    pub const NOMEMALLOC: Self = Self(1 << 19);
    /// `__GFP_HARDWALL`.
    pub const HARDWALL: Self = Self(1 << 20);
    /// `__GFP_THISNODE`: no other node.
    pub const THISNODE: Self = Self(1 << 21);
    /// `__GFP_ACCOUNT`.
    pub const ACCOUNT: Self = Self(1 << 22);

    /// `__GFP_RECLAIM`.
    pub const RECLAIM: Self = Self::DIRECT_RECLAIM.with(Self::KSWAPD_RECLAIM);
    /// `GFP_ATOMIC`.
    pub const ATOMIC: Self = Self::HIGH.with(Self::KSWAPD_RECLAIM);
    /// `GFP_NOWAIT`.
    pub const NOWAIT: Self = Self::KSWAPD_RECLAIM.with(Self::NOWARN);
    /// `GFP_KERNEL`.
    pub const KERNEL: Self = Self::RECLAIM.with(Self::IO).with(Self::FS);
    /// `GFP_USER`.
    pub const USER: Self = Self::KERNEL.with(Self::HARDWALL);
    /// `GFP_HIGHUSER`: what the RFC of October 2017 asks for.
    pub const HIGHUSER: Self = Self::USER.with(Self::HIGHMEM);
    /// `GFP_HIGHUSER_MOVABLE`: user pages.
    pub const HIGHUSER_MOVABLE: Self = Self::HIGHUSER.with(Self::MOVABLE);
    /// `GFP_TRANSHUGE_LIGHT`.
    pub const TRANSHUGE_LIGHT: Self = Self::HIGHUSER_MOVABLE
        .with(Self::COMP)
        .with(Self::NOMEMALLOC)
        .with(Self::NOWARN)
        .without(Self::RECLAIM);
    /// `GFP_TRANSHUGE`.
    pub const TRANSHUGE: Self = Self::TRANSHUGE_LIGHT.with(Self::DIRECT_RECLAIM);

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

    /// `gfp_migratetype()`, include/linux/gfp.h v6.12. Both bits at once is a caller's mistake there
    /// (`VM_WARN_ON`); here MOVABLE wins.
    #[inline]
    pub const fn migratetype(self) -> MigrateType {
        const BY_BITS: [MigrateType; 4] = [
            MigrateType::Unmovable,
            MigrateType::Movable,
            MigrateType::Reclaimable,
            MigrateType::Movable,
        ];
        BY_BITS[(self.0 / Self::MOVABLE.0 % 4) as usize]
    }

    /// `gfp_zone()`, include/linux/gfp.h v6.12: the highest zone that may be used. `__GFP_MOVABLE`
    /// opens `Movable` only together with `__GFP_HIGHMEM`.
    #[inline]
    pub const fn highest_zone(self) -> ZoneKind {
        /// By the bits DMA, HIGHMEM, DMA32, MOVABLE.
        const BY_BITS: [ZoneKind; 16] = {
            let mut table = [ZoneKind::Normal; 16];
            let mut bits = 0_u32;
            while bits < 16 {
                let gfp = Gfp(bits);
                table[bits as usize] = if gfp.has(Gfp::HIGHMEM) && gfp.has(Gfp::MOVABLE) {
                    ZoneKind::Movable
                } else if gfp.has(Gfp::DMA) {
                    ZoneKind::Dma
                } else if gfp.has(Gfp::DMA32) {
                    ZoneKind::Dma32
                } else {
                    ZoneKind::Normal
                };
                bits += 1;
            }
            table
        };
        BY_BITS[(self.0 % 16) as usize]
    }
}
