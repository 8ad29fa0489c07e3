//! Saving and restoring a whole machine.
//!
//! A snapshot is `MAGIC`, the SHA-256 digest of the body, and the body compressed with zstd. The body
//! is canonical: it depends on the state alone, not on how it came about, and free memory costs a few
//! bytes a run. Version 2:
//!
//! 1. the description the machine was booted from, as JSON;
//! 2. clocks and counters, and what is taken of CMA areas if there are any;
//! 3. zones: marks, flags, what compaction remembers, lists of free blocks and per-CPU lists, in list order;
//! 4. pageblock types and blocks, run-length coded; then flags, counts and owners of used frames;
//! 5. who uses them: address spaces with their page tables, sharers, files, contents, runs.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::address_space::Owners;
use crate::background::Background;
use crate::boot::BootSpec;
use crate::codec::{Reader, SnapshotError, Writer};
use crate::free_area::Side;
use crate::mem_map::{BlockHead, FrameRecord, MemMap, PageClass};
use crate::memory::Memory;
use crate::pcp::Pcp;
use crate::units::{MigrateType, Order, PAGEBLOCK_NR_PAGES, Pfn};
use crate::vmstat::{VmEvent, VmStat};
use crate::zone::Zone;

/// First bytes of every snapshot; the last one is the version.
const MAGIC: &[u8; 8] = b"contigm\x04";
const DIGEST_BYTES: usize = 32;
const ZSTD_LEVEL: i32 = 3;

impl Memory {
    /// The whole state, compressed.
    ///
    /// # Panics
    /// Never: compressing to memory cannot fail.
    pub fn snapshot(&self) -> Vec<u8> {
        let body = self.encode();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&Sha256::digest(&body));
        let packed = zstd::encode_all(body.as_slice(), ZSTD_LEVEL).expect("memory does not fail");
        bytes.extend_from_slice(&packed);
        bytes
    }

    /// SHA-256 of the state: equal states have equal digests.
    pub fn digest(&self) -> [u8; DIGEST_BYTES] {
        Sha256::digest(self.encode()).into()
    }

    /// A machine in the state that was saved, which is checked in full. At most `max_body_bytes` are
    /// unpacked.
    ///
    /// # Errors
    /// [`SnapshotError`] when the bytes are no snapshot, were damaged, or describe no sound state.
    pub fn restore(bytes: &[u8], max_body_bytes: u64) -> Result<Self, SnapshotError> {
        let rest = bytes
            .strip_prefix(MAGIC.as_slice())
            .filter(|rest| rest.len() >= DIGEST_BYTES)
            .ok_or_else(|| SnapshotError::new("it does not begin as one of this version"))?;
        let (digest, packed) = rest.split_at(DIGEST_BYTES);
        let damaged = |_| SnapshotError::new("its compressed part is damaged");
        let unpacker = zstd::Decoder::new(packed).map_err(damaged)?;
        let mut body = Vec::new();
        unpacker
            .take(max_body_bytes.saturating_add(1))
            .read_to_end(&mut body)
            .map_err(damaged)?;
        if body.len() as u64 > max_body_bytes {
            return Err(SnapshotError::new(format!(
                "it holds more than {max_body_bytes} bytes"
            )));
        }
        if Sha256::digest(&body).as_slice() != digest {
            return Err(SnapshotError::new("its digest is that of another state"));
        }
        Self::decode(&body)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        put_json(&mut writer, &self.spec);
        put_json(&mut writer, &self.clock);
        put_json(&mut writer, &self.reclaim);
        if self.spec.background.is_some() {
            put_json(&mut writer, &self.background);
        }
        if !self.cma.is_empty() {
            put_json(&mut writer, &self.cma);
        }
        for &counter in self.vmstat.counters() {
            writer.number(counter);
        }
        for zone in &self.zones {
            encode_zone(&mut writer, &self.map, zone);
        }
        encode_map(&mut writer, &self.map);
        self.owners.encode(&mut writer);
        writer.into_bytes()
    }

    fn decode(body: &[u8]) -> Result<Self, SnapshotError> {
        let mut reader = Reader::new(body);
        let spec: BootSpec = get_json(&mut reader)?;
        let mut memory = Self::boot(&spec).map_err(|error| SnapshotError::new(error.0))?;
        memory.clock = memory
            .clock
            .with_times(get_json(&mut reader)?)
            .ok_or_else(|| SnapshotError::new("its clocks are not this machine's"))?;
        memory.reclaim = get_json(&mut reader)?;
        if spec.background.is_some() {
            let (nr_nodes, nr_zones) = (memory.zonelists.nr_nodes(), memory.zones.len());
            memory.background = Some(get_json(&mut reader)?)
                .filter(|saved: &Background| saved.fits(nr_nodes, nr_zones))
                .ok_or_else(|| SnapshotError::new("its threads are not this machine's"))?;
        }
        if !spec.cma.is_empty() {
            memory.cma = get_json(&mut reader)?;
        }
        let mut counters = [0; VmEvent::COUNT];
        for counter in &mut counters {
            *counter = reader.number()?;
        }
        memory.vmstat = VmStat::from_counters(&counters);
        let mut map = memory.map.emptied();
        let mut lists = Vec::new();
        for zone in &mut memory.zones {
            zone.forget_frames();
            lists.push(decode_zone(&mut reader, zone)?);
        }
        decode_map(&mut reader, &mut map)?;
        for (zone, lists) in memory.zones.iter_mut().zip(&lists) {
            link_lists(&mut map, zone, lists)?;
        }
        memory.owners = Owners::decode(&mut reader, map.nr_frames())?;
        map.settle_files();
        memory.map = map;
        if !reader.is_at_end() {
            return Err(SnapshotError::new("it goes on after its end"));
        }
        memory
            .check()
            .map_err(|error| SnapshotError::new(error.0))?;
        Ok(memory)
    }
}

