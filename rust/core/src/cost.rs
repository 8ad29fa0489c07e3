//! What each step of the allocator costs in simulated time, and where each figure is from.

use serde::{Deserialize, Serialize};

use crate::boot::BootError;
use crate::units::Order;

macro_rules! costs {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// Simulated time of each step: nanoseconds, but for the picoseconds of `refill_check_ps`.
        ///
        /// The defaults are magnitudes of a current x86-64 server, not measurements of a particular
        /// one, save where a source is named. `contigmm calibrate` fits them to a machine, and a
        /// description may replace them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct CostModel { $($(#[$doc])* pub $name: u32,)* }

        impl Default for CostModel {
            fn default() -> Self {
                Self { $($name: $value,)* }
            }
        }

        impl CostModel {
            /// Every cost with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

costs! {
    /// Entering and leaving the allocator: zonelist, watermark.
    alloc_ns = 40,
    /// Taking from or putting on a per-CPU list.
    pcp_ns = 15,
    /// Taking and releasing an uncontended zone lock.
    lock_ns = 20,
    /// A zone lock, and the free lists and counters that it guards, coming from a CPU of the same
    /// node that held it last. Derived from the published times of 1 and 8 threads on one socket of
    /// a Xeon Gold 5320 (`contigmm study contention`): about six cache lines of 80 ns.
    handover_ns = 511,
    /// The same from a CPU of another node. Assumed: twice as long.
    handover_far_ns = 1022,
    /// Under the lock: one block taken and split off, or freed and merged.
    buddy_ns = 30,
    /// Under the lock, at the refill of a per-CPU list: looking at the descriptor of one frame, in
    /// picoseconds. Nothing since v6.3, which left `check_pcp_refill()` out of `rmqueue_bulk()`,
    /// mm/page_alloc.c.
    refill_check_ps = 0,
    /// Under the lock: a pageblock of another migratetype chosen, counted and claimed, or a block
    /// stolen from it.
    fallback_ns = 1000,
    /// Zeroing a frame.
    zero_ns = 100,
    /// Copying a frame.
    copy_ns = 200,
    /// A page fault, without the frame.
    fault_ns = 400,
    /// Entering and leaving a system call.
    syscall_ns = 100,
    /// One page-table entry set or cleared.
    pte_ns = 8,
    /// One frame looked at by a scanner of compaction or reclaim.
    scan_ns = 10,
}

impl CostModel {
    /// Reads costs; those that are not named have their defaults.
    ///
    /// # Errors
    /// [`BootError`] when the text is no such object.
    pub fn from_json(text: &str) -> Result<Self, BootError> {
        serde_json::from_str(text).map_err(|error| BootError(format!("costs: {error}")))
    }

    /// Nanoseconds of an allocation that a per-CPU list serves.
    #[inline]
    pub(crate) const fn pcp_hit_ns(&self) -> u64 {
        self.alloc_ns as u64 + self.pcp_ns as u64
    }

    /// Nanoseconds under the lock for blocks taken or freed, so many of them by fallback.
    #[inline]
    pub(crate) const fn locked_ns(&self, blocks: u32, fallbacks: u64) -> u64 {
        self.buddy_ns as u64 * blocks as u64 + self.fallback_ns as u64 * fallbacks
    }

    /// The same at the refill of a per-CPU list.
    pub(crate) const fn refill_ns(&self, blocks: u32, order: Order, fallbacks: u64) -> u64 {
        let frames = (blocks as u64) << order.get();
        self.locked_ns(blocks, fallbacks) + self.refill_check_ps as u64 * frames / 1000
    }
}
