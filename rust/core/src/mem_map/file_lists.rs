//! How many frames of files stand on the lists that reclaim works off: `NR_ZONE_INACTIVE_FILE` and
//! `NR_ZONE_ACTIVE_FILE`, include/linux/mmzone.h v6.12.
//!
//! Which list a folio stands on is told by its class and the flags of its head, so the counts follow
//! whoever changes one of the two: [`MemMap::relist_file`] for flags; [`MemMap::list_file`] behind
//! and [`MemMap::unlist_file`] before a change of blocks. Frames that are freed were reset before, and
//! so leave the inactive list.

use super::{MemMap, PageClass, page_flags};
use crate::units::{Pfn, ZoneId};

/// A list of pages of files: `enum lru_list`, include/linux/mmzone.h v6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileList {
    /// `LRU_INACTIVE_FILE`.
    Inactive = 0,
    /// `LRU_ACTIVE_FILE`.
    Active = 1,
}

/// Frames on each list, by zone; zones behind the last one named have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileLists(Vec<[u64; 2]>);

impl FileLists {
    fn nr(&self, zone: ZoneId, list: FileList) -> u64 {
        self.0.get(zone.index()).map_or(0, |nr| nr[list as usize])
    }

    fn count(&mut self, zone: ZoneId, list: FileList, change: i64) {
        if self.0.len() <= zone.index() {
            self.0.resize(zone.index() + 1, [0; 2]);
        }
        let nr = &mut self.0[zone.index()][list as usize];
        *nr = nr
            .checked_add_signed(change)
            .expect("frames leave the list that they are on");
    }
}

impl MemMap {
    /// Frames of a zone on a list.
    pub fn nr_file(&self, zone: ZoneId, list: FileList) -> u64 {
        self.file_lists.nr(zone, list)
    }

    /// The same, counted anew.
    pub(crate) fn recount_file(&self, zone: ZoneId, list: FileList) -> u64 {
        self.counted_files().nr(zone, list)
    }

    /// Counts all anew, after frames were put in place wholesale.
    pub(crate) fn settle_files(&mut self) {
        self.file_lists = self.counted_files();
    }

    fn counted_files(&self) -> FileLists {
        let mut lists = FileLists::default();
        for block in self.blocks().filter(|block| block.class.is_file()) {
            if let Some((zone, list, nr)) = self.file_list_of(block.pfn) {
                lists.count(zone, list, nr);
            }
        }
        lists
    }

    /// The list of the folio whose head this is, with the folio's frames; unevictable ones are on
    /// none.
    fn file_list_of(&self, pfn: Pfn) -> Option<(ZoneId, FileList, i64)> {
        let head = self.head_at(pfn).filter(|head| head.class.is_file())?;
        let list = match self.flags(pfn) {
            flags if flags & page_flags::UNEVICTABLE != 0 => return None,
            flags if flags & page_flags::ACTIVE != 0 => FileList::Active,
            _ => FileList::Inactive,
        };
        Some((self.zone_of(pfn)?, list, i64::from(head.order.nr_pages())))
    }

    /// A folio was put in place: `lruvec_add_folio()`, include/linux/mm_inline.h v6.12.
    pub(crate) fn list_file(&mut self, pfn: Pfn) {
        if let Some((zone, list, nr)) = self.file_list_of(pfn) {
            self.file_lists.count(zone, list, nr);
        }
    }

    /// A folio is about to go or to change: `lruvec_del_folio()`.
    pub(crate) fn unlist_file(&mut self, pfn: Pfn) {
        if let Some((zone, list, nr)) = self.file_list_of(pfn) {
            self.file_lists.count(zone, list, -nr);
        }
    }

    /// Sets and clears flags of a frame that may be a folio's head.
    pub(crate) fn relist_file(&mut self, pfn: Pfn, set: u16, clear: u16) {
        let anon = self.flags(pfn) & page_flags::ANON != 0;
        if !anon {
            self.unlist_file(pfn);
        }
        self.clear_flags(pfn, clear);
        self.add_flags(pfn, set);
        if !anon {
            self.list_file(pfn);
        }
    }

    /// The head of a folio that has moved is nobody's until it is freed.
    pub(crate) fn abandon(&mut self, pfn: Pfn) {
        self.set_class(pfn, PageClass::Kernel);
    }
}
