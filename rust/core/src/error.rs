//! Why the allocator refused. A refusal is a value; its errno is made here and nowhere else.

use thiserror::Error;

/// `ENOMEM`, include/uapi/asm-generic/errno-base.h v6.12.
pub const ENOMEM: i32 = 12;
/// `EINVAL`, include/uapi/asm-generic/errno-base.h v6.12.
pub const EINVAL: i32 = 22;

/// A refused request for frames, with what the caller needs to decide what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AllocError {
    /// Above `MAX_PAGE_ORDER`.
    #[error("order {0} is above MAX_PAGE_ORDER")]
    OrderTooLarge(u8),
    /// Not in `enum migratetype`.
    #[error("no migratetype has the number {0}")]
    NoSuchMigrateType(u8),
}

impl AllocError {
    /// Linux's number for this refusal, positive.
    pub const fn errno(self) -> i32 {
        match self {
            Self::OrderTooLarge(_) | Self::NoSuchMigrateType(_) => EINVAL,
        }
    }
}
