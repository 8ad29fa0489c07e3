//! How broken up free memory is: the kernel's indexes, exactly. mm/vmstat.c v6.12.
//!
//! All count every free block whatever its migratetype, as `free_area::nr_free` does.

use crate::units::Order;

/// `struct contig_page_info`: free frames and blocks, and how many blocks of an order fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContigPageInfo {
    /// Free frames.
    pub free_pages: u64,
    /// Free blocks, of any order.
    pub free_blocks_total: u64,
    /// How many blocks of the order asked for the free blocks hold.
    pub free_blocks_suitable: u64,
}

impl ContigPageInfo {
    /// Counts a row of /proc/buddyinfo: `fill_contig_page_info()`.
    pub fn new(nr_free: &[u64; Order::COUNT], suitable: Order) -> Self {
        let mut info = Self {
            free_pages: 0,
            free_blocks_total: 0,
            free_blocks_suitable: 0,
        };
        for order in Order::all() {
            let blocks = nr_free[order.index()];
            info.free_blocks_total += blocks;
            info.free_pages += blocks << order.get();
            if order >= suitable {
                info.free_blocks_suitable += blocks << (order.get() - suitable.get());
            }
        }
        info
    }

    /// -1000 when a block of the order is free; else from 0 (an allocation fails for lack of memory)
    /// to 1000 (for fragmentation): `__fragmentation_index()`.
    pub fn fragmentation_index(&self, order: Order) -> i32 {
        if self.free_blocks_total == 0 {
            return 0;
        }
        if self.free_blocks_suitable > 0 {
            return -1000;
        }
        let requested = u64::from(order.nr_pages());
        let share = (1000 + self.free_pages * 1000 / requested) / self.free_blocks_total;
        1000 - i32::try_from(share).expect("one block of half the size makes 1500, and no more")
    }

    /// Per mille of the free frames that cannot serve the order: `unusable_free_index()`.
    pub fn unusable_free_index(&self, order: Order) -> u32 {
        if self.free_pages == 0 {
            return 1000;
        }
        self.unusable_of(order, 1000)
    }

    /// Per cent of the same, 0 when nothing is free: `extfrag_for_order()`.
    pub fn extfrag(&self, order: Order) -> u32 {
        if self.free_pages == 0 {
            0
        } else {
            self.unusable_of(order, 100)
        }
    }

    fn unusable_of(&self, order: Order, scale: u64) -> u32 {
        let unusable = self.free_pages - (self.free_blocks_suitable << order.get());
        u32::try_from(unusable * scale / self.free_pages).expect("a share of the scale")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(row: &[u64], order: u8) -> (ContigPageInfo, Order) {
        let mut nr_free = [0; Order::COUNT];
        nr_free[..row.len()].copy_from_slice(row);
        let order = Order::new(order).expect("an order");
        (ContigPageInfo::new(&nr_free, order), order)
    }

    #[test]
    fn eight_single_frames_are_three_quarters_fragmented_for_order_3() {
        let (info, order) = info(&[8], 3);
        assert_eq!(info.fragmentation_index(order), 750);
        assert_eq!(
            (info.unusable_free_index(order), info.extfrag(order)),
            (1000, 100)
        );
    }

    #[test]
    fn a_suitable_block_is_minus_one() {
        let (info, order) = info(&[8, 0, 0, 0, 1], 3);
        assert_eq!(info.fragmentation_index(order), -1000);
        assert_eq!(info.free_blocks_suitable, 2);
        assert_eq!(
            (info.unusable_free_index(order), info.extfrag(order)),
            (333, 33)
        );
    }

    #[test]
    fn no_free_memory_is_lack_of_memory_and_all_unusable() {
        let (info, order) = info(&[], 9);
        assert_eq!(info.fragmentation_index(order), 0);
        assert_eq!(
            (info.unusable_free_index(order), info.extfrag(order)),
            (1000, 0)
        );
    }

    /// /proc/buddyinfo and debugfs' extfrag of a machine with 6.18.44, read on 2026-11-23 while free
    /// memory did not change.
    #[test]
    fn recorded_rows_have_the_index_that_was_recorded_with_them() {
        let rows: [(&[u64], [u32; Order::COUNT]); 3] = [
            (
                &[0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 3],
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 66, 200],
            ),
            (
                &[1, 1, 4, 2, 5, 4, 3, 3, 4, 2, 752],
                [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3],
            ),
            (
                &[
                    15486, 3289, 1694, 991, 3560, 564, 3082, 1062, 380, 114, 1893,
                ],
                [0, 6, 8, 11, 14, 36, 44, 121, 175, 213, 236],
            ),
        ];
        for (row, unusable) in rows {
            for raw in 0..11_u8 {
                let (info, order) = info(row, raw);
                assert_eq!(info.unusable_free_index(order), unusable[order.index()]);
                assert_eq!(info.fragmentation_index(order), -1000);
            }
        }
    }

    /// Two single frames and one of order 1: (1000 + 4 * 1000 / 512) / 3 is 335, rounded down twice.
    #[test]
    fn the_index_is_rounded_as_the_kernel_rounds() {
        let (info, order) = info(&[2, 1], 9);
        assert_eq!(info.fragmentation_index(order), 665);
        assert_eq!(info.unusable_free_index(order), 1000);
    }

    #[test]
    fn one_small_block_is_lack_of_memory() {
        let (info, order) = info(&[1], 10);
        assert_eq!(info.fragmentation_index(order), 0);
    }
}