fn put_json<T: Serialize>(writer: &mut Writer, value: &T) {
    writer.bytes(&serde_json::to_vec(value).expect("these types have a JSON form"));
}

fn get_json<T: DeserializeOwned>(reader: &mut Reader<'_>) -> Result<T, SnapshotError> {
    serde_json::from_slice(reader.bytes()?).map_err(|error| SnapshotError::new(error.to_string()))
}

/// Free blocks of each list, from the head on.
type FreeLists = Vec<(Order, MigrateType, Vec<u32>)>;

fn encode_zone(writer: &mut Writer, map: &MemMap, zone: &Zone) {
    put_json(
        writer,
        &(
            zone.watermark,
            zone.lowmem_reserve,
            zone.pcp_limits,
            zone.numa,
            &zone.compact,
        ),
    );
    writer.number(zone.nr_reserved_highatomic);
    writer.number(zone.watermark_boost);
    writer.number(zone.lock.free_at_ns);
    writer.number(zone.lock.holder);
    writer.flag(zone.below_high);
    writer.flag(zone.boosted_watermark);
    writer.flag(zone.reclaim_active);
    for order in Order::all() {
        for migratetype in MigrateType::ALL {
            let blocks: Vec<u32> = zone
                .free_area
                .iter(map, order, migratetype)
                .map(|pfn| pfn.0)
                .collect();
            writer.sequence(blocks.into_iter());
        }
    }
    writer.size(zone.pcps.len());
    for pcp in &zone.pcps {
        writer.number(pcp.high);
        writer.number(pcp.alloc_factor);
        writer.number(pcp.free_count);
        writer.flag(pcp.prev_free_high_order);
        for (_, list) in pcp.lists() {
            let pfns: Vec<u32> = list.iter().collect();
            writer.sequence(pfns.into_iter());
        }
    }
}

fn decode_zone(reader: &mut Reader<'_>, zone: &mut Zone) -> Result<FreeLists, SnapshotError> {
    (
        zone.watermark,
        zone.lowmem_reserve,
        zone.pcp_limits,
        zone.numa,
        zone.compact,
    ) = get_json(reader)?;
    if !zone.compact.is_sound() {
        return Err(SnapshotError::new(
            "a zone's compaction was deferred too often",
        ));
    }
    zone.nr_reserved_highatomic = reader.number()?;
    zone.watermark_boost = reader.number()?;
    zone.lock.free_at_ns = reader.number()?;
    zone.lock.holder = reader.number()?;
    zone.below_high = reader.flag()?;
    zone.boosted_watermark = reader.flag()?;
    zone.reclaim_active = reader.flag()?;
    let mut lists = Vec::new();
    for order in Order::all() {
        for migratetype in MigrateType::ALL {
            lists.push((order, migratetype, reader.sequence()?));
        }
    }
    if reader.number::<usize>()? != zone.pcps.len() {
        return Err(SnapshotError::new(
            "its per-CPU lists are not this machine's",
        ));
    }
    for pcp in &mut zone.pcps {
        *pcp = decode_pcp(reader)?;
    }
    Ok(lists)
}

