//! What a zone remembers between runs of compaction: `struct zone`, include/linux/mmzone.h v6.12, and
//! the skip bits of its pageblocks (`PB_migrate_skip`).

use serde::{Deserialize, Serialize};

use crate::units::Order;

/// `COMPACT_MAX_DEFER_SHIFT`, mm/compaction.c v6.12: no more than 64 attempts are skipped.
const COMPACT_MAX_DEFER_SHIFT: u32 = 6;

/// Cached positions, deferral and skip bits of one zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompactState {
    /// Where async and sync migration scanners go on.
    pub cached_migrate_pfn: [u32; 2],
    /// Where the free scanner goes on.
    pub cached_free_pfn: u32,
    /// The first source after the skip bits were cleared.
    pub init_migrate_pfn: u32,
    /// The last target after the skip bits were cleared.
    pub init_free_pfn: u32,
    /// Attempts skipped since the last failure.
    considered: u32,
    /// log2 of the attempts to skip.
    defer_shift: u32,
    /// The least order that failed.
    order_failed: u8,
    /// A direct run went through: the skip bits may be cleared.
    pub blockskip_flush: bool,
    /// A bit for each pageblock from frame 0 on; what is missing is clear.
    skip: Vec<u64>,
}

impl Default for CompactState {
    fn default() -> Self {
        Self {
            cached_migrate_pfn: [0; 2],
            cached_free_pfn: u32::MAX, // outside the zone: the run starts at its end
            init_migrate_pfn: 0,
            init_free_pfn: 0,
            considered: 0,
            defer_shift: 0,
            order_failed: 0,
            blockskip_flush: false,
            skip: Vec::new(),
        }
    }
}

impl CompactState {
    /// `get_pageblock_skip()`.
    pub fn is_skipped(&self, pfn: u32) -> bool {
        let (word, bit) = place(pfn);
        self.skip.get(word).is_some_and(|bits| bits >> bit & 1 == 1)
    }

    /// `set_pageblock_skip()`.
    pub fn set_skip(&mut self, pfn: u32) {
        let (word, bit) = place(pfn);
        if self.skip.len() <= word {
            self.skip.resize(word + 1, 0);
        }
        self.skip[word] |= 1 << bit;
    }

    /// `clear_pageblock_skip()`.
    pub fn clear_skip(&mut self, pfn: u32) {
        let (word, bit) = place(pfn);
        if let Some(bits) = self.skip.get_mut(word) {
            *bits &= !(1 << bit);
        }
    }

    /// `defer_compaction()`.
    pub fn defer(&mut self, order: Order) {
        self.considered = 0;
        self.defer_shift = (self.defer_shift + 1).min(COMPACT_MAX_DEFER_SHIFT);
        self.order_failed = self.order_failed.min(order.get());
    }

    /// Whether this attempt is to be skipped, which is counted: `compaction_deferred()`.
    pub fn is_deferred(&mut self, order: Order) -> bool {
        if order.get() < self.order_failed {
            return false;
        }
        let limit = 1 << self.defer_shift;
        self.considered = (self.considered + 1).min(limit);
        self.considered < limit
    }

    /// A run succeeded, or the allocation itself (`allocated`): `compaction_defer_reset()`.
    pub fn reset_deferral(&mut self, order: Order, allocated: bool) {
        if allocated {
            self.considered = 0;
            self.defer_shift = 0;
        }
        if order.get() >= self.order_failed {
            self.order_failed = order.get() + 1;
        }
    }

    /// `compaction_restarting()`.
    pub const fn is_restarting(&self, order: Order) -> bool {
        order.get() >= self.order_failed
            && self.defer_shift == COMPACT_MAX_DEFER_SHIFT
            && self.considered >= 1 << self.defer_shift
    }

    /// Whether a saved state can have come about.
    pub const fn is_sound(&self) -> bool {
        self.defer_shift <= COMPACT_MAX_DEFER_SHIFT && self.considered <= 1 << self.defer_shift
    }
}

/// Word and bit of a frame's pageblock.
const fn place(pfn: u32) -> (usize, u32) {
    let block = pfn >> crate::units::PAGEBLOCK_ORDER;
    ((block / 64) as usize, block % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_the_attempts_skipped_up_to_64() {
        let order = Order::new(9).expect("an order");
        let mut state = CompactState::default();
        for round in 1..=8 {
            state.defer(order);
            let skipped = (0..200).take_while(|_| state.is_deferred(order)).count();
            assert_eq!(skipped, (1 << round.min(6)) - 1, "after {round} failures");
        }
        assert!(state.is_restarting(order));
        state.reset_deferral(order, true);
        assert!(!state.is_deferred(order));
    }

    #[test]
    fn smaller_orders_than_failed_are_not_deferred() {
        let (small, large) = (
            Order::new(3).expect("an order"),
            Order::new(9).expect("one"),
        );
        let mut state = CompactState::default();
        state.reset_deferral(large, true);
        state.defer(large);
        assert!(!state.is_deferred(small));
        assert!(state.is_deferred(large));
    }
}
