//! Booting a machine from a description: zones, holes, watermarks, free lists of a fresh kernel.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::background::{Background, BackgroundSpec};
use crate::clock::{Clocks, ZoneLock};
use crate::cma::{CmaSpec, activate_areas};
use crate::cost::CostModel;
use crate::fallback::Tuning;
use crate::free_area::{FreeArea, Side};
use crate::mem_map::{MemMap, PageClass, aligned_blocks};
use crate::memory::Memory;
use crate::pcp::Pcp;
use crate::pcp_limits::PcpLimits;
use crate::units::{MigrateType, NodeId, PAGEBLOCK_NR_PAGES, Pfn, ZoneId, ZoneKind};
use crate::vmstat::{NumaStat, VmStat};
use crate::watermark::{self, Watermarks};
use crate::zone::Zone;
use crate::zonelist::Zonelists;

/// Why a description cannot be booted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BootError(pub String);

/// A range of frames: first frame and how many.
pub type FrameRange = [u32; 2];

/// One zone of a machine to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneSpec {
    /// The node it belongs to.
    #[serde(default)]
    pub node: u8,
    /// Its type.
    pub kind: ZoneKind,
    /// First frame.
    pub start_pfn: u32,
    /// Frames from first to last, holes included.
    pub spanned: u32,
    /// Ranges without memory.
    #[serde(default)]
    pub holes: Vec<FrameRange>,
    /// Ranges that the kernel never gives to the allocator.
    #[serde(default)]
    pub reserved: Vec<FrameRange>,
    /// Frames of the allocator. The rest of the present frames is reserved: besides `reserved`, the
    /// lowest ones.
    #[serde(default)]
    pub managed: Option<u32>,
    /// Watermarks, else computed from `min_free_kbytes`.
    #[serde(default)]
    pub watermarks: Option<Watermarks>,
    /// `lowmem_reserve` by zone kind, else computed.
    #[serde(default)]
    pub lowmem_reserve: Option<[u64; ZoneKind::COUNT]>,
    /// Limits of the per-CPU lists, else computed.
    #[serde(default)]
    pub pcp_limits: Option<PcpLimits>,
}

/// Per-CPU lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // switches that do not depend on each other
pub struct PcpSpec {
    /// Whether there are any.
    pub enabled: bool,
    /// `vm.percpu_pagelist_high_fraction`; 0 tunes itself.
    pub high_fraction: u32,
    /// Split one block once at a refill and hand out the run: the same frames, sooner.
    pub run_refill: bool,
    /// `PCPF_FREE_HIGH_BATCH`: each CPU's slice of the data caches holds more than three batches.
    pub free_high_batch: bool,
    /// Frees of orders 1 to 3 empty a list only after half of `high_min` and a batch were freed in a
    /// row, not after a batch: the rule since v6.16.
    pub free_high_half_min: bool,
    /// For a request that may not reclaim a zone counts as below its high mark for want of frames
    /// only, not for want of a block of the order asked for: seen on a kernel, docs/fidelity.md.
    pub below_high_by_frames: bool,
}

impl Default for PcpSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            high_fraction: 0,
            run_refill: true,
            free_high_batch: true,
            free_high_half_min: false,
            below_high_by_frames: false,
        }
    }
}

/// A machine to boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSpec {
    /// Seed of all that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// CPUs.
    #[serde(default = "one")]
    pub nr_cpus: u16,
    /// Node of each CPU, else spread evenly in blocks.
    #[serde(default)]
    pub cpu_nodes: Option<Vec<u8>>,
    /// The zones.
    pub zones: Vec<ZoneSpec>,
    /// Node distances (ACPI SLIT), else 10 local and 20 remote.
    #[serde(default)]
    pub distances: Option<Vec<Vec<u32>>>,
    /// `vm.min_free_kbytes`, else computed.
    #[serde(default)]
    pub min_free_kbytes: Option<u64>,
    /// Whether transparent huge pages are on, which raises a computed `min_free_kbytes`.
    #[serde(default = "yes")]
    pub thp: bool,
    /// `vm.watermark_scale_factor`.
    #[serde(default = "ten")]
    pub watermark_scale_factor: u64,
    /// `vm.watermark_boost_factor`.
    #[serde(default = "boost")]
    pub watermark_boost_factor: u64,
    /// `vm.lowmem_reserve_ratio`.
    #[serde(default = "reserve_ratio")]
    pub lowmem_reserve_ratio: [u64; ZoneKind::COUNT],
    /// Per-CPU lists.
    #[serde(default)]
    pub pcp: PcpSpec,
    /// Whether requests that may wait (`__GFP_DIRECT_RECLAIM`) compact and reclaim before they are
    /// refused.
    #[serde(default = "yes")]
    pub direct_reclaim: bool,
    /// kswapd and kcompactd, else they run when called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<BackgroundSpec>,
    /// Keep blocks of order >= 9 in dense arrays.
    #[serde(default = "yes")]
    pub hi_store: bool,
    /// CMA areas.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cma: Vec<CmaSpec>,
    /// What steps cost.
    #[serde(default)]
    pub costs: CostModel,
}

