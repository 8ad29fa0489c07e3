//! One list of a CPU's free blocks, kept as runs: a refill hands out neighbours in ascending order,
//! and what is freed page by page comes back as neighbours. A run takes as much room as a block, so
//! that a refill writes no list, and a hit changes two numbers.
#![allow(clippy::inline_always)] // see page_alloc

use std::collections::VecDeque;

use crate::units::Order;

/// Blocks whose first frames lie `stride` apart.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The block that is handed out next.
    next: u32,
    /// Blocks; 0 in an empty list only.
    nr: u32,
    /// Frames from one block to the next, added with wrapping: the size of a block, or its negative.
    stride: u32,
}

/// No block; none stands before it, since no pfn is `u32::MAX`.
const EMPTY: Run = Run {
    next: u32::MAX,
    nr: 0,
    stride: 0,
};

impl Run {
    /// The block that comes `at` after the next one.
    #[inline(always)]
    const fn block(&self, at: u32) -> u32 {
        self.next.wrapping_add(self.stride.wrapping_mul(at))
    }

    /// A run of two blocks, the first of them next, if they are neighbours.
    fn of_two(first: u32, second: u32, size: u32) -> Option<Self> {
        let stride = second.wrapping_sub(first);
        (stride == size || stride == size.wrapping_neg()).then_some(Self {
            next: first,
            nr: 2,
            stride,
        })
    }

    fn blocks(self) -> impl DoubleEndedIterator<Item = u32> {
        (0..self.nr).map(move |at| self.block(at))
    }
}

/// Heads of blocks of one order; the front is handed out first.
#[derive(Clone, Debug)]
pub struct PcpList {
    front: Run,
    behind: VecDeque<Run>,
}

impl Default for PcpList {
    fn default() -> Self {
        Self {
            front: EMPTY,
            behind: VecDeque::new(),
        }
    }
}

impl PcpList {
    /// Number of blocks.
    pub fn len(&self) -> usize {
        let nr = |run: &Run| run.nr as usize;
        nr(&self.front) + self.behind.iter().map(nr).sum::<usize>()
    }

    /// Whether there is no block.
    pub const fn is_empty(&self) -> bool {
        self.front.nr == 0
    }