fn decode_pcp(reader: &mut Reader<'_>) -> Result<Pcp, SnapshotError> {
    let mut pcp = Pcp {
        high: reader.number()?,
        alloc_factor: reader.number()?,
        free_count: reader.number()?,
        prev_free_high_order: reader.flag()?,
        ..Pcp::default()
    };
    let mut count = 0_u32;
    let orders: Vec<Order> = pcp.lists().map(|(order, _)| order).collect();
    for (list, order) in pcp.lists.iter_mut().zip(orders) {
        let pfns: Vec<u32> = reader.sequence()?;
        for &pfn in &pfns {
            list.push_back(pfn, order);
        }
        let nr = u32::try_from(pfns.len())
            .ok()
            .and_then(|nr| nr.checked_mul(order.nr_pages()));
        let sum = nr.and_then(|nr| count.checked_add(nr));
        count = sum.ok_or_else(|| SnapshotError::new("a per-CPU list is too long"))?;
    }
    pcp.count = count;
    if pcp.alloc_factor > Pcp::MAX_ALLOC_FACTOR {
        return Err(SnapshotError::new("an alloc_factor is too large"));
    }
    Ok(pcp)
}

fn link_lists(map: &mut MemMap, zone: &mut Zone, lists: &FreeLists) -> Result<(), SnapshotError> {
    for (order, migratetype, pfns) in lists {
        for &pfn in pfns {
            let pfn = Pfn(pfn);
            // A listed block is marked free and not yet linked; that it is listed once is left to
            // the checker, which counts.
            if !map.is_free_head(pfn, *order) {
                return Err(SnapshotError::new(format!(
                    "frame {} is listed, not free",
                    pfn.0
                )));
            }
            zone.account_added(u64::from(order.nr_pages()), *migratetype);
            zone.free_area
                .add(map, pfn, *order, *migratetype, Side::Tail);
        }
    }
    Ok(())
}

/// Whether frames of this class have flags, counts and owners worth saving.
const fn has_records(class: PageClass) -> bool {
    !matches!(
        class,
        PageClass::Free
            | PageClass::Pcp
            | PageClass::Nopage
            | PageClass::Reserved
            | PageClass::Offline
    )
}

fn encode_map(writer: &mut Writer, map: &MemMap) {
    encode_pageblock_types(writer, map);
    let mut run: Option<(BlockHead, u64)> = None;
    for head in map.blocks() {
        match &mut run {
            Some((of, nr))
                if (head.class, head.order, head.compound) == (of.class, of.order, of.compound) =>
            {
                *nr += 1;
            }
            _ => {
                put_blocks(writer, run);
                run = Some((head, 1));
            }
        }
    }
    put_blocks(writer, run);
    let mut records = RecordRuns::default();
    for head in map.blocks().filter(|head| has_records(head.class)) {
        for frame in head.pfn.0..head.pfn.0 + head.order.nr_pages() {
            records.add(writer, map.record(Pfn(frame)));
        }
    }
    records.flush(writer);
    let (refs, maps) = map.overflow();
    for table in [refs, maps] {
        writer.sequence(table.keys().copied().collect::<Vec<_>>().into_iter());
        writer.sequence(table.values().copied().collect::<Vec<_>>().into_iter());
    }
}

fn put_blocks(writer: &mut Writer, run: Option<(BlockHead, u64)>) {
    let Some((head, nr)) = run else { return };
    writer.number(nr);
    writer.number(head.class as u8);
    writer.number(head.order.get());
    writer.flag(head.compound);
}

fn decode_map(reader: &mut Reader<'_>, map: &mut MemMap) -> Result<(), SnapshotError> {
    decode_pageblock_types(reader, map)?;
    let mut next = 0_u32;
    while next < map.nr_frames() {
        let nr: u32 = reader.number()?;
        let class = PageClass::new(reader.number()?);
        let class = class.ok_or_else(|| SnapshotError::new("no such class of frames"))?;
        let order = Order::new(reader.number()?);
        let order = order.map_err(|error| SnapshotError::new(error.to_string()))?;
        let compound = reader.flag()?;
        let left = (map.nr_frames() - next) >> order.get();
        if compound && (order == Order::ZERO || class == PageClass::Free) {
            return Err(SnapshotError::new(format!("no folio is at frame {next}")));
        }
        if nr == 0 || nr > left || next & (order.nr_pages() - 1) != 0 {
            return Err(SnapshotError::new(format!(
                "the blocks at frame {next} cannot be"
            )));
        }
        for _ in 0..nr {
            if compound {
                map.set_compound(Pfn(next), order, class);
            } else {
                map.set_head(Pfn(next), order, class);
            }
            next += order.nr_pages();
        }
    }
    decode_records(reader, map)?;
    let mut table = || -> Result<BTreeMap<u32, u32>, SnapshotError> {
        let (keys, values) = (reader.sequence()?, reader.sequence()?);
        let fits = keys.len() == values.len() && keys.iter().all(|&pfn| pfn < map.nr_frames());
        let table = keys.into_iter().zip(values).collect();
        if fits {
            Ok(table)
        } else {
            Err(SnapshotError::new("an overflow table is malformed"))
        }
    };
    let (refs, maps) = (table()?, table()?);
    map.set_overflow(refs, maps);
    Ok(())
}