const fn one() -> u16 {
    1
}
const fn yes() -> bool {
    true
}
const fn ten() -> u64 {
    10
}
const fn boost() -> u64 {
    15_000
}
const fn reserve_ratio() -> [u64; ZoneKind::COUNT] {
    watermark::LOWMEM_RESERVE_RATIO
}

impl BootSpec {
    /// Reads a description.
    ///
    /// # Errors
    /// [`BootError`] when the text is no description.
    pub fn from_json(text: &str) -> Result<Self, BootError> {
        serde_json::from_str(text).map_err(|error| BootError(error.to_string()))
    }

    fn nr_nodes(&self) -> usize {
        let nodes = self
            .zones
            .iter()
            .map(|zone| usize::from(zone.node) + 1)
            .max()
            .unwrap_or(1);
        nodes.max(self.distances.as_ref().map_or(1, Vec::len))
    }

    fn cpu_nodes(&self) -> Result<Vec<NodeId>, BootError> {
        let nodes = self.nr_nodes();
        let cpus = usize::from(self.nr_cpus);
        let Some(given) = &self.cpu_nodes else {
            let spread = |cpu: usize| u8::try_from(cpu * nodes / cpus).expect("nodes are u8");
            return Ok((0..cpus).map(|cpu| NodeId(spread(cpu))).collect());
        };
        if given.len() != cpus || given.iter().any(|&node| usize::from(node) >= nodes) {
            return Err(BootError(format!(
                "cpu_nodes must name a node for each of {cpus} CPUs"
            )));
        }
        Ok(given.iter().map(|&node| NodeId(node)).collect())
    }

    fn distances(&self) -> Result<Vec<Vec<u32>>, BootError> {
        let nodes = self.nr_nodes();
        let distance = |a: usize, b: usize| if a == b { 10 } else { 20 };
        let Some(given) = &self.distances else {
            return Ok((0..nodes)
                .map(|a| (0..nodes).map(|b| distance(a, b)).collect())
                .collect());
        };
        if given.len() != nodes || given.iter().any(|row| row.len() != nodes) {
            return Err(BootError(format!(
                "distances must be {nodes} rows of {nodes}"
            )));
        }
        Ok(given.clone())
    }
}

/// Ranges of one zone, disjoint and ascending.
struct Ranges {
    holes: Vec<FrameRange>,
    reserved: Vec<FrameRange>,
    usable: Vec<FrameRange>,
}

fn total(ranges: &[FrameRange]) -> u64 {
    ranges.iter().map(|range| u64::from(range[1])).sum()
}

/// What is left of `ranges` without `holes`; both ascending and disjoint.
fn subtract(ranges: &[FrameRange], holes: &[FrameRange]) -> Vec<FrameRange> {
    let mut left = Vec::new();
    for &[start, nr] in ranges {
        let end = start + nr;
        let mut next = start;
        for &[hole, hole_nr] in holes {
            let hole_end = hole + hole_nr;
            if hole_end <= next || hole >= end {
                continue;
            }
            if hole > next {
                left.push([next, hole - next]);
            }
            next = hole_end.min(end);
        }
        if next < end {
            left.push([next, end - next]);
        }
    }
    left
}

/// The ranges in order, if they lie in the zone and do not meet.
fn in_order(
    spec: &ZoneSpec,
    ranges: &[FrameRange],
    what: &str,
) -> Result<Vec<FrameRange>, BootError> {
    let mut sorted: Vec<FrameRange> = ranges
        .iter()
        .copied()
        .filter(|range| range[1] > 0)
        .collect();
    sorted.sort_unstable();
    let mut next = u64::from(spec.start_pfn);
    for &[start, nr] in &sorted {
        if u64::from(start) < next {
            return Err(BootError(format!(
                "{what} at frame {start} overlap, or lie outside the zone"
            )));
        }
        next = u64::from(start) + u64::from(nr);
    }
    if next > u64::from(spec.start_pfn) + u64::from(spec.spanned) {
        return Err(BootError(format!("{what} go beyond the zone's last frame")));
    }
    Ok(sorted)
}

