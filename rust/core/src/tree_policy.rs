//! A second policy for single frames, after LLFree (Wrenger et al., USENIX ATC 2023): a bit a frame,
//! a counter a huge frame, and trees of 32 huge frames that CPUs reserve. A CPU fills its tree before
//! it looks for another, and prefers trees that are neither nearly full nor nearly empty, so that
//! nearly empty trees drain. Without atomics: the machine is one thread.

use crate::frag_study::FramePolicy;
use crate::units::PAGEBLOCK_NR_PAGES;

/// Huge frames of a tree.
const TREE_CHILDREN: usize = 32;
const TREE_FRAMES: u32 = 32 * PAGEBLOCK_NR_PAGES;
/// Fewer free frames than these two huge frames: nearly full.
const NEARLY_FULL: u32 = 2 * PAGEBLOCK_NR_PAGES;
/// More free frames than a tree less eight huge frames: nearly empty.
const NEARLY_EMPTY: u32 = TREE_FRAMES - 8 * PAGEBLOCK_NR_PAGES;
/// Words of 64 frames in a huge frame.
const WORDS: usize = PAGEBLOCK_NR_PAGES as usize / 64;

/// The frames of a zone.
#[derive(Clone, Debug)]
pub struct TreeAllocator {
    /// A set bit is a used frame.
    used: Vec<u64>,
    child_free: Vec<u32>,
    tree_free: Vec<u32>,
    /// Each CPU's tree and the child to look at first.
    reserved: Vec<Option<(usize, usize)>>,
    is_reserved: Vec<bool>,
    /// Where each CPU's tree was last, to look nearby.
    last: Vec<usize>,
}

impl TreeAllocator {
    /// A zone of `nr_huge` huge frames, all free, for `nr_cpus` CPUs.
    #[must_use]
    pub fn new(nr_huge: u32, nr_cpus: u16) -> Self {
        let children = nr_huge as usize;
        let trees = children.div_ceil(TREE_CHILDREN);
        let child_free = vec![PAGEBLOCK_NR_PAGES; children];
        let tree_free = child_free.chunks(TREE_CHILDREN).map(|c| c.iter().sum());
        let cpus = usize::from(nr_cpus);
        Self {
            used: vec![0; children * WORDS],
            tree_free: tree_free.collect(),
            child_free,
            reserved: vec![None; cpus],
            is_reserved: vec![false; trees],
            last: (0..cpus).map(|cpu| trees * cpu / cpus.max(1)).collect(),
        }
    }

    /// Reserves the nearest tree that suits best: a partly used one, a nearly empty one, any.
    fn reserve(&mut self, cpu: usize) -> Option<usize> {
        if let Some((tree, _)) = self.reserved[cpu].take() {
            self.is_reserved[tree] = false;
        }
        let wanted = [
            NEARLY_FULL..=NEARLY_EMPTY,
            NEARLY_EMPTY + 1..=TREE_FRAMES,
            1..=NEARLY_FULL,
        ];
        let tree = wanted
            .into_iter()
            .find_map(|range| self.nearest(self.last[cpu], |free| range.contains(&free)))?;
        self.is_reserved[tree] = true;
        self.last[cpu] = tree;
        self.reserved[cpu] = Some((tree, tree * TREE_CHILDREN));
        Some(tree)
    }

    /// The nearest unreserved tree, on either side in turn.
    fn nearest(&self, start: usize, suits: impl Fn(u32) -> bool) -> Option<usize> {
        let trees = self.tree_free.len();
        (0..trees)
            .map(|step| {
                let by = step.div_ceil(2);
                (start + if step % 2 == 0 { trees - by } else { by }) % trees
            })
            .find(|&tree| !self.is_reserved[tree] && suits(self.tree_free[tree]))
    }

    /// Takes a frame of a tree that another CPU has reserved: what is left when all others are full.
    fn steal(&mut self, cpu: usize) -> Option<u32> {
        let start = self.last[cpu];
        let trees = self.tree_free.len();
        let tree = (start..trees)
            .chain(0..start)
            .find(|&tree| self.tree_free[tree] > 0)?;
        let (pfn, _) = self.take_from(tree, tree * TREE_CHILDREN)?;
        Some(pfn)
    }

    /// Takes a frame of a tree, from `child` on, and tells which child it is of.
    fn take_from(&mut self, tree: usize, child: usize) -> Option<(u32, usize)> {
        let first = tree * TREE_CHILDREN;
        let end = (first + TREE_CHILDREN).min(self.child_free.len());
        let child = (child..end)
            .chain(first..child)
            .find(|&child| self.child_free[child] > 0)?;
        let words = &mut self.used[child * WORDS..(child + 1) * WORDS];
        let at = words.iter().position(|&word| word != u64::MAX)?;
        let bit = words[at].trailing_ones();
        words[at] |= 1 << bit;
        self.child_free[child] -= 1;
        self.tree_free[tree] -= 1;
        let frame = (child * WORDS + at) * 64 + bit as usize;
        Some((u32::try_from(frame).expect("frames are u32"), child))
    }
}

impl FramePolicy for TreeAllocator {
    #[inline]
    fn get(&mut self, cpu: u16) -> Option<u32> {
        let cpu = usize::from(cpu);
        if let Some((tree, child)) = self.reserved[cpu]
            && let Some((pfn, child)) = self.take_from(tree, child)
        {
            self.reserved[cpu] = Some((tree, child));
            return Some(pfn);
        }
        let Some(tree) = self.reserve(cpu) else {
            return self.steal(cpu);
        };
        let (pfn, child) = self.take_from(tree, tree * TREE_CHILDREN)?;
        self.reserved[cpu] = Some((tree, child));
        Some(pfn)
    }

    #[inline]
    fn put(&mut self, _cpu: u16, pfn: u32) {
        let frame = pfn as usize;
        self.used[frame / 64] &= !(1 << (frame % 64));
        let child = frame / PAGEBLOCK_NR_PAGES as usize;
        self.child_free[child] += 1;
        self.tree_free[child / TREE_CHILDREN] += 1;
    }

    fn free_huge(&self) -> u64 {
        let free = |&&nr: &&u32| nr == PAGEBLOCK_NR_PAGES;
        self.child_free.iter().filter(free).count() as u64
    }

    fn free_frames(&self) -> u64 {
        self.tree_free.iter().map(|&nr| u64::from(nr)).sum()
    }

    fn free_by_pageblock(&self) -> Vec<u32> {
        self.child_free.clone()
    }
}