fn decode_records(reader: &mut Reader<'_>, map: &mut MemMap) -> Result<(), SnapshotError> {
    let heads: Vec<BlockHead> = map
        .blocks()
        .filter(|head| has_records(head.class))
        .collect();
    let mut left = 0_u32;
    let mut record = FrameRecord::default();
    let mut step = 0;
    for head in heads {
        for frame in head.pfn.0..head.pfn.0 + head.order.nr_pages() {
            if left == 0 {
                left = reader.number()?;
                record = FrameRecord {
                    flags: reader.number()?,
                    refs: reader.number()?,
                    maps: reader.number()?,
                    anchor: reader.number()?,
                    index: reader.number()?,
                };
                step = u32::from(reader.flag()?);
            } else {
                record.index = record.index.wrapping_add(step);
            }
            left = left
                .checked_sub(1)
                .ok_or_else(|| SnapshotError::new("an empty run"))?;
            map.set_record(Pfn(frame), record);
        }
    }
    if left == 0 {
        Ok(())
    } else {
        Err(SnapshotError::new("a run of frames is too long"))
    }
}

/// Groups frames that differ in nothing, or in an index that counts up.
#[derive(Default)]
struct RecordRuns {
    first: FrameRecord,
    last: FrameRecord,
    step: u32,
    nr: u64,
}

impl RecordRuns {
    fn add(&mut self, writer: &mut Writer, record: FrameRecord) {
        let step = record.index.wrapping_sub(self.last.index);
        let same = FrameRecord {
            index: self.last.index,
            ..record
        } == self.last;
        let goes_on = if self.nr == 1 {
            step <= 1
        } else {
            step == self.step
        };
        if self.nr > 0 && same && goes_on {
            self.step = step;
            self.nr += 1;
        } else {
            self.flush(writer);
            *self = Self {
                first: record,
                last: record,
                step: 0,
                nr: 1,
            };
        }
        self.last = record;
    }

    fn flush(&self, writer: &mut Writer) {
        if self.nr == 0 {
            return;
        }
        writer.number(self.nr);
        writer.number(self.first.flags);
        writer.number(self.first.refs);
        writer.number(self.first.maps);
        writer.number(self.first.anchor);
        writer.number(self.first.index);
        writer.flag(self.step == 1);
    }
}

fn encode_pageblock_types(writer: &mut Writer, map: &MemMap) {
    let of = |block: usize| {
        let block = u32::try_from(block).expect("fewer pageblocks than frames");
        map.pageblock_migratetype(Pfn(block * PAGEBLOCK_NR_PAGES))
    };
    let mut start = 0;
    while start < map.nr_pageblocks() {
        let migratetype = of(start);
        let end = (start..map.nr_pageblocks()).find(|&block| of(block) != migratetype);
        let end = end.unwrap_or(map.nr_pageblocks());
        writer.size(end - start);
        writer.number(migratetype as u8);
        start = end;
    }
}

fn decode_pageblock_types(reader: &mut Reader<'_>, map: &mut MemMap) -> Result<(), SnapshotError> {
    let mut block = 0;
    while block < map.nr_pageblocks() {
        let nr: usize = reader.number()?;
        let migratetype = MigrateType::new(reader.number()?);
        let migratetype = migratetype.map_err(|error| SnapshotError::new(error.to_string()))?;
        if nr == 0 || nr > map.nr_pageblocks() - block {
            return Err(SnapshotError::new("a run of pageblocks is too long"));
        }
        for at in block..block + nr {
            let at = u32::try_from(at).expect("fewer pageblocks than frames");
            map.set_pageblock_migratetype(Pfn(at * PAGEBLOCK_NR_PAGES), migratetype);
        }
        block += nr;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gfp::Gfp;
    use crate::units::Cpu;

    fn body() -> Vec<u8> {
        let json = r#"{"nr_cpus": 2, "zones": [
            {"kind": "Normal", "start_pfn": 5, "spanned": 4000, "holes": [[1024, 700]]}]}"#;
        let mut memory = Memory::boot(&BootSpec::from_json(json).expect("valid")).expect("boots");
        for order in [0, 0, 0, 3, 9, 1] {
            let order = Order::new(order).expect("an order");
            memory
                .alloc_pages(Cpu(0), Gfp::KERNEL, order, None)
                .expect("room");
        }
        memory.encode()
    }

    proptest! {
        #[test]
        fn a_damaged_body_is_refused_or_sound(at in any::<prop::sample::Index>(), byte: u8) {
            let mut body = body();
            let at = at.index(body.len());
            prop_assume!(body[at] != byte);
            body[at] = byte;
            if let Ok(memory) = Memory::decode(&body) {
                prop_assert_eq!(memory.check(), Ok(()));
            }
        }
    }
}
