//! The part of a snapshot that says who uses which frame. Canonical like the rest: sparse tables are
//! written as runs, in ascending order; where two of them lie in the host's memory is not state.
//!
//! Numbers of sharers' sets are state, as the owner words of frames name them.

use crate::address_space::{AddressSpace, MmId, Owners};
use crate::codec::{Reader, SnapshotError, Writer};
use crate::contents::{Fill, PAGE_SIZE};
use crate::folio::DeferredSplit;
use crate::page_cache::{File, FileId, FileKind, FileSpec};
use crate::page_table::{Leaf, LeafId, Level, PTRS_PER_TABLE, Pte, Table, USER_PAGES};
use crate::units::Pfn;

fn refuse(what: &str) -> SnapshotError {
    SnapshotError::new(what)
}

impl Owners {
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer
            .bytes(&serde_json::to_vec(&(&self.stat, &self.wild, &self.runs)).expect("plain data"));
        writer.bytes(&serde_json::to_vec(&self.thp).expect("plain data"));
        writer.sequence(self.deferred.iter().map(|head| head.0));
        writer.flag(self.huge_zero_pfn != Pfn::NONE);
        writer.number(self.huge_zero_pfn.0);
        writer.flag(self.zero_pfn != Pfn::NONE);
        writer.number(self.zero_pfn.0);
        writer.size(self.spaces.len());
        for space in &self.spaces {
            writer.flag(space.is_some());
            if let Some(space) = space {
                self.encode_space(writer, space);
            }
        }
        writer.sequence(self.free_spaces.iter().copied());
        self.rmap.encode(writer);
        writer.number(self.cache.next_id);
        writer.size(self.cache.files.len());
        for (&id, file) in &self.cache.files {
            writer.number(id.0);
            encode_file(writer, file);
        }
        self.encode_contents(writer);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>, nr_frames: u32) -> Result<Self, SnapshotError> {
        let mut owners = Self::default();
        let counters = serde_json::from_slice(reader.bytes()?);
        (owners.stat, owners.wild, owners.runs) =
            counters.map_err(|error| SnapshotError::new(error.to_string()))?;
        owners.thp = serde_json::from_slice(reader.bytes()?)
            .map_err(|error| SnapshotError::new(error.to_string()))?;
        let heads: Vec<u32> = reader.sequence()?;
        let heads: Result<Vec<_>, _> = heads.iter().map(|&pfn| in_range(pfn, nr_frames)).collect();
        owners.deferred = DeferredSplit::from_heads(heads?);
        owners.huge_zero_pfn = optional_frame(reader, nr_frames)?;
        if owners
            .runs
            .iter()
            .any(|(_, run)| u64::from(run.base.0) + u64::from(run.nr) > u64::from(nr_frames))
        {
            return Err(refuse("a run lies beyond the last frame"));
        }
        owners.zero_pfn = optional_frame(reader, nr_frames)?;
        for id in 0..reader.length()? {
            let space = if reader.flag()? {
                let space = owners.decode_space(reader, nr_frames)?;
                Some(space)
            } else {
                None
            };
            debug_assert_eq!(id, owners.spaces.len());
            owners.spaces.push(space);
        }
        owners.free_spaces = reader.sequence()?;
        owners.check_free_spaces()?;
        owners.rmap.decode(reader)?;
        owners.cache.next_id = reader.number()?;
        for _ in 0..reader.length()? {
            let id = FileId(reader.number()?);
            let file = decode_file(reader, nr_frames)?;
            if id.0 >= owners.cache.next_id || owners.cache.files.insert(id, file).is_some() {
                return Err(refuse("a file's number is not its own"));
            }
        }
        owners.decode_contents(reader, nr_frames)?;
        Ok(owners)
    }

    /// The free list names every dead address space once.
    fn check_free_spaces(&self) -> Result<(), SnapshotError> {
        let mut free = self.free_spaces.clone();
        free.sort_unstable();
        let dead = (0_u32..)
            .zip(&self.spaces)
            .filter(|(_, space)| space.is_none());
        if free.into_iter().eq(dead.map(|(id, _)| id)) {
            Ok(())
        } else {
            Err(refuse("its list of free address spaces is wrong"))
        }
    }

    fn encode_space(&self, writer: &mut Writer, space: &AddressSpace) {
        for count in space.rss {
            writer.number(count);
        }
        writer.number(space.hiwater_rss);
        writer.sequence(space.table_stock.iter().map(|pfn| pfn.0));
        writer.flag(space.pgd.is_some());
        let Some(pgd) = space.pgd else { return };
        writer.number(self.tables.dir_pfn(pgd).0);
        let tables = self.tables.below(pgd);
        writer.size(tables.len());
        for table in tables {
            writer.number(table.level);
            writer.number(table.vpn);
            writer.number(table.pfn.0);
            if let Some(leaf) = table.leaf {
                encode_leaf(writer, self.tables.leaf(leaf));
            }
        }
    }

    fn decode_space(
        &mut self,
        reader: &mut Reader<'_>,
        nr_frames: u32,
    ) -> Result<AddressSpace, SnapshotError> {
        let mut space = AddressSpace::default();
        for count in &mut space.rss {
            *count = reader.number()?;
        }
        space.hiwater_rss = reader.number()?;
        for pfn in reader.sequence()? {
            space.table_stock.push(in_range(pfn, nr_frames)?);
        }
        if !reader.flag()? {
            return Ok(space);
        }
        let pgd = self.tables.new_dir(frame(reader, nr_frames)?);
        space.pgd = Some(pgd);
        for _ in 0..reader.length()? {
            let (level, vpn) = (reader.number::<u32>()?, reader.number::<u64>()?);
            let table = Table {
                level,
                vpn,
                pfn: table_frame(reader, nr_frames)?,
                leaf: None,
            };
            if table.pfn == Pfn::NONE && level != 0 {
                return Err(refuse("a page table has no frame"));
            }
            let kind = match level {
                0 => Level::Pte,
                1 => Level::Pmd,
                2 => Level::Pud,
                _ => return Err(refuse("a page table is at no level")),
            };
            let added = (vpn < USER_PAGES)
                .then(|| self.tables.add_below(pgd, &table))
                .flatten();
            let leaf = added.ok_or_else(|| refuse("a page table has no place"))?;
            space.tables[kind as usize] += u32::from(table.pfn != Pfn::NONE);
            if level == 0 {
                decode_leaf(reader, self.tables.leaf_mut(LeafId(leaf)), nr_frames)?;
            }
        }
        Ok(space)
    }

    fn encode_contents(&self, writer: &mut Writer) {
        writer.size(self.contents.len());
        for (pfn, fill, bytes) in self.contents.entries() {
            writer.number(pfn);
            writer.number(fill.byte);
            writer.number(fill.len);
            writer.size(bytes.len());
            for (offset, byte) in bytes {
                writer.number(offset);
                writer.number(byte);
            }
        }
    }

    fn decode_contents(
        &mut self,
        reader: &mut Reader<'_>,
        nr_frames: u32,
    ) -> Result<(), SnapshotError> {
        let mut next = 0;
        for _ in 0..reader.length()? {
            let pfn = frame(reader, nr_frames)?.0;
            let fill = Fill {
                byte: reader.number()?,
                len: reader.number()?,
            };
            let nr = reader.length()?;
            let mut bytes: Vec<(u16, u8)> = Vec::with_capacity(nr);
            for _ in 0..nr {
                bytes.push((reader.number()?, reader.number()?));
            }
            let ascending = bytes.is_sorted_by(|a, b| a.0 < b.0);
            if pfn < next || !ascending || bytes.iter().any(|&(at, _)| at >= PAGE_SIZE) {
                return Err(refuse("a page's content is malformed"));
            }
            next = pfn + 1;
            self.contents.restore_entry((pfn, fill, bytes));
        }
        Ok(())
    }
}

