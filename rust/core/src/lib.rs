//! Linux physical memory, simulated: the page-frame array, the buddy allocator of each zone, page
//! tables and who uses which frame. Pure Rust, deterministic, no Python.
#![forbid(unsafe_code)]

pub mod address_space;
pub mod boot;
pub mod census;
pub mod clock;
pub mod codec;
pub mod contents;
pub mod contig_run;
pub mod error;
pub mod fallback;
pub mod fault;
mod file_fault;
pub mod filemap;
pub mod fork;
pub mod fragmentation;
pub mod free_area;
pub mod gfp;
pub mod import;
pub mod invariants;
pub mod mem_map;
pub mod memory;
pub mod migrate;
pub mod owner_check;
pub mod page_alloc;
pub mod page_cache;
pub mod page_class;
pub mod page_free;
pub mod page_table;
pub mod pcp;
pub mod protect;
pub mod reclaim_advice;
mod rmap;
pub mod slowpath;
pub mod smaps;
pub mod snapshot;
mod snapshot_owners;
pub mod units;
pub mod vma_index;
pub mod vmstat;
pub mod watermark;
pub mod zap;
pub mod zone;
pub mod zonelist;

pub use boot::{BootError, BootSpec, ZoneSpec};
pub use codec::SnapshotError;
pub use error::AllocError;
pub use fragmentation::ContigPageInfo;
pub use gfp::Gfp;
pub use import::{Import, ImportError};
pub use invariants::InvariantError;
pub use mem_map::{MemMap, PageClass, page_flags};
pub use memory::Memory;
pub use units::{Cpu, MigrateType, NodeId, Order, Pfn, ZoneId, ZoneKind};
pub use vmstat::{VmEvent, VmStat};
