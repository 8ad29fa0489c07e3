//! How long per-CPU lists may grow: `zone_set_pageset_high_and_batch()`, mm/page_alloc.c v6.12.

use serde::{Deserialize, Serialize};

/// `MIN_PERCPU_PAGELIST_HIGH_FRACTION`.
const MIN_HIGH_FRACTION: u64 = 8;

/// How many frames the lists of a zone may hold: the same on every CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcpLimits {
    /// Frames to move at once.
    pub batch: u32,
    /// Least value of `high`.
    pub high_min: u32,
    /// Greatest value of `high`.
    pub high_max: u32,
}

impl PcpLimits {
    /// `zone_set_pageset_high_and_batch()` for a zone with `local_cpus` CPUs on its node, of
    /// `all_cpus`; `high_fraction` as `vm.percpu_pagelist_high_fraction`.
    pub fn compute(managed: u64, low_wmark: u64, cpus: (u32, u32), high_fraction: u32) -> Self {
        let (local_cpus, all_cpus) = cpus;
        let quarter = ((managed >> 10).min(256) / 4).max(1);
        let batch = ((1_u64 << (quarter + quarter / 2).ilog2()) - 1).max(1);
        let split = u64::from(if local_cpus == 0 {
            all_cpus
        } else {
            local_cpus
        });
        let high = |total: u64| clamp_u32((total / split).max(batch * 4));
        let (high_min, high_max) = if high_fraction > 0 {
            let high = high(managed / u64::from(high_fraction));
            (high, high)
        } else {
            (high(low_wmark), high(managed / MIN_HIGH_FRACTION))
        };
        Self {
            batch: clamp_u32(batch),
            high_min,
            high_max,
        }
    }
}

fn clamp_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