impl ZoneSpec {
    fn ranges(&self) -> Result<Ranges, BootError> {
        if u64::from(self.start_pfn) + u64::from(self.spanned) >= u64::from(u32::MAX) {
            return Err(BootError(format!(
                "zone {} goes beyond 2^32 - 1 frames",
                self.kind.name()
            )));
        }
        let holes = in_order(self, &self.holes, "holes")?;
        let present = subtract(&[[self.start_pfn, self.spanned]], &holes);
        let named = in_order(self, &self.reserved, "reserved ranges")?;
        let mut usable = subtract(&present, &named);
        let mut reserved = subtract(&present, &usable);
        let managed = self.managed.map_or(total(&usable), u64::from);
        let mut surplus = total(&usable).checked_sub(managed).ok_or_else(|| {
            let most = total(&usable);
            BootError(format!(
                "zone {} cannot manage {managed} of {most} frames",
                self.kind.name()
            ))
        })?;
        for range in &mut usable {
            let taken = u64::from(range[1]).min(surplus);
            let nr = u32::try_from(taken).expect("no more than the range has");
            if nr > 0 {
                reserved.push([range[0], nr]);
            }
            *range = [range[0] + nr, range[1] - nr];
            surplus -= taken;
        }
        usable.retain(|range| range[1] > 0);
        Ok(Ranges {
            holes,
            reserved,
            usable,
        })
    }
}

impl Memory {
    /// Boots a machine: every usable frame is free, in blocks as large as alignment allows, lowest
    /// first: `memblock_free_all()`, mm/memblock.c v6.12.
    ///
    /// # Errors
    /// [`BootError`] when the description contradicts itself.
    pub fn boot(spec: &BootSpec) -> Result<Self, BootError> {
        if spec.zones.is_empty() || spec.nr_cpus == 0 {
            return Err(BootError(
                "a machine has at least one zone and one CPU".to_owned(),
            ));
        }
        let mut order: Vec<&ZoneSpec> = spec.zones.iter().collect();
        order.sort_by_key(|zone| (zone.node, zone.kind));
        let ends = order
            .iter()
            .map(|z| u64::from(z.start_pfn) + u64::from(z.spanned));
        let nr_frames = u32::try_from(ends.max().unwrap_or(0))
            .map_err(|_| BootError("more than 2^32 - 1 frames".to_owned()))?;
        let mut map = MemMap::new(nr_frames, spec.hi_store);
        let (mut zones, mut present) = (Vec::new(), Vec::new());
        for zone_spec in order {
            zones.push(boot_zone(&mut map, zone_spec, &mut present, zones.len())?);
        }
        for [start, nr] in subtract(&[[0, nr_frames]], &merged(present)?) {
            map.set_run(Pfn(start), nr, PageClass::Nopage);
        }
        let cma = activate_areas(&mut map, &mut zones, &spec.cma)?;
        let cpu_nodes = spec.cpu_nodes()?;
        let distances = spec.distances()?;
        let nr_listed = if spec.pcp.enabled { cpu_nodes.len() } else { 0 };
        let zonelists = Zonelists::build(&zones, &distances, &cpu_nodes, nr_listed);
        let managed: u64 = zones.iter().map(|zone: &Zone| zone.managed).sum();
        let tuning = Tuning {
            watermark_boost_factor: spec.watermark_boost_factor,
            mobility_disabled: managed < u64::from(PAGEBLOCK_NR_PAGES) * MigrateType::COUNT as u64,
            run_refill: spec.pcp.run_refill,
        };
        let mut memory = Self {
            map,
            zones,
            zonelists,
            clock: Clocks::new(cpu_nodes.clone(), spec.costs),
            cpu_nodes,
            vmstat: VmStat::default(),
            tuning,
            reclaim: crate::reclaim::ReclaimQueue::default(),
            background: Background::new(spec.background, distances.len()),
            moves: None,
            spec: spec.clone(),
            owners: crate::address_space::Owners::default(),
            cma,
        };
        memory.setup_limits();
        Ok(memory)
    }

    /// Watermarks, reserves and per-CPU limits of every zone, given or computed.
    fn setup_limits(&mut self) {
        let kbytes = self
            .spec
            .min_free_kbytes
            .unwrap_or_else(|| self.computed_min_free_kbytes());
        self.apply_watermarks(kbytes);
        let given: Vec<ZoneSpec> = self.spec.zones.clone();
        for zone in &mut self.zones {
            let spec = given
                .iter()
                .find(|spec| spec.node == zone.node.0 && spec.kind == zone.kind)
                .expect("zones are made from the description");
            if let Some(watermarks) = spec.watermarks {
                zone.watermark = watermarks;
            }
            if let Some(reserve) = spec.lowmem_reserve {
                zone.lowmem_reserve = reserve;
            }
            zone.pcp_limits = spec
                .pcp_limits
                .unwrap_or_else(|| pcp_limits_of(zone, &self.cpu_nodes, &self.spec));
            let dma32 = self.zonelists.nr_nodes() == 1 || self.zonelists.has_dma32(zone.node);
            zone.avoid_fragment = zone.kind == ZoneKind::Normal && dma32;
            zone.free_high_batch = self.spec.pcp.free_high_batch;
            zone.free_high_half_min = self.spec.pcp.free_high_half_min;
            zone.below_high_by_frames = self.spec.pcp.below_high_by_frames;
            if self.spec.pcp.enabled {
                zone.pcps = vec![Pcp::default(); usize::from(self.spec.nr_cpus)];
            }
        }
    }

