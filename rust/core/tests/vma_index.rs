//! The index of VMAs against a sorted list that is too simple to be wrong.

use contigmm_core::vma_index::{GapQuery, IndexError, VmaEntry, VmaIndex};
use proptest::prelude::*;

const PAGE: u64 = 4096;

/// A sorted list, searched from one end to the other.
#[derive(Default)]
struct Model(Vec<VmaEntry>);

impl Model {
    fn free(&self, start: u64, end: u64) -> bool {
        self.0.iter().all(|e| e.end <= start || end <= e.start)
    }

    fn insert(&mut self, entry: VmaEntry) -> bool {
        let free = self.free(entry.start, entry.end);
        if free {
            self.0.push(entry);
            self.0.sort_by_key(|e| e.start);
        }
        free
    }

    /// Every gap between the limits, lowest first.
    fn gaps(&self, query: &GapQuery) -> Vec<(u64, u64)> {
        let mut before = 0;
        let mut gaps: Vec<_> = self
            .0
            .iter()
            .map(|e| (std::mem::replace(&mut before, e.end), e.start_gap()))
            .collect();
        gaps.push((before, u64::MAX));
        gaps.into_iter()
            .map(|(start, end)| (start.max(query.low_limit), end.min(query.high_limit)))
            .filter(|(start, end)| end >= start && end - start >= query.length)
            .collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert { page: u64, nr: u64, guard: bool },
    Remove { pick: usize },
    Replace { pick: usize, page: u64, nr: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..4000_u64, 1..9_u64, any::<bool>())
            .prop_map(|(page, nr, guard)| Step::Insert { page, nr, guard }),
        4 => any::<usize>().prop_map(|pick| Step::Remove { pick }),
        2 => (any::<usize>(), 1..4000_u64, 1..9_u64)
            .prop_map(|(pick, page, nr)| Step::Replace { pick, page, nr }),
    ];
    prop::collection::vec(step, 1..600)
}

fn entry(page: u64, nr: u64, id: u64, guard: bool) -> VmaEntry {
    let gap_below = if guard { 3 * PAGE } else { 0 };
    VmaEntry {
        start: page * PAGE,
        end: (page + nr) * PAGE,
        id,
        gap_below,
    }
}

fn apply(index: &mut VmaIndex, model: &mut Model, step: &Step, id: u64) {
    match *step {
        Step::Insert { page, nr, guard } => {
            let new = entry(page, nr, id, guard);
            assert_eq!(index.insert(new).is_ok(), model.insert(new));
        }
        Step::Remove { pick } if !model.0.is_empty() => {
            let old = model.0.remove(pick % model.0.len());
            assert_eq!(index.remove(old.start), Ok(old));
            assert_eq!(
                index.remove(old.start),
                Err(IndexError::NotFound(old.start))
            );
        }
        Step::Replace { pick, page, nr } if !model.0.is_empty() => {
            let at = pick % model.0.len();
            let old = model.0[at];
            let new = entry(page, nr, old.id, old.gap_below > 0);
            let low = if at == 0 { 0 } else { model.0[at - 1].end };
            let high = model.0.get(at + 1).map_or(u64::MAX, |e| e.start);
            let fits = low <= new.start && new.end <= high;
            assert_eq!(index.replace(old.start, new).is_ok(), fits);
            if fits {
                model.0[at] = new;
            }
        }
        _ => {}
    }
}

fn compare(index: &VmaIndex, model: &Model, probe: u64, query: &GapQuery) {
    assert_eq!(index.len(), model.0.len());
    let mut seen = Vec::new();
    index.for_each_in(0, u64::MAX, |e| seen.push(*e));
    assert_eq!(seen, model.0);
    let mut part = Vec::new();
    index.for_each_in(probe, probe + 200 * PAGE, |e| part.push(*e));
    let overlaps = |e: &&VmaEntry| e.end > probe && e.start < probe + 200 * PAGE;
    assert_eq!(
        part,
        model.0.iter().filter(overlaps).copied().collect::<Vec<_>>()
    );
    assert_eq!(index.find(probe), model.0.iter().find(|e| e.end > probe));
    assert_eq!(
        index.lookup(probe),
        model.0.iter().find(|e| (e.start..e.end).contains(&probe))
    );
    assert_eq!(
        index.prev(probe),
        model.0.iter().rev().find(|e| e.start < probe)
    );
    assert_eq!(index.next(probe), model.0.iter().find(|e| e.start > probe));
    let gaps = model.gaps(query);
    assert_eq!(
        index.highest_gap(query),
        gaps.last().map(|(_, end)| end - query.length)
    );
    assert_eq!(
        index.lowest_gap(query),
        gaps.first().map(|(start, _)| *start)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn agrees_with_a_sorted_list(
        steps in steps(), probe in 0..4100_u64, length in 1..40_u64, low in 0..3000_u64,
        room in 0..4000_u64,
    ) {
        let (mut index, mut model) = (VmaIndex::new(), Model::default());
        let query = GapQuery {
            length: length * PAGE,
            low_limit: low * PAGE,
            high_limit: (low + room) * PAGE,
            ..GapQuery::default()
        };
        for (id, step) in steps.iter().enumerate() {
            apply(&mut index, &mut model, step, id as u64);
            if id % 16 == 0 {
                compare(&index, &model, probe * PAGE, &query);
            }
        }
        compare(&index, &model, probe * PAGE, &query);
    }

    #[test]
    fn aligned_gaps_are_aligned_and_free(
        pages in prop::collection::btree_set(1..3000_u64, 0..200), length in 1..30_u64,
        offset in 0..8_u64,
    ) {
        let (mut index, mut model) = (VmaIndex::new(), Model::default());
        for page in pages {
            let new = entry(page, 1, page, page % 5 == 0);
            index.insert(new).unwrap();
            model.insert(new);
        }
        let query = GapQuery {
            length: length * PAGE,
            low_limit: PAGE,
            high_limit: 4000 * PAGE,
            align_mask: 7 * PAGE,
            align_offset: offset * PAGE,
            start_gap: 2 * PAGE,
        };
        for addr in [index.highest_gap(&query), index.lowest_gap(&query)] {
            let addr = addr.expect("the last thousand pages are free");
            prop_assert_eq!(addr & query.align_mask, query.align_offset);
            prop_assert!(model.free(addr - query.start_gap, addr + query.length));
        }
    }
}

#[test]
fn refuses_empty_ranges_and_lengths_that_overflow() {
    let mut index = VmaIndex::new();
    let empty = VmaEntry {
        start: PAGE,
        end: PAGE,
        id: 0,
        gap_below: 0,
    };
    assert_eq!(
        index.insert(empty),
        Err(IndexError::Empty {
            start: PAGE,
            end: PAGE
        })
    );
    let query = GapQuery {
        length: u64::MAX,
        align_mask: PAGE,
        high_limit: u64::MAX,
        ..GapQuery::default()
    };
    assert_eq!(index.highest_gap(&query), None);
    assert_eq!(index.lowest_gap(&query), None);
}
