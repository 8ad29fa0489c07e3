"""Address spaces and what they share, as plain data and back.

An object that several others refer to is written once and named by its number; numbers are given
in the order in which the objects are met.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from contigmm.mm.anon_vma import AnonVma
from contigmm.mm.config import MmConfig
from contigmm.mm.file_table import FileTable
from contigmm.mm.files import (
    Backing,
    Ext4File,
    HugetlbFile,
    Inode,
    MemFd,
    Pipe,
    SharedAnonymous,
    SpecialMapping,
)
from contigmm.mm.flags import VmFlags
from contigmm.mm.mm_struct import MmStruct, Rlimits
from contigmm.mm.policy import Contig, ContigPolicy, Run
from contigmm.mm.task import Task
from contigmm.mm.vma import VmArea
from contigmm.phys import VmaIndex
from contigmm.sim.table import Entry

Plain = dict[str, Any]
T = TypeVar("T")

_RUN: Final = ("core_run", "base_pfn", "nr", "owner_uid", "pieces_merge")
_FAMILY: Final = ("num_children", "num_active_vmas", "nr_vmas")
_TASK: Final = ("pid", "tgid", "uid", "cpu", "node", "persona")


class _Numbered:
    """Objects of one kind, by the number they got when they were met first."""

    def __init__(self, write: Callable[[Any], Plain]) -> None:
        self._numbers: dict[Any, int] = {}
        self._write = write
        self.rows: list[Plain] = []

    def number(self, met: Any) -> int:
        found = self._numbers.get(met)
        if found is None:
            found = self._numbers[met] = len(self.rows)
            self.rows.append({})  # its place, before what it refers to asks for one
            self.rows[found] = self._write(met)
        return found


class GraphWriter:
    """Turns processes into plain data."""

    def __init__(self) -> None:
        self._inodes = _Numbered(_write_inode)
        self._files = _Numbered(self._write_file)
        self._families = _Numbered(self._write_family)
        self._runs = _Numbered(lambda run: {name: getattr(run, name) for name in _RUN})
        self._tables = _Numbered(self._write_table)
        self._mms = _Numbered(self._write_mm)

    def objects(self) -> Plain:
        """Everything that was referred to, by kind and number."""
        return {
            "inodes": self._inodes.rows,
            "files": self._files.rows,
            "families": self._families.rows,
            "runs": self._runs.rows,
            "tables": self._tables.rows,
            "mms": self._mms.rows,
        }

    def directory(self, directory: dict[str, Inode]) -> list[list[Any]]:
        """Files by path, in the order in which they were made."""
        return [[path, self._inodes.number(inode)] for path, inode in directory.items()]

    def policy(self, policy: ContigPolicy) -> Plain:
        """State of MAP_CONTIG's policy; only the finished one has any."""
        if not isinstance(policy, Contig):
            return {}
        return {
            "user_limit_pages": policy.user_limit_pages,
            "user_pages": sorted(policy.user_pages.items()),
            "required_cap": policy.required_cap,
        }

    def process(self, entry: Entry) -> Plain:
        """One process: its entry, its task, its address space."""
        task = entry.task
        return {
            "id": entry.id,
            "name": entry.name,
            "parent": entry.parent,
            "background": entry.background,
            "task": {name: getattr(task, name) for name in _TASK},
            "caps": sorted(task.caps),
            "rlimits": [[number, *task.rlimits[number]] for number in sorted(task.rlimits)],
            "mempolicy": task.mempolicy,
            "files": self._tables.number(task.files),
            "mm": self._mms.number(task.mm),
        }

    def _write_table(self, table: FileTable) -> Plain:
        return {
            "files": [[fd, self._files.number(file)] for fd, file in table.items()],
            "close_on_exec": sorted(table.close_on_exec),
        }

    def _write_mm(self, mm: MmStruct) -> Plain:
        return {
            "id": mm.id,
            "map_count": mm.map_count,
            "counters": mm.counters(),
            "vmas": [self._vma(vma) for vma in mm.all_vmas()],
        }

    def _vma(self, vma: VmArea) -> Plain:
        family, run, file = vma.anon_vma, vma.run, vma.file
        return {
            "id": vma.id,
            "at": [vma.vm_start, vma.vm_end, vma.vm_flags, vma.vm_pgoff],
            "file": None if file is None else self._files.number(file),
            "family": None if family is None else self._families.number(family),
            "chain": [self._families.number(one) for one in vma.anon_chain],
            "policy": vma.policy,
            "run": None if run is None else self._runs.number(run),
            "run_offset": vma.run_offset,
        }

    def _write_file(self, file: Backing) -> Plain:
        row: Plain = {
            "kind": file.kind,
            "name": file.name,
            "inode": self._inodes.number(file.inode),
            "writable": file.mode_write,
        }
        match file:
            case SharedAnonymous():
                row["charged"] = file.charged
            case HugetlbFile():
                row["page_bytes"] = file.page_bytes
            case SpecialMapping():
                row["absent"] = sorted(file.absent)
            case Pipe() | Ext4File():
                row["readable"] = file.readable
        return row

    def _write_family(self, family: AnonVma) -> Plain:
        row: Plain = {name: getattr(family, name) for name in _FAMILY}
        row["parent"] = self._families.number(family.parent)
        return row


def _write_inode(inode: Inode) -> Plain:
    return {
        "core_id": inode.core_id,
        "size": inode.size,
        "seals": inode.seals,
        "owner_uid": inode.owner_uid,
        "writable_mappings": inode.writable_mappings,
        "i_mmap": [[mm.id, vma.id] for vma, mm in inode.i_mmap.items()],
    }