    /// `init_per_zone_wmark_min()` and then khugepaged's recommendation.
    fn computed_min_free_kbytes(&mut self) -> u64 {
        let first = watermark::min_free_kbytes(self.nr_free_buffer_pages());
        if !self.spec.thp {
            return first;
        }
        self.apply_watermarks(first);
        let recommended = self.recommended_min_free_kbytes();
        first.max(recommended)
    }

    /// `nr_free_buffer_pages()`, mm/page_alloc.c v6.12.
    pub(crate) fn nr_free_buffer_pages(&self) -> u64 {
        let lowmem = self
            .zones
            .iter()
            .filter(|zone| zone.kind <= ZoneKind::Normal);
        lowmem
            .map(|zone| zone.managed.saturating_sub(zone.watermark.high))
            .sum()
    }

    fn apply_watermarks(&mut self, min_free_kbytes: u64) {
        let mut managed = vec![[0; ZoneKind::COUNT]; self.spec.nr_nodes()];
        for zone in &self.zones {
            managed[usize::from(zone.node.0)][zone.kind.index()] = zone.managed;
        }
        for zone in &mut self.zones {
            let reserve = watermark::lowmem_reserve(
                managed[usize::from(zone.node.0)],
                self.spec.lowmem_reserve_ratio,
            );
            zone.lowmem_reserve = reserve[zone.kind.index()];
        }
        self.setup_zone_marks(min_free_kbytes);
    }
}

/// The limits of a zone's per-CPU lists: `zone_pcp_update()`.
pub(crate) fn pcp_limits_of(zone: &Zone, cpu_nodes: &[NodeId], spec: &BootSpec) -> PcpLimits {
    let on_node = cpu_nodes.iter().filter(|&&node| node == zone.node).count();
    let cpus = (
        u32::try_from(on_node).expect("CPUs are u16"),
        u32::from(spec.nr_cpus),
    );
    let low = zone.watermark.low;
    PcpLimits::compute(zone.managed, low, cpus, spec.pcp.high_fraction)
}

/// Makes a zone and frees its usable frames; appends its present ranges.
fn boot_zone(
    map: &mut MemMap,
    spec: &ZoneSpec,
    present: &mut Vec<FrameRange>,
    index: usize,
) -> Result<Zone, BootError> {
    let ranges = spec.ranges()?;
    let id = ZoneId(u8::try_from(index).map_err(|_| BootError("too many zones".to_owned()))?);
    let own = subtract(&[[spec.start_pfn, spec.spanned]], &ranges.holes);
    let mut zone = Zone {
        id,
        node: NodeId(spec.node),
        kind: spec.kind,
        start_pfn: Pfn(spec.start_pfn),
        spanned: spec.spanned,
        present: u32::try_from(total(&own)).expect("no more than spanned"),
        managed: total(&ranges.usable),
        free_area: FreeArea::default(),
        nr_free_pages: total(&ranges.usable),
        nr_free_cma: 0,
        nr_free_highatomic: 0,
        nr_reserved_highatomic: 0,
        watermark: Watermarks::default(),
        watermark_boost: 0,
        lowmem_reserve: [0; ZoneKind::COUNT],
        below_high: false,
        boosted_watermark: false,
        reclaim_active: false,
        pcps: Vec::new(),
        pcp_limits: PcpLimits::default(),
        free_high_batch: true,
        free_high_half_min: false,
        below_high_by_frames: false,
        avoid_fragment: false,
        lock: ZoneLock::default(),
        numa: NumaStat::default(),
        compact: crate::compaction::CompactState::default(),
    };
    for &[start, nr] in &own {
        map.assign_zone(Pfn(start), nr, id);
    }
    for &[start, nr] in &ranges.reserved {
        map.set_run(Pfn(start), nr, PageClass::Reserved);
    }
    for &[start, nr] in &ranges.usable {
        for (pfn, order) in aligned_blocks(Pfn(start), nr) {
            zone.free_area
                .add(map, pfn, order, MigrateType::Movable, Side::Tail);
        }
    }
    present.extend(own);
    Ok(zone)
}

/// The same ranges in order, which must not overlap.
fn merged(ranges: Vec<FrameRange>) -> Result<Vec<FrameRange>, BootError> {
    let mut sorted = ranges;
    sorted.sort_unstable();
    let mut next = 0;
    for &[start, nr] in &sorted {
        if start < next {
            return Err(BootError(format!("two zones have the frame {start}")));
        }
        next = start + nr;
    }
    Ok(sorted)
}