    /// The first frames of the blocks, the front first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        let runs = std::iter::once(&self.front).chain(&self.behind);
        runs.flat_map(|run| run.blocks())
    }

    /// Takes the block at the front, if it is not the last of its run.
    #[inline(always)]
    pub(crate) fn pop_within_run(&mut self) -> Option<u32> {
        let Run { next, nr, stride } = self.front;
        if nr < 2 {
            return None;
        }
        self.front.next = next.wrapping_add(stride);
        self.front.nr = nr - 1;
        Some(next)
    }

    /// Takes the block at the front.
    #[inline(always)]
    pub(crate) fn pop_front(&mut self) -> Option<u32> {
        self.pop_within_run().or_else(|| self.pop_last_of_run())
    }

    #[inline(never)]
    fn pop_last_of_run(&mut self) -> Option<u32> {
        let last = (self.front.nr > 0).then_some(self.front.next);
        self.next_run();
        last
    }

    fn next_run(&mut self) {
        self.front = self.behind.pop_front().unwrap_or(EMPTY);
    }

    /// Takes up to `most` blocks of order 0 at the front that lie together in ascending order; none if
    /// there are not two.
    pub(crate) fn pop_ascending(&mut self, most: u32) -> Option<(u32, u32)> {
        let Run { next, nr, stride } = self.front;
        let nr = nr.min(most);
        if stride != 1 || nr < 2 {
            return None;
        }
        self.front.next = next + nr;
        self.front.nr -= nr;
        if self.front.nr == 0 {
            self.next_run();
        }
        Some((next, nr))
    }

    /// Puts a block of this order before all others.
    #[inline(always)]
    pub(crate) fn push_front(&mut self, pfn: u32, order: Order) {
        if pfn.wrapping_add(self.front.stride) == self.front.next {
            self.front.next = pfn;
            self.front.nr += 1;
        } else {
            self.begin_run(pfn, order.nr_pages());
        }
    }

    #[inline(never)]
    fn begin_run(&mut self, pfn: u32, size: u32) {
        if self.front.nr == 1
            && let Some(run) = Run::of_two(pfn, self.front.next, size)
        {
            self.front = run;
            return;
        }
        let before = std::mem::replace(
            &mut self.front,
            Run {
                next: pfn,
                nr: 1,
                stride: size,
            },
        );
        if before.nr > 0 {
            self.behind.push_front(before);
        }
    }

    /// The last run of all; of no blocks if there are none.
    fn last(&mut self) -> &mut Run {
        self.behind.back_mut().unwrap_or(&mut self.front)
    }

    /// Forgets the last run, which has no more blocks.
    fn drop_last(&mut self) {
        if self.behind.pop_back().is_none() {
            self.front = EMPTY;
        }
    }

    /// Takes the block at the back.
    pub(crate) fn pop_back(&mut self) -> Option<u32> {
        let last = self.last();
        last.nr = last.nr.checked_sub(1)?;
        let pfn = last.block(last.nr);
        if last.nr == 0 {
            self.drop_last();
        }
        Some(pfn)
    }

    /// Takes up to `most` blocks of order 0 at the back that lie together in ascending order, the back
    /// first, and do not go on into the next 2^`within` frames; none if there are not two.
    pub(crate) fn pop_back_ascending(&mut self, most: u32, within: Order) -> Option<(u32, u32)> {
        let last = self.last();
        if last.stride != 1_u32.wrapping_neg() {
            return None;
        }
        let first = last.block(last.nr - 1);
        let room = within.nr_pages() - (first & (within.nr_pages() - 1));
        let nr = last.nr.min(most).min(room);
        if nr < 2 {
            return None;
        }
        last.nr -= nr;
        if last.nr == 0 {
            self.drop_last();
        }
        Some((first, nr))
    }

    /// Puts a block of this order behind all others.
    pub(crate) fn push_back(&mut self, pfn: u32, order: Order) {
        let size = order.nr_pages();
        let last = self.last();
        if last.nr == 1
            && let Some(run) = Run::of_two(last.next, pfn, size)
        {
            *last = run;
        } else if last.nr > 0 && last.block(last.nr) == pfn {
            last.nr += 1;
        } else {
            self.append(Run {
                next: pfn,
                nr: 1,
                stride: size,
            });
        }
    }

    /// Puts `nr` blocks of this order, each next to the one before, behind all others.
    pub(crate) fn push_back_run(&mut self, start: u32, nr: u32, order: Order) {
        self.append(Run {
            next: start,
            nr,
            stride: order.nr_pages(),
        });
    }

    fn append(&mut self, run: Run) {
        if self.is_empty() {
            self.front = run;
        } else {
            self.behind.push_back(run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Front(u32),
        Back(u32),
        Run(u32, u32),
        PopFront,
        PopBack,
        PopAscending(u32),
        PopBackAscending(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..40_u32).prop_map(Step::Front),
            2 => (0..40_u32).prop_map(Step::Back),
            1 => (0..40_u32, 1..9_u32).prop_map(|(start, nr)| Step::Run(start, nr)),
            2 => Just(Step::PopFront),
            2 => Just(Step::PopBack),
            1 => (1..9_u32).prop_map(Step::PopAscending),
            1 => (1..9_u32).prop_map(Step::PopBackAscending),
        ]
    }

    fn check(steps: &[Step], order: Order) -> Result<(), TestCaseError> {
        const WITHIN: Order = match Order::new(3) {
            Ok(order) => order,
            Err(_) => panic!("an order"),
        };
        let size = order.nr_pages();
        let mut list = PcpList::default();
        let mut model = VecDeque::new();
        for step in steps {
            match *step {
                Step::Front(at) => {
                    list.push_front(at * size, order);
                    model.push_front(at * size);
                }
                Step::Back(at) => {
                    list.push_back(at * size, order);
                    model.push_back(at * size);
                }
                Step::Run(at, nr) => {
                    list.push_back_run(at * size, nr, order);
                    model.extend((at..at + nr).map(|at| at * size));
                }
                Step::PopFront => prop_assert_eq!(list.pop_front(), model.pop_front()),
                Step::PopBack => prop_assert_eq!(list.pop_back(), model.pop_back()),
                Step::PopAscending(most) => {
                    if let Some((first, nr)) = list.pop_ascending(most) {
                        prop_assert!(nr <= most);
                        let got: Vec<u32> = model.drain(..nr as usize).collect();
                        prop_assert_eq!(got, (first..first + nr).collect::<Vec<_>>());
                    }
                }
                Step::PopBackAscending(most) => {
                    if let Some((first, nr)) = list.pop_back_ascending(most, WITHIN) {
                        prop_assert!(nr <= most);
                        let got: Vec<_> = (0..nr).filter_map(|_| model.pop_back()).collect();
                        prop_assert_eq!(got, (first..first + nr).collect::<Vec<_>>());
                        prop_assert_eq!(first / 8, (first + nr - 1) / 8);
                    }
                }
            }
            let blocks: Vec<u32> = list.iter().collect();
            prop_assert_eq!(&blocks, &Vec::from(model.clone()));
            prop_assert_eq!(list.len(), blocks.len());
            prop_assert_eq!(list.is_empty(), blocks.is_empty());
            let back: Vec<u32> = list.iter().rev().collect();
            prop_assert!(back.iter().eq(blocks.iter().rev()));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn a_list_of_runs_is_a_list_of_blocks(
            steps in prop::collection::vec(step(), 1..200),
            order in 0..4_u8,
        ) {
            // What is taken together is of order 0; larger blocks come and go one by one.
            let order = Order::new(order).expect("an order");
            let one_by_one = |step: &Step| {
                order == Order::ZERO
                    || !matches!(step, Step::PopAscending(_) | Step::PopBackAscending(_))
            };
            let steps: Vec<Step> = steps.into_iter().filter(one_by_one).collect();
            check(&steps, order)?;
        }
    }
}