class GraphReader:
    """Makes processes of plain data. The memory is restored already."""

    def __init__(self, config: MmConfig, objects: Plain) -> None:
        self._config = config
        self._inode_rows = objects["inodes"]
        self._inodes = [_read_inode(row) for row in objects["inodes"]]
        self._files = [self._read_file(row) for row in objects["files"]]
        self._families = _read_families(objects["families"])
        self._runs = [_read_run(row) for row in objects["runs"]]
        self._table_rows = objects["tables"]
        self._tables: dict[int, FileTable] = {}
        self._mm_rows = objects["mms"]
        self._mms: dict[int, MmStruct] = {}  # by number in physical memory
        self._limits: dict[int, Rlimits] = {}  # by thread group, which shares them

    def directory(self, rows: list[list[Any]]) -> dict[str, Inode]:
        """Files by path."""
        return {path: self._inodes[number] for path, number in rows}

    def policy(self, row: Plain) -> None:
        """Give MAP_CONTIG's policy its state back."""
        policy = self._config.contig
        if isinstance(policy, Contig):
            policy.user_limit_pages = row["user_limit_pages"]
            policy.user_pages = dict(row["user_pages"])
            policy.required_cap = row["required_cap"]

    def process(self, row: Plain) -> Entry:
        """Make one process."""
        numbers = row["task"]
        own = {number: (soft, hard) for number, soft, hard in row["rlimits"]}
        rlimits = self._limits.setdefault(numbers["tgid"], own)
        task = Task(
            self._config,
            VmaIndex(),
            pid=numbers["pid"],
            uid=numbers["uid"],
            caps=frozenset(row["caps"]),
            rlimits=rlimits,
            cpu=numbers["cpu"],
            node=numbers["node"],
            persona=numbers["persona"],
            mm=self._mm(self._mm_rows[row["mm"]], rlimits),
        )
        task.tgid = numbers["tgid"]
        task.mempolicy = _pair(row["mempolicy"])
        task.files = self._table(row["files"])
        return Entry(row["id"], row["name"], row["parent"], row["background"], task)

    def finish(self) -> None:
        """Tie inodes to the VMAs that map them, once all processes are there."""
        for inode, row in zip(self._inodes, self._inode_rows, strict=True):
            for mm_id, vma_id in row["i_mmap"]:
                mm = self._mms[mm_id]
                inode.i_mmap[mm.vmas[vma_id]] = mm

    def _table(self, number: int) -> FileTable:
        """A table of open files, made where it is met first."""
        table = self._tables.get(number)
        if table is not None:
            table.users += 1
            return table
        table = self._tables[number] = FileTable(self._config)
        row = self._table_rows[number]
        for fd, file in row["files"]:
            table[fd] = self._files[file]
        table.close_on_exec = set(row["close_on_exec"])
        return table

    def _mm(self, row: Plain, rlimits: Rlimits) -> MmStruct:
        """An address space, made where it is met first."""
        mm = self._mms.get(row["id"])
        if mm is not None:
            return mm
        memory = self._config.memory
        mm = MmStruct(memory, self._config, VmaIndex(), rlimits, mm_id=row["id"])
        self._mms[mm.id] = mm
        for name, value in row["counters"].items():
            setattr(mm, name, value)
        mm.map_count = row["map_count"]
        for plain in row["vmas"]:
            vma = self._read_vma(plain)
            mm.vmas[vma.id] = vma
            mm.index.insert(start=vma.vm_start, end=vma.vm_end, id=vma.id)
        return mm

    def _read_vma(self, row: Plain) -> VmArea:
        start, end, vm_flags, pgoff = row["at"]
        file = _at(self._files, row["file"])
        vma = VmArea(row["id"], start, end, VmFlags(vm_flags), pgoff, file)
        vma.anon_vma = _at(self._families, row["family"])
        vma.anon_chain = tuple(self._families[number] for number in row["chain"])
        vma.policy = _pair(row["policy"])
        vma.run = _at(self._runs, row["run"])
        vma.run_offset = row["run_offset"]
        return vma

    def _read_file(self, row: Plain) -> Backing:
        inode = self._inodes[row["inode"]]
        file: Backing
        match row["kind"]:
            case "shared-anonymous":
                file = SharedAnonymous(inode, row["charged"])
            case "hugetlb":
                file = HugetlbFile(inode, row["page_bytes"])
            case "special":
                file = SpecialMapping(row["name"], inode, frozenset(row["absent"]))
            case "pipe":
                file = Pipe(readable=row["readable"])
                file.inode = inode
            case "memfd":
                file = MemFd(row["name"], inode)
            case "ext4":
                file = Ext4File(row["name"], inode, readable=row["readable"])
            case kind:
                raise ValueError(f"there is no kind of file {kind!r}")
        file.mode_write = row["writable"]
        return file


def _at(objects: list[T], number: int | None) -> T | None:
    return None if number is None else objects[number]


def _pair(row: list[int] | None) -> tuple[int, int] | None:
    return None if row is None else (row[0], row[1])


def _read_inode(row: Plain) -> Inode:
    inode = Inode(row["core_id"], row["size"], row["seals"], owner_uid=row["owner_uid"])
    inode.writable_mappings = row["writable_mappings"]
    return inode


def _read_families(rows: list[Plain]) -> list[AnonVma]:
    families = [AnonVma() for _ in rows]
    for family, row in zip(families, rows, strict=True):
        for name in _FAMILY:
            setattr(family, name, row[name])
        family.parent = families[row["parent"]]
    return families


def _read_run(row: Plain) -> Run:
    run = Run(
        row["core_run"],
        row["base_pfn"],
        row["nr"],
        row["owner_uid"],
        pieces_merge=row["pieces_merge"],
    )
    return run
