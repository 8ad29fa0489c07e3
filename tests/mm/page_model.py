"""A page-at-a-time model of physical memory as address spaces see it.

It knows nothing of frames, zones or order: a page is an object, a page table a dictionary. Too
simple to be wrong, and slow; the tests of VMAs and system calls run on it, and the real core must
give the same answers. Same methods as ``contigmm.phys.Memory``, as far as ``mm`` uses them.
"""

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

HUGE = 512  # pages of a huge page
FAULT_AROUND = 16  # fault_around_bytes, mm/memory.c
READ_AROUND = 32  # default ra_pages, 128 KiB

VM_WRITE, VM_EXEC, VM_SHARED, VM_PFNMAP, VM_DONTEXPAND = 0x2, 0x4, 0x8, 0x400, 0x4_0000
VM_LOCKED, VM_SEQ_READ, VM_RAND_READ = 0x2000, 0x8000, 0x1_0000
VM_HUGEPAGE, VM_NOHUGEPAGE, VM_CONTIG = 0x2000_0000, 0x4000_0000, 1 << 50


class Page:
    """One page: its bytes, and how often it is mapped."""

    __slots__ = ("data", "exclusive", "fill", "folio", "kind", "lazy", "mapcount", "uptodate")

    def __init__(self, kind: str, fill: int = 0) -> None:
        self.kind = kind  # "anon", "file", "shmem", "zero", "pfn"
        self.data: dict[int, int] = {}
        self.fill = fill
        self.mapcount = 0
        self.exclusive = kind == "anon"
        self.lazy = False
        self.uptodate = True
        self.folio: Folio | None = None

    def copy(self) -> "Page":
        new = Page("anon", self.fill)
        new.data = dict(self.data)
        return new

    def byte(self, offset: int) -> int:
        return self.data.get(offset, self.fill)


class Folio:
    """A huge page: 512 pages that are mapped whole or one by one."""

    __slots__ = ("entire", "maps", "pages")

    def __init__(self, pages: list[Page]) -> None:
        self.pages = pages
        self.entire = 0  # mappings by one entry
        self.maps: dict[int, int] = {}  # mm -> mappings, whole or of one page

    def add(self, mm: int, n: int) -> None:
        self.maps[mm] = self.maps.get(mm, 0) + n
        if not self.maps[mm]:
            del self.maps[mm]


ZERO = Page("zero")
ZERO.exclusive = False
PFN = Page("pfn")
GUARD = Page("guard")


class HugeEntry:
    """One page-middle-directory entry that maps a whole huge page; ``None`` is the zero page."""

    __slots__ = ("exclusive", "folio")

    def __init__(self, folio: Folio | None, *, exclusive: bool) -> None:
        self.folio = folio
        self.exclusive = exclusive


class Space:
    """One address space: small entries, huge entries, and which page tables exist."""

    def __init__(self) -> None:
        self.ptes: dict[int, Page] = {}
        self.pmds: dict[int, HugeEntry] = {}
        self.tables: set[int] = set()
        self.rss = {"anon": 0, "file": 0, "shmem": 0}
        self.locked: set[int] = set()  # entries that mlock found or made in a locked VMA


