//! How an allocator's choice of frames decides whether huge frames come back: most of a zone is
//! taken as single movable frames by several CPUs, half of them are freed at random, and then a
//! random share is freed and taken again, round by round. The experiment is that of Wrenger et al.,
//! "LLFree: Scalable and Optionally-Persistent Page-Frame Allocation", USENIX ATC 2023.

use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::boot::{BootError, BootSpec};
use crate::gfp::Gfp;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::pcp::Pcp;
use crate::tree_policy::TreeAllocator;
use crate::units::{Cpu, Order, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER, Pfn};

/// What hands out single frames.
pub trait FramePolicy {
    /// Takes a frame, or nothing if there is none.
    fn get(&mut self, cpu: u16) -> Option<u32>;
    /// Gives a frame back.
    fn put(&mut self, cpu: u16, pfn: u32);
    /// Free huge frames: 2 MiB, aligned, wholly free.
    fn free_huge(&self) -> u64;
    /// Free frames, those on per-CPU lists included.
    fn free_frames(&self) -> u64;
    /// The same by pageblock.
    fn free_by_pageblock(&self) -> Vec<u32>;
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub struct FragSpec {
    /// Huge frames of the zone.
    pub nr_huge: u32,
    /// CPUs that take turns.
    pub nr_cpus: u16,
    /// Share of the frames that is taken, in thousandths.
    pub filled: u32,
    /// Share of what was taken that is freed at once, in thousandths.
    pub freed: u32,
    /// Share of what is left that is freed and taken again in a round, in thousandths.
    pub churned: u32,
    /// Rounds.
    pub rounds: u32,
    /// Free huge frames at the start: the system itself uses the others.
    pub start_huge: u64,
    /// Seed of the choices.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FragResult {
    /// Frames that the system itself used.
    pub system: u64,
    /// Free huge frames before the first round and after each.
    pub huge: Vec<u64>,
    /// Free frames at the same moments, those on per-CPU lists included.
    pub free: Vec<u64>,
    /// Pageblocks by their free frames, 0 to 512, before the first round and after the last.
    pub histogram: [Vec<u64>; 2],
}

/// Runs the experiment on Linux's allocator: free lists and per-CPU lists.
///
/// # Errors
/// [`BootError`] when no machine has such a zone.
pub fn run_linux(spec: &FragSpec) -> Result<FragResult, BootError> {
    let frames = spec.nr_huge.saturating_mul(PAGEBLOCK_NR_PAGES);
    let json = format!(
        r#"{{"nr_cpus": {}, "zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": {frames}}}]}}"#,
        spec.nr_cpus
    );
    let mut linux = Linux(Memory::boot(&BootSpec::from_json(&json)?)?);
    Ok(run(spec, &mut linux))
}

/// Runs it on an allocator that reserves trees of 32 huge frames for CPUs, as LLFree does.
#[must_use]
pub fn run_trees(spec: &FragSpec) -> FragResult {
    run(spec, &mut TreeAllocator::new(spec.nr_huge, spec.nr_cpus))
}

struct Linux(Memory);

impl FramePolicy for Linux {
    #[inline]
    fn get(&mut self, cpu: u16) -> Option<u32> {
        let pfn = self
            .0
            .alloc_pages(Cpu(cpu), Gfp::HIGHUSER_MOVABLE, Order::ZERO, None);
        pfn.ok().map(|pfn| pfn.0)
    }

    #[inline]
    fn put(&mut self, cpu: u16, pfn: u32) {
        self.0.free_pages(Cpu(cpu), Pfn(pfn), Order::ZERO);
    }

    fn free_huge(&self) -> u64 {
        let count = |row: &[u64; Order::COUNT]| {
            row[usize::from(PAGEBLOCK_ORDER)..]
                .iter()
                .zip([1, 2])
                .map(|(nr, huge)| nr * huge)
                .sum::<u64>()
        };
        self.0.buddyinfo().iter().map(count).sum()
    }

