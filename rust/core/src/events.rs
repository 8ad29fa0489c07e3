//! What happens in the allocator, under the names of the kernel's tracepoints: a bounded ring for
//! whoever listens, nothing for whoever does not. include/trace/events/kmem.h and compaction.h v6.12.
//!
//! The inlined fast paths step aside while somebody listens, so that they have nothing to tell:
//! what is left of a trace that is off is one test in each. The ring is no part of the machine's
//! state; to listen changes nothing that happens.

use std::collections::VecDeque;

use crate::units::{Cpu, MigrateType, Order, Pfn};

macro_rules! tracepoints {
    ($($(#[$doc:meta])* $variant:ident => $name:literal [$($field:literal),*],)*) => {
        /// A tracepoint.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Tracepoint { $($(#[$doc])* $variant,)* }

        impl Tracepoint {
            /// Every tracepoint, by number.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];
            /// Number of tracepoints.
            pub const COUNT: usize = [$(Self::$variant,)*].len();

            /// Its name in /sys/kernel/tracing/events.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The names of its fields, in the order of [`Event::fields`].
            pub const fn fields(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($field),*],)* }
            }
        }
    };
}

tracepoints! {
    /// Somebody asked for a block; frame [`NO_PFN`] if it was refused.
    PageAlloc => "mm_page_alloc" ["pfn", "order", "migratetype", "gfp_flags"],
    /// Somebody gave a block back.
    PageFree => "mm_page_free" ["pfn", "order"],
    /// One of several that were given back together.
    PageFreeBatched => "mm_page_free_batched" ["pfn"],
    /// A block left a free list, for a per-CPU list or for a caller.
    PageAllocZoneLocked => "mm_page_alloc_zone_locked"
        ["pfn", "order", "migratetype", "percpu_refill"],
    /// A block of a per-CPU list went back to the free lists; the type is its pageblock's.
    PagePcpuDrain => "mm_page_pcpu_drain" ["pfn", "order", "migratetype"],
    /// A request was served from a free list of another type.
    PageAllocExtfrag => "mm_page_alloc_extfrag" [
        "pfn", "alloc_order", "fallback_order", "alloc_migratetype", "fallback_migratetype",
        "change_ownership"
    ],
    /// Compaction of a zone begins.
    CompactionBegin => "mm_compaction_begin"
        ["zone_start", "migrate_pfn", "free_pfn", "zone_end", "sync"],
    /// It ends; the status is `enum compact_result`'s.
    CompactionEnd => "mm_compaction_end"
        ["zone_start", "migrate_pfn", "free_pfn", "zone_end", "sync", "status"],
    /// A batch was migrated.
    CompactionMigratepages => "mm_compaction_migratepages" ["nr_migrated", "nr_failed"],
}

/// The frame of a request that was refused.
pub const NO_PFN: u32 = u32::MAX;
/// Fields of the tracepoint that has most.
pub const MAX_FIELDS: usize = 6;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When the operation began that it is part of, on its CPU's clock.
    pub time_ns: u64,
    /// The CPU whose operation it is part of.
    pub cpu: u16,
    /// What happened.
    pub tracepoint: Tracepoint,
    /// [`Tracepoint::fields`], then zeros.
    pub fields: [u32; MAX_FIELDS],
}

/// The ring; as in a kernel, the oldest events make room.
#[derive(Clone, Debug)]
struct Ring {
    events: VecDeque<Event>,
    capacity: usize,
    dropped: u64,
    time_ns: u64,
    cpu: u16,
}

/// Where events go: a ring, or nowhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(Option<Box<Ring>>);

impl Events {
    /// Whether somebody listens.
    #[inline]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Keeps the last `capacity` events from now on.
    pub fn start(&mut self, capacity: usize) {
        self.0 = Some(Box::new(Ring {
            events: VecDeque::new(),
            capacity,
            dropped: 0,
            time_ns: 0,
            cpu: 0,
        }));
    }

    /// Keeps none from now on.
    pub fn stop(&mut self) {
        self.0 = None;
    }

    /// Takes the events out, oldest first, with how many were dropped since the last time.
    pub fn take(&mut self) -> (Vec<Event>, u64) {
        self.0.as_mut().map_or_else(Default::default, |ring| {
            let dropped = std::mem::take(&mut ring.dropped);
            (ring.events.drain(..).collect(), dropped)
        })
    }

    /// An operation begins, whose events follow.
    pub fn begin(&mut self, cpu: Cpu, time_ns: u64) {
        if let Some(ring) = &mut self.0 {
            (ring.cpu, ring.time_ns) = (cpu.0, time_ns);
        }
    }

    /// Notes an event if somebody listens.
    #[inline]
    pub fn note<const N: usize>(&mut self, tracepoint: Tracepoint, fields: [u32; N]) {
        if self.is_on() {
            self.push(tracepoint, &fields);
        }
    }

    #[cold]
    fn push(&mut self, tracepoint: Tracepoint, told: &[u32]) {
        let Some(ring) = &mut self.0 else { return };
        if ring.events.len() >= ring.capacity {
            ring.events.pop_front();
            ring.dropped += 1;
        }
        let mut fields = [0; MAX_FIELDS];
        fields[..told.len()].copy_from_slice(told);
        ring.events.push_back(Event {
            time_ns: ring.time_ns,
            cpu: ring.cpu,
            tracepoint,
            fields,
        });
    }

    /// A block left a free list of `migratetype`.
    #[inline]
    pub fn left_list(&mut self, pfn: Pfn, order: Order, migratetype: MigrateType) {
        let refill = crate::pcp::pcp_allowed_order(order) && migratetype.is_mergeable();
        self.note(
            Tracepoint::PageAllocZoneLocked,
            [
                pfn.0,
                order.get().into(),
                migratetype as u32,
                u32::from(refill),
            ],
        );
    }
}
