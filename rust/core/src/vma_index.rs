//! The index of an address space's VMAs: an ordered map of disjoint ranges that knows its gaps, the
//! maple tree's stand-in. It holds no policy: what a range means is its owner's business.
//!
//! A B+ tree. Each subtree is summed up by its first start, its last end and its largest inner gap,
//! so that finding the highest or lowest gap of a length is one descent, O(log n). A gap ends where
//! the entry above it begins to claim room: `vm_start_gap()`, include/linux/mm.h v6.12, keeps
//! `stack_guard_gap` free below a growsdown VMA.

use thiserror::Error;

/// Entries of a leaf and children of an inner node, at most.
const FANOUT: usize = 32;
/// A node with fewer is joined to a neighbour when both fit in one.
const SPARSE: usize = FANOUT / 4;

/// One range of addresses and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaEntry {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// The owner's name for it.
    pub id: u64,
    /// Bytes kept free below it: the guard gap of a growsdown VMA, else 0.
    pub gap_below: u64,
}

impl VmaEntry {
    /// `vm_start_gap()`, include/linux/mm.h v6.12.
    pub const fn start_gap(&self) -> u64 {
        self.start.saturating_sub(self.gap_below)
    }
}

/// A range that cannot be indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IndexError {
    /// The range holds no byte.
    #[error("{start:#x}-{end:#x} is empty")]
    Empty {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// It overlaps an entry.
    #[error("{start:#x}-{end:#x} overlaps an entry")]
    Overlap {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// No entry begins there.
    #[error("no entry begins at {0:#x}")]
    NotFound(u64),
}

/// `struct vm_unmapped_area_info`, include/linux/mm.h v6.12, without its direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GapQuery {
    /// Bytes wanted.
    pub length: u64,
    /// Nothing below this is taken; the caller has raised it to `mmap_min_addr`.
    pub low_limit: u64,
    /// Nothing from here on is taken.
    pub high_limit: u64,
    /// Bits of the result that must equal those of `align_offset`.
    pub align_mask: u64,
    /// See `align_mask`.
    pub align_offset: u64,
    /// Bytes kept free below the result: `stack_guard_placement()`.
    pub start_gap: u64,
}

impl GapQuery {
    /// Length adjusted for the worst case of alignment, or nothing when it overflows.
    fn padded(&self) -> Option<u64> {
        self.length
            .checked_add(self.align_mask)?
            .checked_add(self.start_gap)
    }
}

/// What a parent knows of a subtree that has at least one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    first: u64,
    /// `start_gap()` of the first entry.
    floor: u64,
    end: u64,
    /// Largest gap between two entries of the subtree.
    gap: u64,
}

impl Summary {
    const fn of(entry: &VmaEntry) -> Self {
        Self {
            first: entry.start,
            floor: entry.start_gap(),
            end: entry.end,
            gap: 0,
        }
    }

    /// The summary of this subtree and the one that follows it.
    fn followed_by(self, next: Self) -> Self {
        let between = next.floor.saturating_sub(self.end);
        Self {
            end: next.end,
            gap: self.gap.max(next.gap).max(between),
            ..self
        }
    }
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<VmaEntry>),
    Inner(Vec<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    summary: Summary,
    node: Node,
}

/// Ordered map of disjoint address ranges with a search for gaps.
#[derive(Clone, Debug)]
pub struct VmaIndex {
    root: Node,
    len: usize,
}

impl Default for VmaIndex {
    fn default() -> Self {
        Self {
            root: Node::Leaf(Vec::new()),
            len: 0,
        }
    }
}

impl VmaIndex {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of entries.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a range.
    ///
    /// # Errors
    /// [`IndexError::Empty`] or [`IndexError::Overlap`]; nothing is changed.
    pub fn insert(&mut self, entry: VmaEntry) -> Result<(), IndexError> {
        let VmaEntry { start, end, .. } = entry;
        if start >= end {
            return Err(IndexError::Empty { start, end });
        }
        if self.find(start).is_some_and(|next| next.start < end) {
            return Err(IndexError::Overlap { start, end });
        }
        if let (Some(right), _) = self.root.insert(entry) {
            let left =
                std::mem::replace(&mut self.root, Node::Inner(Vec::with_capacity(FANOUT + 1)));
            self.root
                .children_mut()
                .extend([Child::new(left), Child::new(right)]);
        }
        self.len += 1;
        Ok(())
    }