    fn free_frames(&self) -> u64 {
        let on_lists = |pcps: &[Pcp]| pcps.iter().map(|pcp| u64::from(pcp.count)).sum::<u64>();
        let zones = self.0.zones().iter();
        zones
            .map(|zone| zone.nr_free_pages + on_lists(&zone.pcps))
            .sum()
    }

    fn free_by_pageblock(&self) -> Vec<u32> {
        let mut free = vec![0; self.0.map().nr_pageblocks()];
        for head in self.0.map().blocks() {
            if matches!(head.class, PageClass::Free | PageClass::Pcp) {
                let nr = head.order.nr_pages();
                for block in free[head.pfn.pageblock()..]
                    .iter_mut()
                    .take(nr.div_ceil(PAGEBLOCK_NR_PAGES) as usize)
                {
                    *block += nr.min(PAGEBLOCK_NR_PAGES);
                }
            }
        }
        free
    }
}

fn thousandths(of: usize, share: u32) -> usize {
    of / 1000 * share as usize + of % 1000 * share as usize / 1000
}

fn run(spec: &FragSpec, policy: &mut impl FramePolicy) -> FragResult {
    let mut rng = Pcg64Mcg::seed_from_u64(spec.seed);
    let mut result = FragResult::default();
    let total = spec.nr_huge as usize * PAGEBLOCK_NR_PAGES as usize;
    let mut held = Vec::new();
    take(
        policy,
        spec.nr_cpus,
        thousandths(total, spec.filled),
        &mut held,
    );
    result.system = use_for_system(policy, spec.start_huge);
    let nr = thousandths(held.len(), spec.freed);
    give(policy, spec.nr_cpus, nr, &mut held, &mut rng);
    observe(policy, &mut result);
    result.histogram[0] = histogram(policy);
    for _ in 0..spec.rounds {
        let nr = thousandths(held.len(), spec.churned);
        give(policy, spec.nr_cpus, nr, &mut held, &mut rng);
        take(policy, spec.nr_cpus, nr, &mut held);
        observe(policy, &mut result);
    }
    result.histogram[1] = histogram(policy);
    result
}

/// The CPUs take frames in turn.
fn take(policy: &mut impl FramePolicy, nr_cpus: u16, nr: usize, held: &mut Vec<u32>) {
    let mut cpus = (0..nr_cpus).cycle();
    for _ in 0..nr {
        let cpu = cpus.next().expect("a cycle does not end");
        let Some(pfn) = policy.get(cpu) else { return };
        held.push(pfn);
    }
}

/// Frames drawn from all that are held go back, by CPUs in turn: they were shuffled across them.
fn give(
    policy: &mut impl FramePolicy,
    nr_cpus: u16,
    nr: usize,
    held: &mut Vec<u32>,
    rng: &mut Pcg64Mcg,
) {
    let mut cpus = (0..nr_cpus).cycle();
    for _ in 0..nr {
        let at = below(rng, held.len());
        let cpu = cpus.next().expect("a cycle does not end");
        policy.put(cpu, held.swap_remove(at));
    }
}

/// A number below `bound`, by multiplication; the bias is below 2^-32.
#[allow(clippy::cast_possible_truncation)] // the upper half of a product with a usize
fn below(rng: &mut Pcg64Mcg, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

/// Takes frames for good until so many huge frames are left, or nothing is to be had.
fn use_for_system(policy: &mut impl FramePolicy, start_huge: u64) -> u64 {
    let mut used = 0;
    while policy.free_huge() > start_huge {
        for _ in 0..64 {
            if policy.get(0).is_none() {
                return used; // the reserves are left
            }
            used += 1;
        }
    }
    used
}

fn observe(policy: &impl FramePolicy, result: &mut FragResult) {
    result.huge.push(policy.free_huge());
    result.free.push(policy.free_frames());
}

fn histogram(policy: &impl FramePolicy) -> Vec<u64> {
    let mut counts = vec![0; PAGEBLOCK_NR_PAGES as usize + 1];
    for free in policy.free_by_pageblock() {
        counts[free as usize] += 1;
    }
    counts
}
