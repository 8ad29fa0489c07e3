//! What the bytes of a page are: zero, or a page of a file, under a sparse overlay of bytes that
//! were written. Absent means zero, so that a machine full of zeroed pages costs nothing.
//!
//! A word a frame, in tables a pageblock that exist only where something was written. One byte on a
//! zero page, what a touch leaves, is kept in the word itself; all else in a record.

use crate::mem_map::{MemMap, page_flags};
use crate::units::{PAGEBLOCK_NR_PAGES, Pfn};

/// Bytes of a page.
pub const PAGE_SIZE: u16 = 4096;
/// Overlays of more bytes than this are kept as a whole page.
const SPARSE_MAX: usize = 256;
const INLINE: u32 = 1 << 31;

/// What a page holds where nothing was written: `byte` up to `len`, zeros behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// The byte.
    pub byte: u8,
    /// How many of them.
    pub len: u16,
}

impl Fill {
    /// A page of zeros.
    pub const ZERO: Self = Self { byte: 0, len: 0 };

    /// The byte at an offset within the page.
    pub const fn at(self, offset: u16) -> u8 {
        if offset < self.len { self.byte } else { 0 }
    }

    const fn is_zero(self) -> bool {
        self.byte == 0 || self.len == 0
    }
}

#[derive(Clone, Debug)]
enum Overlay {
    /// Ascending offsets.
    Sparse(Vec<(u16, u8)>),
    Whole(Box<[u8; PAGE_SIZE as usize]>),
}

/// The content of one page.
#[derive(Clone, Debug)]
pub(crate) struct PageContent {
    fill: Fill,
    overlay: Overlay,
}

impl PageContent {
    fn new(fill: Fill) -> Self {
        Self {
            fill,
            overlay: Overlay::Sparse(Vec::new()),
        }
    }

    fn at(&self, offset: u16) -> u8 {
        match &self.overlay {
            Overlay::Sparse(bytes) => bytes
                .binary_search_by_key(&offset, |&(at, _)| at)
                .map_or_else(|_| self.fill.at(offset), |found| bytes[found].1),
            Overlay::Whole(bytes) => bytes[usize::from(offset)],
        }
    }

    fn set(&mut self, offset: u16, byte: u8) {
        match &mut self.overlay {
            Overlay::Sparse(bytes) => {
                match bytes.binary_search_by_key(&offset, |&(at, _)| at) {
                    Ok(found) => bytes[found].1 = byte,
                    Err(at) => bytes.insert(at, (offset, byte)),
                }
                if bytes.len() > SPARSE_MAX {
                    self.make_whole();
                }
            }
            Overlay::Whole(bytes) => bytes[usize::from(offset)] = byte,
        }
    }

    fn make_whole(&mut self) {
        let mut whole = Box::new([0; PAGE_SIZE as usize]);
        for (offset, slot) in (0..PAGE_SIZE).zip(whole.iter_mut()) {
            *slot = self.at(offset);
        }
        self.overlay = Overlay::Whole(whole);
    }

    /// The fill, and the bytes that differ from it: the same whatever way they were written.
    fn canonical(&self) -> (Fill, Vec<(u16, u8)>) {
        let fill = if self.fill.is_zero() {
            Fill::ZERO
        } else {
            self.fill
        };
        let differs = |&offset: &u16| self.at(offset) != fill.at(offset);
        (
            fill,
            (0..PAGE_SIZE)
                .filter(differs)
                .map(|offset| (offset, self.at(offset)))
                .collect(),
        )
    }
}

/// One page's content in a snapshot: frame, fill, bytes that differ from the fill.
pub(crate) type ContentEntry = (u32, Fill, Vec<(u16, u8)>);

/// The contents of all frames.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    /// A word a frame, by pageblock.
    words: Vec<Option<Box<[u32; PAGEBLOCK_NR_PAGES as usize]>>>,
    records: Vec<Option<PageContent>>,
    free: Vec<u32>,
}

/// Position of a frame in its pageblock.
const fn slot(pfn: Pfn) -> usize {
    (pfn.0 % PAGEBLOCK_NR_PAGES) as usize
}