    /// Removes the entry that begins at `start`.
    ///
    /// # Errors
    /// [`IndexError::NotFound`].
    pub fn remove(&mut self, start: u64) -> Result<VmaEntry, IndexError> {
        let (entry, _) = self.root.remove(start).ok_or(IndexError::NotFound(start))?;
        self.len -= 1;
        while let Node::Inner(children) = &mut self.root {
            match children.len() {
                0 => self.root = Node::Leaf(Vec::new()),
                1 => self.root = children.remove(0).node,
                _ => break,
            }
        }
        Ok(entry)
    }

    /// Replaces the entry that begins at `start` by one that lies between the same neighbours.
    ///
    /// # Errors
    /// [`IndexError`]; nothing is changed.
    pub fn replace(&mut self, start: u64, entry: VmaEntry) -> Result<VmaEntry, IndexError> {
        let overlap = IndexError::Overlap {
            start: entry.start,
            end: entry.end,
        };
        if entry.start >= entry.end {
            return Err(IndexError::Empty {
                start: entry.start,
                end: entry.end,
            });
        }
        if self.prev(start).is_some_and(|prev| prev.end > entry.start)
            || self.next(start).is_some_and(|next| next.start < entry.end)
        {
            return Err(overlap);
        }
        self.root
            .replace(start, entry)
            .map(|(old, _)| old)
            .ok_or(IndexError::NotFound(start))
    }

    /// First entry that ends above `addr`: `find_vma()`.
    pub fn find(&self, addr: u64) -> Option<&VmaEntry> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    return entries.get(entries.partition_point(|e| e.end <= addr));
                }
                Node::Inner(children) => {
                    node = &children
                        .get(children.partition_point(|c| c.summary.end <= addr))?
                        .node;
                }
            }
        }
    }

    /// The entry that holds `addr`: `vma_lookup()`.
    pub fn lookup(&self, addr: u64) -> Option<&VmaEntry> {
        self.find(addr).filter(|entry| entry.start <= addr)
    }

    /// Last entry that begins below `addr`.
    pub fn prev(&self, addr: u64) -> Option<&VmaEntry> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    return entries
                        .partition_point(|e| e.start < addr)
                        .checked_sub(1)
                        .map(|i| &entries[i]);
                }
                Node::Inner(children) => {
                    let below = children.partition_point(|c| c.summary.first < addr);
                    node = &children[below.checked_sub(1)?].node;
                }
            }
        }
    }

    /// First entry that begins above `addr`.
    pub fn next(&self, addr: u64) -> Option<&VmaEntry> {
        match self.find(addr) {
            Some(entry) if entry.start <= addr => self.find(entry.end),
            found => found,
        }
    }

    /// Calls `visit` for each entry that overlaps `start..end`, in order.
    pub fn for_each_in(&self, start: u64, end: u64, mut visit: impl FnMut(&VmaEntry)) {
        self.root.for_each_in(start, end, &mut visit);
    }

    /// Highest address that satisfies `query`: `unmapped_area_topdown()`, mm/mmap.c v6.12.
    pub fn highest_gap(&self, query: &GapQuery) -> Option<u64> {
        let gap = Gap::wanted(query)?;
        let top = self.root.last_end();
        let (_, end) = gap
            .fit(top, u64::MAX)
            .or_else(|| self.root.highest_gap(0, gap))?;
        let addr = end - query.length;
        Some(addr - (addr.wrapping_sub(query.align_offset) & query.align_mask))
    }

    /// Lowest address that satisfies `query`: `unmapped_area()`, mm/mmap.c v6.12.
    pub fn lowest_gap(&self, query: &GapQuery) -> Option<u64> {
        let mut gap = Gap::wanted(query)?;
        loop {
            let (start, _) = self
                .root
                .lowest_gap(0, gap)
                .or_else(|| gap.fit(self.root.last_end(), u64::MAX))?;
            let addr = start + query.start_gap;
            let addr = addr + (query.align_offset.wrapping_sub(addr) & query.align_mask);
            // The kernel tests the padded length behind the aligned address, so an entry's guard gap
            // may refuse a place that would do.
            match self.find(start).filter(|next| next.gap_below > 0) {
                Some(next) if next.start_gap() < addr + gap.length - 1 => gap.low = next.end,
                _ => return Some(addr),
            }
        }
    }
}

