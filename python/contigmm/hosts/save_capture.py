"""Writes a described machine as a capture: what a reader of /proc would have seen of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from contigmm.description import (
    NR_PAGE_ORDERS,
    PAGEBLOCK_NR_PAGES,
    PAGEBLOCK_ORDER,
    FrameFlags,
    Layout,
    MachineDescription,
    MigrateType,
    PageClass,
    ZoneDescription,
)
from contigmm.hosts import kpageflags as kpf
from contigmm.hosts.capture import FORMAT
from contigmm.hosts.live import Reading
from contigmm.hosts.rle import runs_of
from contigmm.hosts.take_capture import pack
from contigmm.procfs import zones as text

_ANON: Final = kpf.LRU | kpf.ANON | kpf.SWAPBACKED
_SHMEM: Final = kpf.LRU | kpf.SWAPBACKED
_WORDS: Final = {
    PageClass.RESERVED: kpf.RESERVED,
    PageClass.OFFLINE: kpf.OFFLINE,
    PageClass.HWPOISON: kpf.HWPOISON,
    PageClass.HUGETLB: kpf.HUGE,
    PageClass.SLAB: kpf.SLAB,
    PageClass.PGTABLE: kpf.PGTABLE,
    PageClass.ANON: _ANON,
    PageClass.ANON_THP: _ANON | kpf.THP,
    PageClass.SHMEM: _SHMEM,
    PageClass.SHMEM_THP: _SHMEM | kpf.THP,
    PageClass.FILE: kpf.LRU,
    PageClass.FILE_LARGE: kpf.LRU | kpf.THP,
    PageClass.MLOCKED: kpf.LRU | kpf.MLOCKED | kpf.UNEVICTABLE,
    PageClass.MOVABLE_OFFLRU: kpf.MMAP,
    PageClass.ZERO_PAGE: kpf.ZERO_PAGE,
    PageClass.KERNEL: 0,
}
_FLAG_BITS: Final = (
    (FrameFlags.DIRTY, kpf.DIRTY),
    (FrameFlags.ACTIVE, kpf.ACTIVE),
    (FrameFlags.UNEVICTABLE, kpf.UNEVICTABLE),
    (FrameFlags.MAPPED, kpf.MMAP),
    (FrameFlags.ANON, kpf.ANON),
    (FrameFlags.SWAPBACKED, kpf.SWAPBACKED),
    (FrameFlags.PRIVATE, kpf.PRIVATE),
)


def save_capture(description: MachineDescription, *, note: str = "") -> bytes:
    """Return the bytes of a capture of the described machine.

    Raises:
        ValueError: it is freshly booted: there is nothing to tell.
    """
    layout = description.layout
    if layout is None:
        raise ValueError("a freshly booted machine has no layout to capture")
    meta: dict[str, object] = {
        "format": FORMAT,
        "note": note,
        "page_size": 4096,
        "npfn": description.nr_frames,
        "ncpu": description.nr_cpus,
        "flags_masked_out": kpf.VOLATILE,
        "settings": {},
    }
    texts = _texts(description, layout)
    both = {f"{name}.{when}": body for name, body in texts.items() for when in ("before", "after")}
    both["iomem"] = _iomem(description.zones)
    return pack(meta, Reading(texts=both, page_flags=runs_of(_words(description, layout))))


def _words(description: MachineDescription, layout: Layout) -> npt.NDArray[np.uint64]:
    words = np.full(description.nr_frames, kpf.NOPAGE, np.uint64)
    for zone in description.zones:
        words[zone.start_pfn : zone.end_pfn] = 0
        for hole, length in zone.holes:
            words[hole : hole + length] = kpf.NOPAGE
    frames = layout.frames
    table = np.zeros(len(PageClass), np.uint64)
    for kind, word in _WORDS.items():
        table[kind] = word
    of_row = table[frames.page_class]
    for flag, bit in _FLAG_BITS:
        has = (frames.flags & flag) != 0
        of_row[has] |= np.uint64(bit)
    start, nr = frames.start.astype(np.int64), frames.nr.astype(np.int64)
    pfn = np.repeat(start - (np.cumsum(nr) - nr), nr) + np.arange(int(nr.sum()))
    order = np.repeat(frames.order.astype(np.int64), nr)
    is_head = (pfn & ((np.int64(1) << order) - 1)) == 0
    compound = np.where(is_head, np.uint64(kpf.COMPOUND_HEAD), np.uint64(kpf.COMPOUND_TAIL))
    words[pfn] = np.repeat(of_row, nr) | np.where(order > 0, compound, np.uint64(0))
    words[_frames(layout.free.pfn, layout.free.order)] = kpf.BUDDY
    words[_frames(layout.pcp.pfn, layout.pcp.order)] = 0
    return words


def _frames(first: npt.NDArray[np.uint32], order: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the frames of blocks, one by one."""
    nr = np.left_shift(np.int64(1), order.astype(np.int64))
    begin = first.astype(np.int64) - (np.cumsum(nr) - nr)
    return np.repeat(begin, nr) + np.arange(int(nr.sum()))


def _texts(description: MachineDescription, layout: Layout) -> dict[str, str]:
    views = [_view(zone, layout) for zone in description.zones]
    return {
        "buddyinfo": text.buddyinfo(views),
        "pagetypeinfo": text.pagetypeinfo(views, cma_configured=True),
        "zoneinfo": text.zoneinfo(views, {node: {} for node in description.nodes}),
    }


def _view(zone: ZoneDescription, layout: Layout) -> text.ZoneView:
    free = layout.free
    inside = (free.pfn >= zone.start_pfn) & (free.pfn < zone.end_pfn)
    cell = free.migratetype[inside].astype(np.int64) * NR_PAGE_ORDERS + free.order[inside]
    size = len(MigrateType) * NR_PAGE_ORDERS
    by_type = np.bincount(cell, minlength=size)[:size].reshape(len(MigrateType), NR_PAGE_ORDERS)
    first, last = zone.start_pfn >> PAGEBLOCK_ORDER, -(-zone.end_pfn // PAGEBLOCK_NR_PAGES)
    types = np.bincount(layout.pageblock_type[first:last], minlength=256)[: len(MigrateType)]
    marks = (zone.watermark_min, zone.watermark_low, zone.watermark_high, zone.watermark_promo)
    return text.ZoneView(
        node=zone.node,
        name=zone.name,
        free_by_type=by_type.tolist(),
        pageblocks_by_type=types.tolist(),
        free=int((np.int64(1) << free.order[inside].astype(np.int64)).sum()),
        boost=zone.watermark_boost,
        marks=(marks[0] or 0, marks[1] or 0, marks[2] or 0, marks[3] or 0),
        spanned=zone.spanned,
        present=zone.present,
        managed=zone.managed,
        cma=zone.cma,
        protection=zone.protection or (0,),
        start_pfn=zone.start_pfn,
        pagesets=[
            text.Pageset(
                count=pcp.count,
                high=pcp.high,
                batch=pcp.batch,
                high_min=pcp.high_min or 0,
                high_max=pcp.high_max or 0,
            )
            for pcp in zone.pcp
        ],
    )


def _iomem(zones: Sequence[ZoneDescription]) -> str:
    """Return the System RAM lines of what is present."""
    lines = []
    for zone in zones:
        at = zone.start_pfn
        for start, nr in (*zone.holes, (zone.end_pfn, 0)):
            if at < start:
                lines.append(f"{at << 12:08x}-{(start << 12) - 1:08x} : System RAM\n")
            at = start + nr
    return "".join(lines)
