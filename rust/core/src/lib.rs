//! Linux physical memory, simulated: the page-frame array, the buddy allocator of each zone, page
//! tables and who uses which frame. Pure Rust, deterministic, no Python.
#![forbid(unsafe_code)]

pub mod error;
pub mod units;