/// A search for a gap of at least `length` bytes within `low..high`.
#[derive(Clone, Copy)]
struct Gap {
    length: u64,
    low: u64,
    high: u64,
}

impl Gap {
    fn wanted(query: &GapQuery) -> Option<Self> {
        let length = query.padded().filter(|length| *length > 0)?;
        Some(Self {
            length,
            low: query.low_limit,
            high: query.high_limit,
        })
    }

    /// The part of `start..end` that may be taken, if it is long enough.
    fn fit(self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (start, end) = (start.max(self.low), end.min(self.high));
        (end >= start && end - start >= self.length).then_some((start, end))
    }
}

impl Child {
    fn new(node: Node) -> Self {
        Self {
            summary: node.summary(),
            node,
        }
    }
}

impl Node {
    fn children_mut(&mut self) -> &mut Vec<Child> {
        match self {
            Self::Inner(children) => children,
            Self::Leaf(_) => unreachable!("only asked of inner nodes"),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }

    /// What the parent keeps; the node has at least one entry.
    fn summary(&self) -> Summary {
        match self {
            Self::Leaf(entries) => sum_up(entries.iter().map(Summary::of)),
            Self::Inner(children) => sum_up(children.iter().map(|c| c.summary)),
        }
    }

    fn last_end(&self) -> u64 {
        match self {
            Self::Leaf(entries) => entries.last().map_or(0, |e| e.end),
            Self::Inner(children) => children.last().map_or(0, |c| c.summary.end),
        }
    }

    /// Index of the child in whose range `start` lies.
    fn child_of(children: &[Child], start: u64) -> usize {
        children
            .partition_point(|c| c.summary.first <= start)
            .saturating_sub(1)
    }

    /// Inserts, and gives back the right half if the node had to be split; tells whether its summary
    /// may have changed.
    fn insert(&mut self, entry: VmaEntry) -> (Option<Self>, bool) {
        match self {
            Self::Leaf(entries) => {
                let at = entries.partition_point(|e| e.start < entry.start);
                entries.insert(at, entry);
                let full = entries.len() > FANOUT;
                (full.then(|| Self::Leaf(split_half(entries))), true)
            }
            Self::Inner(children) => {
                let at = Self::child_of(children, entry.start);
                let (split, changed) = children[at].node.insert(entry);
                let changed = changed && children[at].sum_up();
                let Some(right) = split else {
                    return (None, changed);
                };
                children.insert(at + 1, Child::new(right));
                let full = children.len() > FANOUT;
                (full.then(|| Self::Inner(split_half(children))), true)
            }
        }
    }

    /// Removes, and tells whether the summary may have changed.
    fn remove(&mut self, start: u64) -> Option<(VmaEntry, bool)> {
        match self {
            Self::Leaf(entries) => {
                let at = entries.binary_search_by_key(&start, |e| e.start).ok()?;
                Some((entries.remove(at), true))
            }
            Self::Inner(children) => {
                let at = Self::child_of(children, start);
                let (entry, changed) = children[at].node.remove(start)?;
                if children[at].node.len() < SPARSE {
                    join_sparse(children, at);
                    return Some((entry, true));
                }
                Some((entry, changed && children[at].sum_up()))
            }
        }
    }

    /// Replaces, and tells whether the summary may have changed.
    fn replace(&mut self, start: u64, entry: VmaEntry) -> Option<(VmaEntry, bool)> {
        match self {
            Self::Leaf(entries) => {
                let at = entries.binary_search_by_key(&start, |e| e.start).ok()?;
                Some((std::mem::replace(&mut entries[at], entry), true))
            }
            Self::Inner(children) => {
                let at = Self::child_of(children, start);
                let (old, changed) = children[at].node.replace(start, entry)?;
                Some((old, changed && children[at].sum_up()))
            }
        }
    }

    fn for_each_in(&self, start: u64, end: u64, visit: &mut impl FnMut(&VmaEntry)) {
        match self {
            Self::Leaf(entries) => {
                let first = entries.partition_point(|e| e.end <= start);
                entries[first..]
                    .iter()
                    .take_while(|e| e.start < end)
                    .for_each(visit);
            }
            Self::Inner(children) => {
                let first = children.partition_point(|c| c.summary.end <= start);
                for child in children[first..]
                    .iter()
                    .take_while(|c| c.summary.first < end)
                {
                    child.node.for_each_in(start, end, visit);
                }
            }
        }
    }

    /// Highest gap below an entry of this subtree; `before` is the end of the entry before it.
    fn highest_gap(&self, before: u64, gap: Gap) -> Option<(u64, u64)> {
        match self {
            Self::Leaf(entries) => (0..entries.len()).rev().find_map(|i| {
                let start = if i == 0 { before } else { entries[i - 1].end };
                gap.fit(start, entries[i].start_gap())
            }),
            Self::Inner(children) => (0..children.len()).rev().find_map(|i| {
                let start = if i == 0 {
                    before
                } else {
                    children[i - 1].summary.end
                };
                children[i]
                    .may_hold(start, gap)
                    .then(|| children[i].node.highest_gap(start, gap))?
            }),
        }
    }

    /// Lowest gap below an entry of this subtree; `before` is the end of the entry before it.
    fn lowest_gap(&self, before: u64, gap: Gap) -> Option<(u64, u64)> {
        match self {
            Self::Leaf(entries) => (0..entries.len()).find_map(|i| {
                let start = if i == 0 { before } else { entries[i - 1].end };
                gap.fit(start, entries[i].start_gap())
            }),
            Self::Inner(children) => (0..children.len()).find_map(|i| {
                let start = if i == 0 {
                    before
                } else {
                    children[i - 1].summary.end
                };
                children[i]
                    .may_hold(start, gap)
                    .then(|| children[i].node.lowest_gap(start, gap))?
            }),
        }
    }
}

impl Child {
    /// Sums the node up anew and tells whether that made a difference.
    fn sum_up(&mut self) -> bool {
        let old = std::mem::replace(&mut self.summary, self.node.summary());
        self.summary != old
    }