class ModelIndex:
    """VmaIndex by a sorted list."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.ids: list[int] = []
        self.gaps: list[int] = []

    def insert(self, *, start: int, end: int, id: int, gap_below: int = 0) -> None:
        i = bisect.bisect_left(self.starts, start)
        assert start < end, "empty range"
        assert i == 0 or self.ends[i - 1] <= start, "overlaps the left neighbour"
        assert i == len(self.starts) or end <= self.starts[i], "overlaps the right neighbour"
        self.starts.insert(i, start)
        self.ends.insert(i, end)
        self.ids.insert(i, id)
        self.gaps.insert(i, gap_below)

    def _at(self, start: int) -> int:
        i = bisect.bisect_left(self.starts, start)
        if i == len(self.starts) or self.starts[i] != start:
            raise KeyError(start)
        return i

    def remove(self, start: int) -> int:
        i = self._at(start)
        for column in (self.starts, self.ends, self.gaps):
            del column[i]
        return self.ids.pop(i)

    def replace(self, start: int, *, new_start: int, new_end: int) -> None:
        i = self._at(start)
        gap, id_ = self.gaps[i], self.ids[i]
        self.remove(start)
        self.insert(start=new_start, end=new_end, id=id_, gap_below=gap)

    def find(self, addr: int) -> int | None:
        i = bisect.bisect_right(self.ends, addr)
        return self.ids[i] if i < len(self.ids) else None

    def lookup(self, addr: int) -> int | None:
        i = bisect.bisect_right(self.ends, addr)
        return self.ids[i] if i < len(self.ids) and self.starts[i] <= addr else None

    def prev(self, addr: int) -> int | None:
        i = bisect.bisect_left(self.starts, addr)
        return self.ids[i - 1] if i else None

    def next(self, addr: int) -> int | None:
        i = bisect.bisect_right(self.starts, addr)
        return self.ids[i] if i < len(self.ids) else None

    def range(self, start: int, end: int) -> list[int]:
        if start >= end:
            return []
        return self.ids[
            bisect.bisect_right(self.ends, start) : bisect.bisect_left(self.starts, end)
        ]

    def _gaps(self) -> Iterator[tuple[int, int]]:
        low = 0
        for start, end, gap in zip(self.starts, self.ends, self.gaps, strict=True):
            yield low, max(start - gap, 0)
            low = end
        yield low, 1 << 64

    def highest_gap(self, *, length: int, low: int, high: int, align_mask: int = 0) -> int | None:
        for a, b in reversed(list(self._gaps())):
            found = min(b, high) - length & ~align_mask
            if found >= max(a, low):
                return found
        return None

    def lowest_gap(self, *, length: int, low: int, high: int, align_mask: int = 0) -> int | None:
        for a, b in self._gaps():
            found = max(a, low) + align_mask & ~align_mask
            if found + length <= min(b, high):
                return found
        return None

    def __len__(self) -> int:
        return len(self.starts)


class ModelFile:
    """The page cache of one object."""

    def __init__(self, *, shmem: bool, size: int, fill: int | None) -> None:
        self.shmem = shmem
        self.size = size
        self.fill = fill
        self.fill_end = size  # what was filled ends here, maybe within a page
        self.blank_from = (size + 4095) >> 12  # no pattern from this page on
        self.blank: set[int] = set()
        self.pages: dict[int, Page] = {}

    def new_page(self, index: int) -> Page:
        patterned = self.fill is not None and index < self.blank_from and index not in self.blank
        fill = (self.fill or 0) + index & 255 if patterned else 0
        page = self.pages[index] = Page("shmem" if self.shmem else "file", fill)
        if patterned and self.fill_end - index * 4096 < 4096:
            page.data.update(dict.fromkeys(range(self.fill_end % 4096, 4096), 0))
        return page


class ModelMemory:
    """Physical memory without frames."""

    def __init__(self) -> None:
        self.spaces: dict[int, Space] = {}
        self.files: dict[int, ModelFile] = {}
        self.next_mm = 1
        self.next_file = 1
        self.thp = "madvise"
        self.use_zero_page = True
        self.next_run = 1
        self.runs: dict[int, list[Page]] = {}

    def thp_configure(
        self, *, enabled: str, defrag: str, shmem: str, use_zero_page: bool, always: int,
        madvise: int, inherit: int,
    ) -> None:  # fmt: skip
        assert (always, madvise, inherit) == (0, 0, 1 << 9), "huge pages of 2 MiB only"
        assert shmem in ("never", "deny"), "shared memory in small pages only"
        self.thp, self.use_zero_page = enabled, use_zero_page

    # -- address spaces -------------------------------------------------------------------
    def mm_create(self) -> int:
        mm = self.next_mm
        self.next_mm += 1
        self.spaces[mm] = Space()
        return mm

    def mm_exit(self, mm: int, *, cpu: int) -> int:
        space = self.spaces[mm]
        for vpn in list(space.ptes):
            self._unmap(mm, space, vpn)
        for index in list(space.pmds):
            self._unmap_huge(mm, space, index)
        del self.spaces[mm]
        return 0

    def _map(self, mm: int, space: Space, vpn: int, page: Page) -> None:
        space.ptes[vpn] = page
        space.tables.add(vpn >> 9)
        if page.kind in space.rss:
            page.mapcount += 1
            space.rss[page.kind] += 1
            if page.folio is not None:
                page.folio.add(mm, 1)

    def _unmap(self, mm: int, space: Space, vpn: int) -> None:
        page = space.ptes.pop(vpn)
        if page.kind in space.rss:
            page.mapcount -= 1
            space.rss[page.kind] -= 1
            if page.folio is not None:
                page.folio.add(mm, -1)

    def _unmap_huge(self, mm: int, space: Space, index: int) -> None:
        entry = space.pmds.pop(index)
        if entry.folio is not None:
            entry.folio.entire -= 1
            entry.folio.add(mm, -1)
            space.rss["anon"] -= HUGE

    def _split_entry(self, mm: int, space: Space, index: int) -> None:
        """Map the pages of a huge page one by one: __split_huge_pmd()."""
        entry = space.pmds.get(index)
        if entry is None:
            return
        self._unmap_huge(mm, space, index)
        for i in range(HUGE):
            page = ZERO
            if entry.folio is not None:
                page = entry.folio.pages[i]
                page.exclusive = entry.exclusive
            self._map(mm, space, index * HUGE + i, page)

    def split_huge_at(self, *, mm: int, vpn: int) -> None:
        if vpn % HUGE:
            self._split_entry(mm, self.spaces[mm], vpn >> 9)

    def _split_folio(self, folio: Folio) -> None:
        """Make single pages of a huge page; zero pages take the place of zeros: split_folio()."""
        spaces = {mm: self.spaces[mm] for mm in folio.maps}
        for mm, space in spaces.items():
            for index, entry in list(space.pmds.items()):
                if entry.folio is folio:
                    self._split_entry(mm, space, index)
        for page in folio.pages:
            page.folio = None
        folio.maps = {}
        for mm, space in spaces.items():
            blank = [
                vpn for vpn, page in space.ptes.items()
                if page in folio.pages and not any(page.data.values()) and vpn not in space.locked
            ]  # fmt: skip
            for vpn in blank:
                self._unmap(mm, space, vpn)
                self._map(mm, space, vpn, ZERO)

    # -- faults ---------------------------------------------------------------------------
    def access(
        self, *, mm: int, cpu: int, addr: int, nr: int, stride: int, write: bool, value: int,
        vm_start: int, vm_end: int, vm_flags: int, obj: int, pgoff: int, prealloc: int,
    ) -> tuple[int, str, int]:  # fmt: skip
        space = self.spaces[mm]
        last = 0
        for i in range(nr):
            at = addr + i * stride
            vpn = at >> 12
            where = (vm_start, vm_end, vm_flags, obj, pgoff)
            page, cause = self._fault(mm, space, vpn, write=write, where=where, prealloc=prealloc)
            if cause:
                return i, cause, last
            if write:
                last = (value + i) & 255
                page.data[at & 4095] = last
                page.lazy = False
            else:
                last = page.byte(at & 4095)
        return nr, "", last

    def populate(
        self, *, mm: int, cpu: int, vpn: int, nr: int, vm_start: int, vm_end: int, vm_flags: int,
        obj: int, pgoff: int, prealloc: int, write: bool,
    ) -> tuple[int, str]:  # fmt: skip
        space = self.spaces[mm]
        where = (vm_start, vm_end, vm_flags, obj, pgoff)
        i = 0
        while i < nr:
            _, cause = self._fault(mm, space, vpn + i, write=write, where=where, prealloc=prealloc)
            if cause:
                return i, cause
            i += 1
            if (vpn + i - 1) >> 9 in space.pmds:
                i = (((vpn + i - 1) >> 9) + 1) * HUGE - vpn
        return nr, ""

    def _fault(
        self, mm: int, space: Space, vpn: int, *, write: bool,
        where: tuple[int, int, int, int, int], prealloc: int,
    ) -> tuple[Page, str]:  # fmt: skip
        vm_flags = where[2]
        entry = space.pmds.get(vpn >> 9)
        if entry is not None:
            page = self._huge_fault(mm, space, vpn, entry, write=write)
            if page is not None:
                return page, ""
        page = space.ptes.get(vpn)
        if page is GUARD:
            return GUARD, "guard"
        if page is None:
            if where[3]:
                return self._file_fault(mm, space, vpn, write=write, where=where)
            if vm_flags & VM_PFNMAP:
                self._map(mm, space, vpn, PFN)
                return PFN, ""
            if vm_flags & VM_CONTIG and prealloc < 0:
                return ZERO, "run_page_absent"
            return self._anon_fault(mm, space, vpn, write=write, where=where, prealloc=prealloc), ""
        if write and not vm_flags & VM_SHARED:
            return self._write_fault(mm, space, vpn, page), ""
        return page, ""

    def _may_be_huge(self, space: Space, vpn: int, where: tuple[int, int, int, int, int]) -> bool:
        vm_start, vm_end, vm_flags = where[:3]
        if self.thp == "never" or vm_flags & VM_NOHUGEPAGE:
            return False
        if self.thp == "madvise" and not vm_flags & VM_HUGEPAGE:
            return False
        first = vpn & -HUGE
        inside = vm_start <= first << 12 and (first + HUGE) << 12 <= vm_end
        return inside and vpn >> 9 not in space.tables

    def _new_folio(self) -> Folio:
        folio = Folio([Page("anon") for _ in range(HUGE)])
        for page in folio.pages:
            page.folio = folio
        return folio

    def _map_huge(self, mm: int, space: Space, index: int, folio: Folio | None) -> None:
        space.pmds[index] = HugeEntry(folio, exclusive=True)
        if folio is not None:
            folio.entire += 1
            folio.add(mm, 1)
            space.rss["anon"] += HUGE
        space.tables.add(index)

    def _anon_fault(
        self, mm: int, space: Space, vpn: int, *, write: bool,
        where: tuple[int, int, int, int, int], prealloc: int,
    ) -> Page:  # fmt: skip
        huge = prealloc < 0 and (write or self.use_zero_page)
        if huge and self._may_be_huge(space, vpn, where):
            folio = self._new_folio() if write else None
            self._map_huge(mm, space, vpn >> 9, folio)
            return ZERO if folio is None else folio.pages[vpn % HUGE]
        page = ZERO if not write and prealloc < 0 else Page("anon")
        self._map(mm, space, vpn, page)
        return page

    def _huge_fault(
        self, mm: int, space: Space, vpn: int, entry: HugeEntry, *, write: bool
    ) -> Page | None:
        folio = entry.folio
        if folio is None:
            if not write:
                return ZERO
            folio = self._new_folio()
            del space.pmds[vpn >> 9]
            self._map_huge(mm, space, vpn >> 9, folio)
        elif write and not entry.exclusive:
            if sum(folio.maps.values()) > 1:
                self._split_entry(mm, space, vpn >> 9)
                return None
            entry.exclusive = True
        return folio.pages[vpn % HUGE]

    def _write_fault(self, mm: int, space: Space, vpn: int, page: Page) -> Page:
        """A private page is written: do_wp_page()."""
        if page.kind == "anon":
            if page.exclusive:
                return page
            folio = page.folio
            alone = page.mapcount == 1 if folio is None else set(folio.maps) == {mm}
            if alone:
                page.exclusive = True
                return page
        new = page.copy()
        self._unmap(mm, space, vpn)
        self._map(mm, space, vpn, new)
        return new

    def _file_fault(
        self, mm: int, space: Space, vpn: int, *, write: bool,
        where: tuple[int, int, int, int, int],
    ) -> tuple[Page, str]:  # fmt: skip
        vm_start, vm_end, vm_flags, obj, pgoff = where
        file = self.files[obj]
        index = pgoff + vpn - (vm_start >> 12)
        around = not write and not vm_flags & VM_DONTEXPAND
        if around:
            self._map_around(mm, space, vpn, where)
        if vpn in space.ptes:
            return space.ptes[vpn], ""
        if index >= (file.size + 4095) >> 12:
            return ZERO, "beyond_eof"
        missed = index not in file.pages and not file.shmem
        behind = pgoff + (vm_end - vm_start >> 12)
        page = self._cached(file, index, vm_flags, behind)
        if write and not vm_flags & VM_SHARED:
            page = page.copy()
        self._map(mm, space, vpn, page)
        if missed and around:  # filemap_fault() drops the lock to read, and all begins again
            self._map_around(mm, space, vpn, where)
        return page, ""

    def _cached(self, file: ModelFile, index: int, vm_flags: int, behind: int) -> Page:
        page = file.pages.get(index)
        if page is None:
            if file.shmem or vm_flags & VM_RAND_READ:
                file.new_page(index)
            elif vm_flags & VM_EXEC and not vm_flags & VM_SEQ_READ:
                self._read_ahead(file, index, min(READ_AROUND, behind - index))
            else:
                first = index if vm_flags & VM_SEQ_READ else max(0, index - READ_AROUND // 2)
                self._read_ahead(file, first, READ_AROUND)
            page = file.pages[index]
        page.uptodate = True
        return page

    def _read_ahead(self, file: ModelFile, first: int, nr: int) -> None:
        for index in range(first, min(first + nr, (file.size + 4095) >> 12)):
            if index not in file.pages:
                file.new_page(index)

    def _map_around(
        self, mm: int, space: Space, vpn: int, where: tuple[int, int, int, int, int]
    ) -> None:
        """Map cached neighbours of a read fault: do_fault_around()."""
        vm_start, vm_end, _, obj, pgoff = where
        file = self.files[obj]
        first = max(vpn & -FAULT_AROUND, vm_start >> 12)
        last = min(first + FAULT_AROUND, (vpn & -HUGE) + HUGE, vm_end >> 12)
        cached = [
            (at, page)
            for at in range(first, last)
            if (page := file.pages.get(pgoff + at - (vm_start >> 12))) and page.uptodate
        ]
        last_index = ((file.size + 4095) >> 12) - 1
        no_table = vpn >> 9 not in space.tables
        # filemap_map_pages(): nobody installs the table if the first page is the file's last.
        first_index = pgoff + cached[0][0] - (vm_start >> 12) if cached else 0
        if no_table and not file.shmem and first_index == last_index:
            return
        for at, page in cached:
            if at not in space.ptes:
                self._map(mm, space, at, page)

    # -- ranges -----------------------------------------------------------------------------
    def _entries(self, space: Space, vpn: int, nr: int) -> list[int]:
        if nr < 4 * len(space.ptes):
            return [at for at in range(vpn, vpn + nr) if at in space.ptes]
        return sorted(at for at in space.ptes if vpn <= at < vpn + nr)

    def _huge_in(self, mm: int, space: Space, vpn: int, nr: int) -> list[int]:
        """Split what the range cuts, return the huge entries wholly inside."""
        whole = []
        for index in list(space.pmds):
            if vpn <= index * HUGE and (index + 1) * HUGE <= vpn + nr:
                whole.append(index)
            elif index * HUGE < vpn + nr and vpn < (index + 1) * HUGE:
                self._split_entry(mm, space, index)
        return whole

    def zap(self, *, mm: int, cpu: int, vpn: int, nr: int, keep_guards: bool = False) -> int:
        space = self.spaces[mm]
        for index in self._huge_in(mm, space, vpn, nr):
            self._unmap_huge(mm, space, index)
            space.tables.discard(index)
        for at in self._entries(space, vpn, nr):
            if not (space.ptes[at] is GUARD and keep_guards):
                self._unmap(mm, space, at)
        if keep_guards and nr >= HUGE:  # CONFIG_PT_RECLAIM, v6.14
            for index in range((vpn + HUGE - 1) >> 9, (vpn + nr) >> 9):
                if not any(at >> 9 == index for at in space.ptes):
                    space.tables.discard(index)
        return 0

    def free_pgtables(
        self, *, mm: int, cpu: int, start: int, end: int, floor: int, ceiling: int
    ) -> int:
        space = self.spaces[mm]
        ceiling = ceiling or 1 << 64
        for index in list(space.tables):
            low, high = index << 21, (index + 1) << 21
            if low < end and start < high and floor <= low and high <= ceiling:
                space.tables.discard(index)
        return 0

    def protect(self, *, mm: int, vpn: int, nr: int, vm_flags: int) -> None:
        self._huge_in(mm, self.spaces[mm], vpn, nr)

    def mlock_range(self, *, mm: int, vpn: int, nr: int, vm_flags: int) -> None:
        locked = self.spaces[mm].locked
        (locked.update if vm_flags & VM_LOCKED else locked.difference_update)(range(vpn, vpn + nr))

    def lazy_free(self, *, mm: int, cpu: int, vpn: int, nr: int) -> None:
        space = self.spaces[mm]
        self._split_partial(mm, space, vpn, nr)
        for at in self._entries(space, vpn, nr):
            page = space.ptes[at]
            if page.kind == "anon" and page.mapcount == 1:
                page.lazy = True

    def _split_partial(self, mm: int, space: Space, vpn: int, nr: int) -> None:
        for folio in self._folios(space, vpn, nr):
            inside = sum(
                1 for at in range(vpn, vpn + nr)
                if ((entry := space.pmds.get(at >> 9)) and entry.folio is folio)
                or (at in space.ptes and space.ptes[at].folio is folio)
            )  # fmt: skip
            if inside < HUGE and set(folio.maps) == {mm}:
                self._split_folio(folio)

    def cold(self, *, mm: int, cpu: int, vpn: int, nr: int) -> None:
        self._split_partial(mm, self.spaces[mm], vpn, nr)

    def page_out(self, *, mm: int, cpu: int, vpn: int, nr: int) -> int:
        space = self.spaces[mm]
        self._split_partial(mm, space, vpn, nr)
        for at in self._entries(space, vpn, nr):
            page = space.ptes[at]
            # Pages of objects are unmapped before it turns out that there is no swap for them.
            if page.lazy or (page.kind in ("file", "shmem") and page.mapcount == 1):
                self._unmap(mm, space, at)
        for folio in self._folios(space, vpn, nr):  # no swap takes them whole
            if set(folio.maps) == {mm}:
                self._split_folio(folio)
        return 0

    def _folios(self, space: Space, vpn: int, nr: int) -> list[Folio]:
        """Huge pages of which some page is mapped in the range."""
        whole = [entry.folio for index, entry in space.pmds.items()
                 if index * HUGE < vpn + nr and vpn < (index + 1) * HUGE]  # fmt: skip
        parts = [space.ptes[at].folio for at in self._entries(space, vpn, nr)]
        return list({id(folio): folio for folio in whole + parts if folio is not None}.values())

    def guard_install(self, *, mm: int, cpu: int, vpn: int, nr: int) -> tuple[int, str]:
        self.zap(mm=mm, cpu=cpu, vpn=vpn, nr=nr)
        space = self.spaces[mm]
        for at in range(vpn, vpn + nr):
            self._map(mm, space, at, GUARD)
        return nr, ""

    def guard_remove(self, *, mm: int, vpn: int, nr: int) -> None:
        space = self.spaces[mm]
        for at in self._entries(space, vpn, nr):
            if space.ptes[at] is GUARD:
                del space.ptes[at]

    def collapse(self, *, mm: int, cpu: int, vpn: int, vm_flags: int) -> str:
        space = self.spaces[mm]
        index = vpn >> 9
        if index in space.pmds:
            return ""
        present = [at for at in range(vpn, vpn + HUGE) if at in space.ptes]
        if index not in space.tables:
            return "unfit"
        if any(space.ptes[at].kind not in ("anon", "zero") for at in present):
            return "unfit"
        folio = self._new_folio()
        for at in present:
            page = space.ptes[at]
            new = folio.pages[at % HUGE]
            new.data, new.fill = dict(page.data), page.fill
            self._unmap(mm, space, at)
        self._map_huge(mm, space, index, folio)
        return ""

    def collapse_file(
        self, *, mm: int, cpu: int, vpn: int, vm_start: int, vm_end: int, vm_flags: int, obj: int,
        pgoff: int,
    ) -> str:  # fmt: skip
        # The model keeps files in single pages: large folios of files are tested on the core alone
        # (rust/core/tests/shmem_huge.rs, tests/data/oracle/shmem.jsonl.gz).
        return "unfit"

    def fork(
        self, *, parent: int, child: int, cpu: int, ranges: Sequence[tuple[int, int, int]]
    ) -> tuple[int, str]:
        old, new = self.spaces[parent], self.spaces[child]
        for start, end, _ in ranges:
            for index, entry in list(old.pmds.items()):
                if not start <= index * HUGE < end:
                    continue
                entry.exclusive = False
                self._map_huge(child, new, index, entry.folio)
                new.pmds[index].exclusive = False
            for at in self._entries(old, start, end - start):
                page = old.ptes[at]
                page.exclusive = False
                self._map(child, new, at, page)
        return len(ranges), ""

    def move(self, *, mm: int, cpu: int, src: int, dst: int, nr: int) -> tuple[int, str]:
        space = self.spaces[mm]
        whole = self._huge_in(mm, space, src, nr)
        if (dst - src) % HUGE:
            for index in whole:
                self._split_entry(mm, space, index)
            whole = []
        for index in whole:
            space.pmds[index + ((dst - src) >> 9)] = space.pmds.pop(index)
            space.tables.add(index + ((dst - src) >> 9))
            space.tables.discard(index)
        moved = {at - src + dst: space.ptes.pop(at) for at in self._entries(space, src, nr)}
        for at, page in moved.items():
            space.ptes[at] = page
            space.tables.add(at >> 9)
        return nr, ""

    # -- files ------------------------------------------------------------------------------
    def file_create(self, *, shmem: bool, size: int | None = None, fill: int | None = None) -> int:
        core_id = self.next_file
        self.next_file += 1
        size = (1 << 63) - 1 if size is None else size
        self.files[core_id] = ModelFile(shmem=shmem, size=size, fill=fill)
        return core_id

    def file_drop(self, file: int, *, cpu: int = 0) -> int:
        return len(self.files.pop(file).pages)

    def _evict(self, file: ModelFile, first: int, last: int) -> int:
        gone = {page: at for at, page in file.pages.items() if first <= at < last}
        for mm, space in self.spaces.items():
            for vpn in [vpn for vpn, page in space.ptes.items() if page in gone]:
                self._unmap(mm, space, vpn)
        for at in gone.values():
            del file.pages[at]
        return len(gone)

    def file_truncate(self, file: int, *, size: int, cpu: int = 0) -> int:
        cached = self.files[file]
        shrinks = size < cached.size
        cached.size = size
        if not shrinks:
            return 0
        end = (size + 4095) >> 12
        freed = self._evict(cached, end, 1 << 52)
        cached.blank_from = min(cached.blank_from, end)
        if size % 4096:
            page = cached.pages.get(end - 1)
            if page is None and not cached.shmem:  # a hole: __ext4_block_zero_page_range()
                page = cached.new_page(end - 1)
                page.uptodate = False
            if page is not None:
                page.data.update(dict.fromkeys(range(size % 4096, 4096), 0))
        return freed

    def file_punch(self, file: int, *, index: int, nr: int, cpu: int = 0) -> int:
        self.files[file].blank.update(range(index, index + nr))
        return self._evict(self.files[file], index, index + nr)

    def cache_insert(self, file: int, *, index: int, nr: int, cpu: int = 0) -> tuple[int, str]:
        cached = self.files[file]
        for at in range(index, index + nr):
            if at not in cached.pages:
                cached.new_page(at)
        return nr, ""

    def cache_reserve(self, file: int, *, index: int, nr: int, cpu: int = 0) -> tuple[int, str]:
        cached = self.files[file]
        for at in range(index, index + nr):
            if at not in cached.pages:
                cached.new_page(at).uptodate = False
        return nr, ""

    def file_read(self, file: int, *, offset: int, cpu: int = 0) -> int | None:
        cached = self.files[file]
        if offset >= cached.size:
            return None
        index = offset >> 12
        if index not in cached.pages and not cached.shmem:
            self._read_ahead(cached, index, 4 if index == 0 else 1)
        page = cached.pages.get(index)
        if page is None:
            return 0
        page.uptodate = True
        return page.byte(offset & 4095)

    def file_write(self, file: int, *, offset: int, value: int, cpu: int = 0) -> None:
        cached = self.files[file]
        page = cached.pages.get(offset >> 12) or cached.new_page(offset >> 12)
        page.uptodate = True
        page.data[offset & 4095] = value
        cached.size = max(cached.size, offset + 1)

    # -- contiguous runs ----------------------------------------------------------------------
    def run_alloc(self, *, nr: int, cpu: int, node: int) -> tuple[int, int]:
        run = self.next_run
        self.next_run += 1
        self.runs[run] = [Page("anon") for _ in range(nr)]
        return run, run << 20

    def run_hold(self, *, run: int, offset: int, nr: int) -> None:
        pass

    def run_release(self, *, run: int, offset: int, nr: int, cpu: int) -> int:
        return nr

    def rfc_alloc(self, *, length_pages: int, cpu: int, node: int) -> int:
        return self.run_alloc(nr=length_pages, cpu=cpu, node=node)[1]

    def rfc_free(self, *, base: int, nr: int, cpu: int) -> int:
        return nr

    def run_map(
        self, *, mm: int, cpu: int, vpn: int, run: int, offset: int, nr: int, vm_flags: int
    ) -> int:
        space = self.spaces[mm]
        absent = [at for at in range(vpn, vpn + nr) if at not in space.ptes]
        for at in absent:
            self._map(mm, space, at, self.runs[run][offset + at - vpn])
        return len(absent)

    # -- views --------------------------------------------------------------------------------
    def rss(self, mm: int) -> tuple[int, int, int, int]:
        space = self.spaces[mm]
        return space.rss["anon"], space.rss["file"], space.rss["shmem"], len(space.tables) * 4096

    def node_of_page(self, *, mm: int, vpn: int) -> tuple[int, str]:
        return 0, "" if self._pagemap_word(self.spaces[mm], vpn) >> 63 else "absent"

    def move_to_node(self, *, mm: int, cpu: int, vpn: int, node: int, shared_too: bool) -> str:
        return self.node_of_page(mm=mm, vpn=vpn)[1]  # it has one node, where everything is

    def place(self, kind: str, *, nodes: int = 0) -> None:
        pass  # it has one node

    def move_misplaced(
        self, *, mm: int, cpu: int, vpn: int, nr: int, index: int, nodes: int, move_own: bool,
        move_all: bool,
    ) -> int:  # fmt: skip
        if nodes & 1 or move_own or move_all:
            return 0
        words = (self._pagemap_word(self.spaces[mm], at) for at in range(vpn, vpn + nr))
        return sum(word >> 63 for word in words)

    def hiwater_rss(self, mm: int) -> int:
        return sum(self.spaces[mm].rss.values())  # it keeps no marks

    def pagemap(self, *, mm: int, vpn: int, nr: int) -> list[int]:
        space = self.spaces[mm]
        return [self._pagemap_word(space, at) for at in range(vpn, vpn + nr)]

    def _pagemap_word(self, space: Space, vpn: int) -> int:
        entry = space.pmds.get(vpn >> 9)
        if entry is not None:
            if entry.folio is None:
                return 1 << 63 | 1 << 61
            page = entry.folio.pages[vpn % HUGE]
            return 1 << 63 | (page.mapcount + entry.folio.entire == 1) << 56
        page_or_none = space.ptes.get(vpn)
        if page_or_none is None:
            return 0
        page = page_or_none
        if page is GUARD:
            return 1 << 62 | 1 << 58
        entire = page.folio.entire if page.folio is not None else 0
        return (
            1 << 63 | (page.kind in ("file", "shmem")) << 61 | (page.mapcount + entire == 1) << 56
        )

    def mincore(self, *, mm: int, vpn: int, nr: int, obj: int, index: int) -> bytes:
        space = self.spaces[mm]
        answer = bytearray()
        for i in range(nr):
            at = vpn + i
            page = space.ptes.get(at)
            if at >> 9 in space.pmds:
                answer.append(1)
            elif page is None or page is GUARD:  # pte_none_mostly()
                cached = self.files[obj].pages.get(index + i) if obj else None
                answer.append(cached is not None and cached.uptodate)
            else:
                answer.append(1)
        return bytes(answer)

    def usage(self, *, mm: int, vpn: int, nr: int) -> dict[str, Any]:
        """Figures of smaps for a range, in bytes."""
        space = self.spaces[mm]
        rss = anon = huge = pss = 0
        for index, entry in space.pmds.items():
            if vpn <= index * HUGE < vpn + nr and entry.folio is not None:
                huge += HUGE
                for page in entry.folio.pages:
                    pss += (4096 << 12) // (page.mapcount + entry.folio.entire)
        for at in self._entries(space, vpn, nr):
            page = space.ptes[at]
            if page.kind in space.rss:
                rss += 1
                anon += page.kind == "anon"
                entire = page.folio.entire if page.folio is not None else 0
                pss += (4096 << 12) // (page.mapcount + entire)
        return {
            "rss": (rss + huge) << 12,
            "anonymous": (anon + huge) << 12,
            "anonymous_thp": huge << 12,
            "shmem_thp": 0,
            "pss": pss >> 12,
        }
