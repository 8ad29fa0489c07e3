//! The allocators that are compared, behind one trait, so that each runs the same code.

use contigmm_core::{BootSpec, Cpu, Gfp, Memory, Order, Pfn};

/// CPUs of the machine, each with its own lists where there are any.
pub const CPUS: u16 = 2;

/// An allocator of blocks of 2^order frames.
pub trait FrameAllocator: Sized + Send {
    /// The name in the results.
    const NAME: &'static str;
    /// Whether order-0 frames pass through per-CPU lists.
    const PCP: bool;
    /// An allocator with `frames` free frames from 0 on; none if it cannot manage so many.
    fn boot(frames: u32) -> Option<Self>;
    /// Takes a block. `cpu` is below [`CPUS`]; who keeps no lists by CPU need not care.
    fn get(&mut self, cpu: u16, order: u8) -> Option<u32>;
    /// Gives a block back.
    fn put(&mut self, cpu: u16, pfn: u32, order: u8);
    /// Gives back what is kept in lists of freed frames.
    fn settle(&mut self) {}

    /// Takes every frame and writes what a page of a process has written about its own.
    fn use_all(&mut self) {
        while self.get(0, 0).is_some() {}
    }

    /// Takes `nr` single frames, appended to `into`.
    fn get_batch(&mut self, nr: u32, into: &mut Vec<u32>) {
        into.extend((0..nr).map_while(|_| self.get(0, 0)));
    }

    /// Gives single frames back.
    fn put_batch(&mut self, pfns: &[u32]) {
        for &pfn in pfns {
            self.put(0, pfn, 0);
        }
    }
}

/// contigmm as `Machine` uses it, every frame allocatable; `PCP` switches the per-CPU lists.
pub struct Contigmm<const PCP: bool>(Memory);

impl<const PCP: bool> FrameAllocator for Contigmm<PCP> {
    const NAME: &'static str = "contigmm";
    const PCP: bool = PCP;

    fn boot(frames: u32) -> Option<Self> {
        let json = format!(
            r#"{{"nr_cpus": {CPUS}, "min_free_kbytes": 0, "watermark_scale_factor": 0, "pcp": {{"enabled": {PCP}}},
                "zones": [{{"kind": "Normal", "start_pfn": 0, "spanned": {frames}}}]}}"#
        );
        let spec = BootSpec::from_json(&json).expect("a valid description");
        Memory::boot(&spec).ok().map(Self)
    }

    fn get(&mut self, cpu: u16, order: u8) -> Option<u32> {
        let order = Order::new(order).ok()?;
        self.0
            .alloc_pages(Cpu(cpu), Gfp::HIGHUSER_MOVABLE, order, None)
            .ok()
            .map(|pfn| pfn.0)
    }

    fn put(&mut self, cpu: u16, pfn: u32, order: u8) {
        let order = Order::new(order).expect("an order that was allocated");
        self.0.free_pages(Cpu(cpu), Pfn(pfn), order);
    }

    fn settle(&mut self) {
        self.0.drain_all_pages(None);
    }

    fn use_all(&mut self) {
        let class = contigmm_core::PageClass::Anon;
        let own = |map: &mut contigmm_core::MemMap, pfn: Pfn| {
            map.set_owner(pfn, 1, pfn.0);
            map.add_mapcount(pfn, 1);
        };
        let gfp = Gfp::HIGHUSER_MOVABLE;
        let refused = self.0.alloc_bulk(Cpu(0), gfp, None, class, u32::MAX, own);
        debug_assert!(refused.is_err(), "no machine has so many frames");
    }

    fn get_batch(&mut self, nr: u32, into: &mut Vec<u32>) {
        let class = contigmm_core::PageClass::Anon;
        let gfp = Gfp::HIGHUSER_MOVABLE;
        let done = self
            .0
            .alloc_bulk(Cpu(0), gfp, None, class, nr, |_, pfn| into.push(pfn.0));
        // Who takes everything is refused at last, and has what came before.
        debug_assert!(done.is_ok() || self.0.zones()[0].nr_free_pages == 0);
    }

    fn put_batch(&mut self, pfns: &[u32]) {
        self.0.free_batch(Cpu(0), pfns);
    }
}

/// The frame allocator of crates.io `buddy_system_allocator`, a set of free blocks an order.
pub struct BuddySystem(buddy_system_allocator::FrameAllocator<{ Order::COUNT }>);

impl FrameAllocator for BuddySystem {
    const NAME: &'static str = "buddy_system_allocator";
    const PCP: bool = false;

    fn boot(frames: u32) -> Option<Self> {
        let mut allocator = buddy_system_allocator::FrameAllocator::new();
        allocator.add_frame(0, frames as usize);
        Some(Self(allocator))
    }

    fn get(&mut self, _cpu: u16, order: u8) -> Option<u32> {
        self.0
            .alloc(1 << order)
            .map(|pfn| u32::try_from(pfn).expect("below the frame count"))
    }

    fn put(&mut self, _cpu: u16, pfn: u32, order: u8) {
        self.0.dealloc(pfn as usize, 1 << order);
    }
}

/// The page allocator of crates.io `buddy-slab-allocator`, over address space that is never
/// touched but for the allocator's own metadata.
pub struct BuddySlab {
    allocator: buddy_slab_allocator::BuddyAllocator<PAGE_SIZE>,
    base: usize,
    _region: Vec<u8>,
}

const PAGE_SIZE: usize = 4096;
/// More frames than this would need more metadata than a bench should.
const MOST_FRAMES: u32 = 1 << 22;

// SAFETY: the addresses inside point into the region, which the struct owns and no one else refers to.
#[allow(unsafe_code)]
unsafe impl Send for BuddySlab {}

impl FrameAllocator for BuddySlab {
    const NAME: &'static str = "buddy-slab-allocator";
    const PCP: bool = false;

    #[allow(unsafe_code)]
    fn boot(frames: u32) -> Option<Self> {
        if frames > MOST_FRAMES {
            return None;
        }
        let metadata = (frames as usize).next_multiple_of(1024) * 16 + (8 << 20);
        let mut region = vec![0_u8; frames as usize * PAGE_SIZE + metadata];
        let mut allocator = buddy_slab_allocator::BuddyAllocator::new();
        // SAFETY: the region is writable, lives in the same struct as the allocator, is moved with
        // its heap allocation in place, and nothing else refers to it.
        unsafe { allocator.init(&mut region) }.ok()?;
        let base = allocator.section(0)?.start;
        Some(Self {
            allocator,
            base,
            _region: region,
        })
    }

    fn get(&mut self, _cpu: u16, order: u8) -> Option<u32> {
        let address = self.allocator.alloc_pages(1 << order, PAGE_SIZE).ok()?;
        Some(u32::try_from((address - self.base) / PAGE_SIZE).expect("below the frame count"))
    }

    fn put(&mut self, _cpu: u16, pfn: u32, order: u8) {
        self.allocator
            .dealloc_pages(self.base + pfn as usize * PAGE_SIZE, 1 << order);
    }
}
