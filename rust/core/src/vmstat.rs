//! Event counters by Linux's names: `enum vm_event_item`, include/linux/vm_event_item.h v6.12, and
//! the NUMA counters of `enum numa_stat_item`, include/linux/mmzone.h v6.12.

use serde::{Deserialize, Serialize};

use crate::units::ZoneKind;

macro_rules! vm_events {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// A counter of /proc/vmstat.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum VmEvent { $($(#[$doc])* $variant,)* }

        impl VmEvent {
            /// Every event, by number.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];
            /// Number of events.
            pub const COUNT: usize = [$(Self::$variant,)*].len();

            /// The name in /proc/vmstat.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

vm_events! {
    /// Frames allocated from DMA; the next three follow `ZoneKind`'s order.
    PgAllocDma => "pgalloc_dma",
    /// Frames allocated from DMA32.
    PgAllocDma32 => "pgalloc_dma32",
    /// Frames allocated from Normal.
    PgAllocNormal => "pgalloc_normal",
    /// Frames allocated from Movable.
    PgAllocMovable => "pgalloc_movable",
    /// Frames freed.
    PgFree => "pgfree",
    /// Faults.
    PgFault => "pgfault",
    /// Major faults.
    PgMajFault => "pgmajfault",
    /// Direct reclaims on behalf of Normal and below.
    AllocStall => "allocstall_normal",
    /// Direct reclaims on behalf of Movable.
    AllocStallMovable => "allocstall_movable",
    /// Pages scanned by direct reclaim.
    PgScanDirect => "pgscan_direct",
    /// Pages scanned by kswapd.
    PgScanKswapd => "pgscan_kswapd",
    /// Pages reclaimed directly.
    PgStealDirect => "pgsteal_direct",
    /// Pages reclaimed by kswapd.
    PgStealKswapd => "pgsteal_kswapd",
    /// Times kswapd was woken.
    KswapdWake => "pageoutrun",
    /// Direct compactions.
    CompactStall => "compact_stall",
    /// Direct compactions that failed.
    CompactFail => "compact_fail",
    /// Direct compactions that succeeded.
    CompactSuccess => "compact_success",
    /// Pages looked at by the migration scanner.
    CompactMigrateScanned => "compact_migrate_scanned",
    /// Pages looked at by the free scanner.
    CompactFreeScanned => "compact_free_scanned",
    /// Pages isolated by compaction.
    CompactIsolated => "compact_isolated",
    /// Times kcompactd was woken.
    CompactDaemonWake => "compact_daemon_wake",
    /// Pages that kcompactd's migration scanner looked at.
    CompactDaemonMigrateScanned => "compact_daemon_migrate_scanned",
    /// Pages that kcompactd's free scanner looked at.
    CompactDaemonFreeScanned => "compact_daemon_free_scanned",
    /// Pages migrated.
    PgMigrateSuccess => "pgmigrate_success",
    /// Pages that could not be migrated.
    PgMigrateFail => "pgmigrate_fail",
    /// Huge pages given at a fault.
    ThpFaultAlloc => "thp_fault_alloc",
    /// Huge pages refused at a fault.
    ThpFaultFallback => "thp_fault_fallback",
    /// Huge pages made by collapsing small ones.
    ThpCollapseAlloc => "thp_collapse_alloc",
    /// Huge pages refused when collapsing.
    ThpCollapseAllocFailed => "thp_collapse_alloc_failed",
    /// Huge zero pages given.
    ThpZeroPageAlloc => "thp_zero_page_alloc",
    /// Huge zero pages refused.
    ThpZeroPageAllocFailed => "thp_zero_page_alloc_failed",
    /// Huge pages of shared memory that came at a fault or a write.
    ThpFileAlloc => "thp_file_alloc",
    /// Those that could not be had.
    ThpFileFallback => "thp_file_fallback",
    /// Huge mappings of files.
    ThpFileMapped => "thp_file_mapped",
    /// Huge mappings split into small ones.
    ThpSplitPmd => "thp_split_pmd",
    /// Large folios split into single frames.
    ThpSplitPage => "thp_split_page",
    /// Large folios of which a part is mapped no more.
    ThpDeferredSplitPage => "thp_deferred_split_page",
    /// Page blocks claimed by another migratetype (ours; Linux has a trace event only).
    PageblockClaim => "pageblock_claim",
    /// Pages stolen from another migratetype's block (ours, likewise).
    PageSteal => "page_steal",
    /// Times a per-CPU list was refilled (ours).
    PcpRefill => "pcp_refill",
    /// Times frames of a per-CPU list went back to the buddy lists (ours).
    PcpDrain => "pcp_drain",
    /// Out-of-memory kills.
    OomKill => "oom_kill",
}

/// All event counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmStat([u64; VmEvent::COUNT]);

impl Default for VmStat {
    fn default() -> Self {
        Self([0; VmEvent::COUNT])
    }
}

impl VmStat {
    /// Counts `nr` events: `__count_vm_events()`.
    #[inline]
    pub fn count(&mut self, event: VmEvent, nr: u64) {
        self.0[event as usize] += nr;
    }

    /// Counts `nr` frames as allocated from a zone of this kind: `PGALLOC_<zone>`.
    #[inline]
    pub(crate) fn count_alloc(&mut self, kind: ZoneKind, nr: u64) {
        self.0[VmEvent::PgAllocDma as usize + kind.index()] += nr;
    }

    /// The counters, in the order of [`VmEvent::ALL`].
    pub(crate) const fn counters(&self) -> &[u64; VmEvent::COUNT] {
        &self.0
    }

    /// Counters that were read from somewhere.
    pub(crate) const fn from_counters(counters: &[u64; VmEvent::COUNT]) -> Self {
        Self(*counters)
    }

    /// A counter.
    pub fn get(&self, event: VmEvent) -> u64 {
        self.0[event as usize]
    }

    /// Blocks that came from pageblocks of another migratetype.
    #[inline]
    pub(crate) const fn fallbacks(&self) -> u64 {
        self.0[VmEvent::PageblockClaim as usize] + self.0[VmEvent::PageSteal as usize]
    }

    /// Every counter with its name, in the order of [`VmEvent::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        VmEvent::ALL
            .iter()
            .map(|&event| (event.name(), self.get(event)))
    }
}

/// Counters of one zone's allocations by where they were wanted: `zone_statistics()`,
/// mm/page_alloc.c v6.12.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumaStat {
    /// From the node that was preferred.
    pub hit: u64,
    /// From here although another node was preferred.
    pub miss: u64,
    /// Preferred here but taken elsewhere.
    pub foreign: u64,
    /// By a CPU of this node.
    pub local: u64,
    /// By a CPU of another node.
    pub other: u64,
}