    /// Whether a gap that long, and not outside the limits as a whole, lies below an entry of this
    /// subtree that follows `before`.
    fn may_hold(&self, before: u64, gap: Gap) -> bool {
        let largest = self
            .summary
            .gap
            .max(self.summary.floor.saturating_sub(before));
        largest >= gap.length && before < gap.high && self.summary.end > gap.low
    }
}

fn sum_up(mut parts: impl Iterator<Item = Summary>) -> Summary {
    let first = parts.next().expect("a node that has a parent is not empty");
    parts.fold(first, Summary::followed_by)
}

fn split_half<T>(items: &mut Vec<T>) -> Vec<T> {
    let mut right = Vec::with_capacity(FANOUT + 1);
    right.extend(items.drain(FANOUT / 2..));
    right
}

/// Joins the sparse child at `at` to a neighbour if both fit in one node, and drops it if it is empty.
fn join_sparse(children: &mut Vec<Child>, at: usize) {
    if children[at].node.len() == 0 {
        children.remove(at);
        return;
    }
    let left = if at > 0 { at - 1 } else { at };
    if let Some(right) = children.get(left + 1)
        && children[left].node.len() + right.node.len() <= FANOUT
    {
        let right = children.remove(left + 1).node;
        match (&mut children[left].node, right) {
            (Node::Leaf(left), Node::Leaf(mut right)) => left.append(&mut right),
            (Node::Inner(left), Node::Inner(mut right)) => left.append(&mut right),
            _ => unreachable!("siblings are of one kind"),
        }
        children[left].summary = children[left].node.summary();
        return;
    }
    children[at].summary = children[at].node.summary();
}