fn in_range(pfn: u32, nr_frames: u32) -> Result<Pfn, SnapshotError> {
    if pfn < nr_frames {
        Ok(Pfn(pfn))
    } else {
        Err(refuse("a frame lies beyond the last"))
    }
}

/// A frame that may be none.
fn optional_frame(reader: &mut Reader<'_>, nr_frames: u32) -> Result<Pfn, SnapshotError> {
    match (reader.flag()?, reader.number()?) {
        (true, pfn) => in_range(pfn, nr_frames),
        (false, _) => Ok(Pfn::NONE),
    }
}

/// The frame of a table; a huge mapping of a file has none.
fn table_frame(reader: &mut Reader<'_>, nr_frames: u32) -> Result<Pfn, SnapshotError> {
    match reader.number()? {
        pfn if pfn == Pfn::NONE.0 => Ok(Pfn::NONE),
        pfn => in_range(pfn, nr_frames),
    }
}

fn frame(reader: &mut Reader<'_>, nr_frames: u32) -> Result<Pfn, SnapshotError> {
    in_range(reader.number()?, nr_frames)
}

/// Entries as runs: how many, their bits, and the first frame and whether the next ones follow it.
fn encode_leaf(writer: &mut Writer, leaf: &Leaf) {
    writer.flag(leaf.huge);
    let mut at = 0;
    while at < leaf.ptes.len() {
        let first = leaf.ptes[at];
        let step = u64::from(leaf.ptes.get(at + 1) == Some(&Pte(first.0.wrapping_add(1))));
        let same = |(i, pte): (u64, &Pte)| pte.0 == first.0.wrapping_add(i * step);
        let nr = (0..)
            .zip(&leaf.ptes[at..])
            .take_while(|&entry| same(entry))
            .count();
        writer.size(nr);
        writer.number(first.0 >> 32);
        if !first.is_none() {
            writer.number(first.pfn().0);
            writer.flag(step == 1);
        }
        at += nr;
    }
}

