//! From which node user memory comes: `alloc_pages_mpol()` and `policy_nodemask()`, mm/mempolicy.c
//! v6.12.

use crate::error::AllocError;
use crate::gfp::Gfp;
use crate::mem_map::PageClass;
use crate::memory::Memory;
use crate::units::{Cpu, NodeId, Order, Pfn, ZoneKind};
use crate::zonelist::Zonelists;

/// What a policy says of nodes; masks have bit `n` for node `n` and are not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// The CPU's node first, then the nearest: `MPOL_DEFAULT`, `MPOL_LOCAL`.
    #[default]
    Local,
    /// One node first: `MPOL_PREFERRED`.
    Preferred(NodeId),
    /// These nodes first, the others when they have nothing: `MPOL_PREFERRED_MANY`.
    PreferredMany(u64),
    /// These nodes only: `MPOL_BIND`.
    Bind(u64),
    /// One after the other by the page's index: `MPOL_INTERLEAVE`.
    Interleave(u64),
}

impl Memory {
    /// Says where user memory comes from until this says otherwise. No part of a snapshot: whoever
    /// faults says it, and takes it back.
    pub const fn set_placement(&mut self, placement: Placement) {
        self.owners.placement = placement;
    }

    /// Where user memory comes from now.
    pub const fn placement(&self) -> Placement {
        self.owners.placement
    }

    /// A block of user memory where the policy has it. `index` is the page's index in its object, by
    /// which pages are interleaved.
    ///
    /// # Errors
    /// No node that the policy allows has it.
    #[inline]
    pub(crate) fn alloc_placed(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        class: PageClass,
        index: u64,
    ) -> Result<Pfn, AllocError> {
        match self.owners.placement {
            Placement::Local => self.alloc_class(cpu, gfp, order, None, class),
            Placement::Preferred(node) => self.alloc_class(cpu, gfp, order, Some(node), class),
            Placement::Interleave(nodes) => {
                let node = nth_node(nodes, index >> order.get());
                self.alloc_class(cpu, gfp, order, Some(node), class)
            }
            Placement::PreferredMany(nodes) => {
                // alloc_pages_preferred_many(): not a page of theirs is worth a wait
                let eager = gfp.without(Gfp::DIRECT_RECLAIM);
                self.alloc_within(cpu, eager, order, class, nodes)
                    .or_else(|_| self.alloc_class(cpu, gfp, order, None, class))
            }
            Placement::Bind(nodes) => self.alloc_within(cpu, gfp, order, class, nodes),
        }
    }

    /// Asks the nodes of a mask, the nearest first; the first of them once more, with all that the
    /// request may do, when none has anything left.
    fn alloc_within(
        &mut self,
        cpu: Cpu,
        gfp: Gfp,
        order: Order,
        class: PageClass,
        nodes: u64,
    ) -> Result<Pfn, AllocError> {
        let near = self.nodes_by_distance(cpu, nodes);
        let at_once = gfp.with(Gfp::THISNODE).without(Gfp::DIRECT_RECLAIM);
        for &node in &near {
            if let Ok(pfn) = self.alloc_class(cpu, at_once, order, Some(node), class) {
                return Ok(pfn);
            }
        }
        let first = near.first().copied().ok_or(AllocError::OutOfMemory)?;
        self.alloc_class(cpu, gfp.with(Gfp::THISNODE), order, Some(first), class)
    }

    /// The nodes of a mask in the order of the CPU's own zonelist.
    fn nodes_by_distance(&self, cpu: Cpu, nodes: u64) -> Vec<NodeId> {
        let local = self.node_of(cpu).unwrap_or(NodeId(0));
        let which = Zonelists::which(local, false, ZoneKind::Movable);
        let mut near: Vec<NodeId> = Vec::new();
        for &zone in self.zonelists.zones(which) {
            let node = self.zones[zone.index()].node;
            if has_node(nodes, node) && !near.contains(&node) {
                near.push(node);
            }
        }
        near
    }
}

/// Whether a mask has a node.
pub(crate) const fn has_node(nodes: u64, node: NodeId) -> bool {
    node.0 < 64 && nodes >> node.0 & 1 != 0
}

/// The node of a mask whose turn it is: `interleave_nid()`.
fn nth_node(nodes: u64, index: u64) -> NodeId {
    let skip = index % u64::from(nodes.count_ones().max(1));
    let left = (0..skip).fold(nodes, |mask, _| mask & mask.wrapping_sub(1));
    NodeId(u8::try_from(left.trailing_zeros()).expect("at most 64"))
}