const fn inline(offset: u16, byte: u8) -> u32 {
    INLINE | (offset as u32) << 8 | byte as u32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "cut out of the word that `inline` made"
)]
const fn outline(word: u32) -> (u16, u8) {
    ((word >> 8) as u16, word as u8)
}

impl Contents {
    fn word(&self, pfn: Pfn) -> u32 {
        self.words
            .get(pfn.pageblock())
            .and_then(Option::as_ref)
            .map_or(0, |block| block[slot(pfn)])
    }

    fn word_mut(&mut self, pfn: Pfn) -> &mut u32 {
        let at = pfn.pageblock();
        if at >= self.words.len() {
            self.words.resize_with(at + 1, || None);
        }
        let block = self.words[at].get_or_insert_with(|| Box::new([0; 512]));
        &mut block[slot(pfn)]
    }

    fn record(&self, word: u32) -> &PageContent {
        self.records[word as usize - 1]
            .as_ref()
            .expect("a word names a live record")
    }

    fn add_record(&mut self, content: PageContent) -> u32 {
        if let Some(at) = self.free.pop() {
            self.records[at as usize] = Some(content);
            return at + 1;
        }
        self.records.push(Some(content));
        u32::try_from(self.records.len()).expect("fewer records than frames")
    }

    /// The byte at `offset` of a frame whose content, if nothing was written, is `fill`.
    pub fn read(&self, map: &MemMap, pfn: Pfn, fill: Fill, offset: u16) -> u8 {
        if map.flags(pfn) & page_flags::HAS_CONTENT == 0 {
            return fill.at(offset);
        }
        match self.word(pfn) {
            word if word & INLINE != 0 => {
                let (at, byte) = outline(word);
                if at == offset { byte } else { 0 }
            }
            word => self.record(word).at(offset),
        }
    }

    /// Whether all bytes of a frame that holds zeros where nothing was written are zero:
    /// `pages_identical()` with the zero page.
    pub fn is_zero(&self, map: &MemMap, pfn: Pfn) -> bool {
        if map.flags(pfn) & page_flags::HAS_CONTENT == 0 {
            return true;
        }
        match self.word(pfn) {
            word if word & INLINE != 0 => outline(word).1 == 0,
            word => self.record(word).canonical() == (Fill::ZERO, Vec::new()),
        }
    }

    /// Writes a byte.
    pub fn write(&mut self, map: &mut MemMap, pfn: Pfn, fill: Fill, (offset, byte): (u16, u8)) {
        if map.flags(pfn) & page_flags::HAS_CONTENT == 0 {
            if fill.at(offset) == byte {
                return;
            }
            map.add_flags(pfn, page_flags::HAS_CONTENT);
            if fill.is_zero() {
                *self.word_mut(pfn) = inline(offset, byte);
                return;
            }
            let record = self.add_record(PageContent::new(fill));
            *self.word_mut(pfn) = record;
        }
        let word = self.word(pfn);
        if word & INLINE == 0 {
            let record = &mut self.records[word as usize - 1];
            record
                .as_mut()
                .expect("a word names a live record")
                .set(offset, byte);
            return;
        }
        let (at, old) = outline(word);
        if at == offset {
            *self.word_mut(pfn) = inline(offset, byte);
            return;
        }
        let mut content = PageContent::new(Fill::ZERO);
        content.set(at, old);
        content.set(offset, byte);
        let record = self.add_record(content);
        *self.word_mut(pfn) = record;
    }

    /// Makes a fresh frame's content that of another one, which, if nothing was written, is `fill`:
    /// `copy_user_highpage()`.
    pub fn copy(&mut self, map: &mut MemMap, from: Pfn, to: Pfn, fill: Fill) {
        let word = if map.flags(from) & page_flags::HAS_CONTENT != 0 {
            match self.word(from) {
                word if word & INLINE != 0 => word,
                word => {
                    let content = self.record(word).clone();
                    self.add_record(content)
                }
            }
        } else if fill.is_zero() {
            return;
        } else {
            self.add_record(PageContent::new(fill))
        };
        map.add_flags(to, page_flags::HAS_CONTENT);
        *self.word_mut(to) = word;
    }

