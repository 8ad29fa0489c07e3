//! Where pages lie among the nodes, and moving one to another node: `move_pages(2)`, mm/migrate.c
//! v6.12.

use crate::address_space::MmId;
use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::memory::Memory;
use crate::page_class::PageClass;
use crate::page_table::Pte;
use crate::placement::has_node;
use crate::units::{Cpu, NodeId, Pfn};

/// Why a page was not moved, or has no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeMoveError {
    /// Nothing is mapped there: `-ENOENT`.
    Absent,
    /// The zero page, which is nobody's: `-EFAULT`.
    ZeroPage,
    /// Others map it, and only pages of one's own were to move: `-EACCES`.
    Shared,
    /// Pinned, or of no list of pages that could be moved: `-EBUSY`.
    Busy,
    /// The node has no frame: the page stays, and the call counts it.
    NoMemory(AllocError),
}

/// What becomes of pages on the wrong node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// They are counted: `MPOL_MF_STRICT` alone.
    Count,
    /// They move unless others map them too: `MPOL_MF_MOVE`.
    MoveOwn,
    /// They move: `MPOL_MF_MOVE_ALL`.
    MoveAll,
}

impl NodeMoveError {
    /// A stable word for callers that speak no Rust.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::ZeroPage => "zero_page",
            Self::Shared => "shared",
            Self::Busy => "busy",
            Self::NoMemory(_) => "no_memory",
        }
    }
}

impl Memory {
    /// The node of the page at `vpn`: `do_pages_stat_array()`.
    ///
    /// # Errors
    /// Nothing is there, or the zero page.
    pub fn node_of_page(&self, mm: MmId, vpn: u64) -> Result<NodeId, NodeMoveError> {
        let pfn = self.page_with_a_node(mm, vpn)?;
        self.node_of_frame(pfn).ok_or(NodeMoveError::Absent)
    }

    /// Counts the folios of a range that lie on none of `nodes` and, if `how` says so, moves them to
    /// where the placement in force has them: `queue_pages_range()` and `migrate_pages()` as
    /// `mbind(2)` uses them, mm/mempolicy.c. `index` is the page's index at `vpn`. Returns how many
    /// stay where they should not be; a folio of others that is to stay is none of them.
    pub fn move_misplaced(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        (vpn, nr, index): (u64, u64, u64),
        nodes: u64,
        how: Misplaced,
    ) -> u64 {
        let mut failed = 0;
        let mut last = Pfn::NONE;
        for at in vpn..vpn + nr {
            let Ok(page) = self.page_with_a_node(mm, at) else {
                continue;
            };
            let head = self.map.folio_head(page);
            let at_home = self
                .node_of_frame(page)
                .is_none_or(|node| has_node(nodes, node));
            if at_home || head == last {
                continue;
            }
            last = head;
            if how == Misplaced::Count {
                failed += 1;
                continue;
            }
            if how == Misplaced::MoveOwn && self.map.mapcount(page) > 1 {
                continue;
            }
            failed += u64::from(self.move_by_policy(cpu, head, index + (at - vpn)).is_err());
            last = Pfn::NONE; // its frames may be anybody's now
        }
        failed
    }

    /// `alloc_migration_target_by_mpol()` and the move.
    fn move_by_policy(&mut self, cpu: Cpu, head: Pfn, index: u64) -> Result<(), NodeMoveError> {
        self.can_migrate(head).map_err(|_| NodeMoveError::Busy)?;
        let order = self.map.folio_order(head);
        let to = self
            .alloc_placed(cpu, Gfp::HIGHUSER_MOVABLE, order, PageClass::Kernel, index)
            .map_err(NodeMoveError::NoMemory)?;
        self.migrate_frame(cpu, head, to)
            .expect("a movable folio moves to a block of its order");
        Ok(())
    }

    /// Moves the folio of the page at `vpn` to `node`: `__add_folio_for_migration()` and what follows.
    /// A folio that is there already stays.
    ///
    /// # Errors
    /// Why it stays elsewhere.
    pub fn move_to_node(
        &mut self,
        mm: MmId,
        cpu: Cpu,
        vpn: u64,
        node: NodeId,
        shared_too: bool,
    ) -> Result<(), NodeMoveError> {
        let page = self.page_with_a_node(mm, vpn)?;
        if self.node_of_frame(page) == Some(node) {
            return Ok(());
        }
        if self.map.mapcount(page) > 1 && !shared_too {
            return Err(NodeMoveError::Shared);
        }
        let head = self.map.folio_head(page);
        if self.can_migrate(head).is_err() {
            return Err(NodeMoveError::Busy);
        }
        let order = self.map.folio_order(head);
        let gfp = Gfp::HIGHUSER_MOVABLE.with(Gfp::THISNODE);
        let to = self
            .alloc_class(cpu, gfp, order, Some(node), PageClass::Kernel)
            .map_err(NodeMoveError::NoMemory)?;
        self.migrate_frame(cpu, head, to)
            .expect("a movable folio moves to a block of its order");
        Ok(())
    }

    fn page_with_a_node(&self, mm: MmId, vpn: u64) -> Result<Pfn, NodeMoveError> {
        let (_, pte) = self
            .entries(mm, vpn, 1)
            .next()
            .filter(|(_, pte)| pte.is_present())
            .ok_or(NodeMoveError::Absent)?;
        if pte.has(Pte::ZERO) {
            return Err(NodeMoveError::ZeroPage);
        }
        Ok(pte.pfn())
    }

    fn node_of_frame(&self, pfn: Pfn) -> Option<NodeId> {
        let zone = self.map.zone_of(pfn)?;
        Some(self.zones[usize::from(zone.0)].node)
    }
}