fn decode_leaf(
    reader: &mut Reader<'_>,
    leaf: &mut Leaf,
    nr_frames: u32,
) -> Result<(), SnapshotError> {
    leaf.huge = reader.flag()?;
    let mut at = 0;
    while at < leaf.ptes.len() {
        let nr: usize = reader.number()?;
        let bits: u64 = reader.number::<u32>()?.into();
        let run = leaf
            .ptes
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..nr))
            .filter(|run| !run.is_empty());
        let run = run.ok_or_else(|| refuse("a run of entries is too long"))?;
        if bits > 0 {
            let first = u64::from(frame(reader, nr_frames)?.0);
            let step = u64::from(reader.flag()?);
            if first + (nr as u64 - 1) * step >= u64::from(nr_frames) {
                return Err(refuse("an entry names a frame beyond the last"));
            }
            for (i, pte) in (0..).zip(run) {
                *pte = Pte(bits << 32 | (first + i * step));
            }
        }
        at += nr;
    }
    debug_assert_eq!(at as u64, PTRS_PER_TABLE);
    Ok(())
}

fn encode_file(writer: &mut Writer, file: &File) {
    writer.flag(file.kind == FileKind::Shmem);
    writer.number(file.size);
    writer.flag(file.fill.is_some());
    writer.number(file.fill.unwrap_or(0));
    writer.number(file.fill_end);
    writer.sequence(file.holes.keys().copied().collect::<Vec<_>>().into_iter());
    writer.sequence(file.holes.values().copied().collect::<Vec<_>>().into_iter());
    let (indexes, pfns): (Vec<u32>, Vec<u32>) = file
        .cached(0..u32::MAX)
        .map(|(index, pfn)| (index, pfn.0))
        .unzip();
    writer.sequence(indexes.into_iter());
    writer.sequence(pfns.into_iter());
    writer.size(file.mappings.len());
    for (&(mm, delta), &count) in &file.mappings {
        writer.number(mm.0);
        writer.number(delta.cast_unsigned());
        writer.number(count);
    }
}

fn decode_file(reader: &mut Reader<'_>, nr_frames: u32) -> Result<File, SnapshotError> {
    let kind = if reader.flag()? {
        FileKind::Shmem
    } else {
        FileKind::Regular
    };
    let size = reader.number()?;
    let filled = reader.flag()?;
    let byte: u8 = reader.number()?;
    let mut file = File::new(FileSpec {
        kind,
        size,
        fill: filled.then_some(byte),
    });
    file.fill_end = reader.number()?;
    let (starts, ends) = (reader.sequence()?, reader.sequence()?);
    let apart = starts
        .iter()
        .skip(1)
        .zip(&ends)
        .all(|(start, end)| start > end);
    if starts.len() != ends.len() || !apart || starts.iter().zip(&ends).any(|(a, b)| a >= b) {
        return Err(refuse("a file's holes are malformed"));
    }
    file.holes = starts.into_iter().zip(ends).collect();
    let (indexes, pfns) = (reader.sequence()?, reader.sequence()?);
    if indexes.len() != pfns.len() || !indexes.is_sorted_by(|a, b| a < b) {
        return Err(refuse("a file's pages are malformed"));
    }
    for (index, pfn) in indexes.into_iter().zip(pfns) {
        file.insert(index, in_range(pfn, nr_frames)?);
    }
    for _ in 0..reader.length()? {
        let key = (
            MmId(reader.number()?),
            reader.number::<u64>()?.cast_signed(),
        );
        if file.mappings.insert(key, reader.number()?).is_some() {
            return Err(refuse("a file's mapping is named twice"));
        }
    }
    Ok(file)
}