    /// Forgets what was written to a frame: it is freed.
    #[cold]
    pub fn clear(&mut self, map: &mut MemMap, pfn: Pfn) {
        self.take(map, pfn);
    }

    /// Takes a frame's content away from it.
    fn take(&mut self, map: &mut MemMap, pfn: Pfn) -> Option<PageContent> {
        if map.flags(pfn) & page_flags::HAS_CONTENT == 0 {
            return None;
        }
        map.clear_flags(pfn, page_flags::HAS_CONTENT);
        let word = std::mem::take(self.word_mut(pfn));
        if word & INLINE != 0 {
            let (offset, byte) = outline(word);
            let mut content = PageContent::new(Fill::ZERO);
            content.set(offset, byte);
            return Some(content);
        }
        self.free.push(word - 1);
        self.records[word as usize - 1].take()
    }

    /// Moves a frame's content to another frame, which has none: the page was migrated.
    pub fn transfer(&mut self, map: &mut MemMap, from: Pfn, to: Pfn) {
        if map.flags(from) & page_flags::HAS_CONTENT == 0 {
            return;
        }
        map.clear_flags(from, page_flags::HAS_CONTENT);
        map.add_flags(to, page_flags::HAS_CONTENT);
        let word = std::mem::take(self.word_mut(from));
        *self.word_mut(to) = word;
    }

    /// Zeroes the bytes of a page from `offset` on: the tail of a file that was cut.
    pub fn zero_tail(&mut self, map: &mut MemMap, pfn: Pfn, fill: Fill, offset: u16) {
        let mut content = self
            .take(map, pfn)
            .unwrap_or_else(|| PageContent::new(fill));
        content.fill.len = content.fill.len.min(offset);
        match &mut content.overlay {
            Overlay::Sparse(bytes) => bytes.retain(|&(at, _)| at < offset),
            Overlay::Whole(bytes) => bytes[usize::from(offset)..].fill(0),
        }
        self.put(map, pfn, content);
    }

    fn put(&mut self, map: &mut MemMap, pfn: Pfn, content: PageContent) {
        map.add_flags(pfn, page_flags::HAS_CONTENT);
        let record = self.add_record(content);
        *self.word_mut(pfn) = record;
    }

    /// Number of frames that have content.
    pub fn len(&self) -> usize {
        self.words
            .iter()
            .flatten()
            .map(|b| b.iter().filter(|&&word| word != 0).count())
            .sum()
    }

    /// Every content, by frame.
    pub fn entries(&self) -> impl Iterator<Item = ContentEntry> + '_ {
        let blocks = self.words.iter().enumerate();
        let words = blocks.flat_map(|(at, block)| {
            block.iter().flat_map(move |words| {
                let pfn = move |slot: usize| at * PAGEBLOCK_NR_PAGES as usize + slot;
                words
                    .iter()
                    .enumerate()
                    .map(move |(slot, &word)| (pfn(slot), word))
            })
        });
        words.filter(|&(_, word)| word != 0).map(|(pfn, word)| {
            let pfn = u32::try_from(pfn).expect("a frame's number");
            if word & INLINE != 0 {
                let (offset, byte) = outline(word);
                let bytes = if byte == 0 {
                    vec![]
                } else {
                    vec![(offset, byte)]
                };
                (pfn, Fill::ZERO, bytes)
            } else {
                let (fill, bytes) = self.record(word).canonical();
                (pfn, fill, bytes)
            }
        })
    }

    /// Puts back one entry of a snapshot; the frame's flag is restored with the frame.
    pub fn restore_entry(&mut self, (pfn, fill, bytes): ContentEntry) {
        let word = match bytes[..] {
            [(offset, byte)] if fill.is_zero() => inline(offset, byte),
            _ => {
                let mut content = PageContent::new(fill);
                for (offset, byte) in bytes {
                    content.set(offset, byte);
                }
                self.add_record(content)
            }
        };
        *self.word_mut(Pfn(pfn)) = word;
    }
}
