"""Runs programs of the oracle's format and writes what happened in the same format.

Every operation goes through the system calls that any user of the library calls; only the
recorder's own conventions (references to earlier results, children, masks) are here.
"""

from typing import TYPE_CHECKING, Any, TypeAlias

from contigmm.abi import (
    BUS_ADRERR,
    ENOSYS,
    SEGV_ACCERR,
    SEGV_MAPERR,
    SI_KERNEL,
    SIGBUS,
    SIGKILL,
    SIGSEGV,
    TASK_SIZE,
    U64_MAX,
)
from contigmm.errors import ERRNO_NAMES, MemoryFault, Reason, SyscallError
from contigmm.syscalls.brk import brk
from contigmm.syscalls.exit import exit as exit_task
from contigmm.syscalls.files import fallocate, fcntl, ftruncate, pread, pwrite
from contigmm.syscalls.fork import fork
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mincore import mincore
from contigmm.syscalls.mlock import mlock, mlock2
from contigmm.syscalls.mlockall import mlockall, munlockall
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect, pkey_mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.mseal import mseal
from contigmm.syscalls.msync import msync
from contigmm.syscalls.munlock import munlock
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.personality import personality
from contigmm.syscalls.pkeys import pkey_alloc, pkey_free
from contigmm.syscalls.prctl import prctl
from contigmm.syscalls.remap_file_pages import remap_file_pages
from contigmm.syscalls.rlimit import setrlimit
from contigmm.syscalls.touch import touch_read, touch_write
from contigmm.validate.oracle_image import FILE_FD0, make_task
from contigmm.validate.oracle_views import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contigmm.mm.ports import MemoryPort, VmaIndexPort
    from contigmm.mm.task import Task

    Operation: TypeAlias = dict[str, Any]
    Truth: TypeAlias = dict[str, Any] | None

_SIGNAL_NAMES = {SIGSEGV: "SIGSEGV", SIGBUS: "SIGBUS", SIGKILL: "SIGKILL"}
_CODE_NAMES = {
    (SIGSEGV, SEGV_MAPERR): "MAPERR",
    (SIGSEGV, SEGV_ACCERR): "ACCERR",
    (SIGSEGV, SI_KERNEL): "KERNEL",
    (SIGBUS, BUS_ADRERR): "ADRERR",
}
#: The recorder's spelling of errno 95.
_ERRNO_SPELLINGS = {**ERRNO_NAMES, 95: "ENOTSUP"}

_DEFAULTS = {"n": 1, "stride": 4096, "val": 1, "fd": -1}


def _prctl(task: "Task", *args: int) -> int:
    return prctl(task, args[0], args[1], (args[2], args[3], args[4]))


def _no_system_call(task: "Task", *args: int) -> int:
    del task, args
    raise SyscallError(ENOSYS, Reason.NOT_IMPLEMENTED_BY_KERNEL)


#: Operations that are one system call: the call and the names of its arguments.
_CALLS: "dict[str, tuple[Callable[..., int], tuple[str, ...]]]" = {
    "mmap": (mmap, ("addr", "len", "prot", "flags", "fd", "off")),
    "mprotect": (mprotect, ("addr", "len", "prot")),
    "munmap": (munmap, ("addr", "len")),
    "brk": (brk, ("addr",)),
    "mremap": (mremap, ("addr", "old_len", "new_len", "flags", "new_addr")),
    "msync": (msync, ("addr", "len", "flags")),
    "madvise": (madvise, ("addr", "len", "advice")),
    "mlock": (mlock, ("addr", "len")),
    "munlock": (munlock, ("addr", "len")),
    "mlockall": (mlockall, ("flags",)),
    "munlockall": (munlockall, ()),
    "remap_file_pages": (remap_file_pages, ("addr", "len", "prot", "pgoff", "flags")),
    "mlock2": (mlock2, ("addr", "len", "flags")),
    "pkey_mprotect": (pkey_mprotect, ("addr", "len", "prot", "pkey")),
    "pkey_alloc": (pkey_alloc, ("flags", "rights")),
    "pkey_free": (pkey_free, ("pkey",)),
    "map_shadow_stack": (_no_system_call, ("addr", "len", "flags")),
    "mseal": (mseal, ("addr", "len", "flags")),
    "prctl": (_prctl, ("option", "arg2", "arg3", "arg4", "arg5")),
    "personality": (personality, ("persona",)),
    "ftruncate": (ftruncate, ("fd", "len")),
    "fallocate": (fallocate, ("fd", "mode", "off", "len")),
    "fcntl": (fcntl, ("fd", "cmd", "arg")),
    "syscall": (_no_system_call, ("nr", "a0", "a1", "a2", "a3", "a4", "a5")),
}


class _Skipped(Exception):
    """The operation is not run."""


def flat(ops: "list[Operation]") -> "Iterator[Operation]":
    """Operations in preorder: the order of results and references."""
    for op in ops:
        yield op
        yield from flat(op.get("ops", []))


class Runner:
    """One program on one task; children run where their fork stands."""

    def __init__(
        self,
        program: "dict[str, Any]",
        memory: "MemoryPort",
        index: "Callable[[], VmaIndexPort]",
    ) -> None:
        self.index = index
        self.task = make_task(program, memory, index)
        self.truth: list[Truth] = [None] * sum(1 for _ in flat(program["ops"]))
        self.next_pid = 2

    def run(self, ops: "list[Operation]") -> "dict[str, Any]":
        """Run all operations; return ``truth`` and ``final``."""
        held: list[Task] = []
        self._run(self.task, ops, 0, {}, held)
        final = snapshot(self.task, ["smaps", "status"])
        return {"truth": self.truth, "final": final}

    def _run(
        self,
        task: "Task",
        ops: "list[Operation]",
        number: int,
        results: dict[int, int],
        held: "list[Task]",
    ) -> int:
        """Run ``ops`` from preorder ``number`` on; return the number after the last."""
        for op in ops:
            name = op["op"]
            if name == "fork":
                number = self._fork(task, op, number, results, held)
                continue
            if name == "reap":
                while held:
                    exit_task(held.pop())
                self.truth[number] = {"ret": 0}
            else:
                self.truth[number] = self._one(task, op, number, results)
            number += 1
        return number

    def _fork(
        self,
        task: "Task",
        op: "Operation",
        number: int,
        results: dict[int, int],
        held: "list[Task]",
    ) -> int:
        after = number + 1 + sum(1 for _ in flat(op["ops"]))
        try:
            child = fork(task, pid=self.next_pid, index=self.index())
        except SyscallError as refusal:
            self.truth[number] = {"err": _ERRNO_SPELLINGS[refusal.errno]}
            return after
        self.next_pid += 1
        grandchildren: list[Task] = []
        self._run(child, op["ops"], number + 1, dict(results), grandchildren)
        if op.get("hold"):
            held.extend(grandchildren)
            held.append(child)
        else:
            while grandchildren:
                exit_task(grandchildren.pop())
            exit_task(child)
        self.truth[number] = {"ret": 0}
        return after

    def _one(self, task: "Task", op: "Operation", number: int, results: dict[int, int]) -> "Truth":
        name = op["op"]
        if name == "snap":
            return {"snap": snapshot(task, op.get("what", ["maps"]))}
        try:
            if name in _CALLS:
                call, names = _CALLS[name]
                arguments = [_argument(op, arg, results) for arg in names]
                value = call(task, *arguments) & U64_MAX
                results[number] = value
                return {"ret": value}
            return _OWN[name](task, op, results)
        except _Skipped:
            return {"skip": True}
        except SyscallError as refusal:
            return {"err": _ERRNO_SPELLINGS[refusal.errno]}


def _argument(op: "Operation", name: str, results: dict[int, int]) -> int:
    value = op.get(name, _DEFAULTS.get(name, 0))
    if isinstance(value, dict):
        if "file" in value:
            return FILE_FD0 + int(value["file"])
        if value["ref"] not in results:
            raise _Skipped
        value = results[value["ref"]] + value.get("off", 0)
    return int(value) & U64_MAX


def _touch(task: "Task", op: "Operation", results: dict[int, int]) -> "Truth":
    addr, n, stride = (_argument(op, name, results) for name in ("addr", "n", "stride"))
    value = _argument(op, "val", results)
    try:
        if op["op"] == "touch_write":
            done = touch_write(task, addr, n, stride, value)
            return {"ret": done, "val": (value + n - 1) & 255 if n else 0}
        done, last = touch_read(task, addr, n, stride)
        return {"ret": done, "val": last}
    except MemoryFault as fault:
        code = _CODE_NAMES.get((fault.signal, fault.code), str(fault.code))
        return {"sig": _SIGNAL_NAMES[fault.signal], "code": code, "n": fault.done}


def _mincore(task: "Task", op: "Operation", results: dict[int, int]) -> "Truth":
    addr, length, vec = (_argument(op, name, results) for name in ("addr", "len", "vec"))
    answer = mincore(task, addr, length, vec or None)
    truth: Truth = {"ret": 0}
    digits = "".join("01"[page & 1] for page in answer[:2048])
    if digits and not vec:
        truth = {"ret": 0, "vec": digits}
    return truth


def _pagemap(task: "Task", op: "Operation", results: dict[int, int]) -> "Truth":
    addr, n = (_argument(op, name, results) for name in ("addr", "n"))
    vpn = addr >> 12
    nr = max(0, min(n, 1024, (TASK_SIZE >> 12) - vpn))
    words = task.mm.memory.pagemap(mm=task.mm.id, vpn=vpn, nr=nr) if nr else []
    digits = "".join(
        "0123456789abcdef"[
            (word >> 63 & 1) | (word >> 61 & 1) << 1 | (word >> 56 & 1) << 2 | (word >> 62 & 1) << 3
        ]
        for word in map(int, words)
    )
    return {"ret": 8 * nr, "bits": digits}


def _setrlimit(task: "Task", op: "Operation", results: dict[int, int]) -> "Truth":
    arguments = [_argument(op, name, results) for name in ("resource", "soft", "hard")]
    return {"ret": setrlimit(task, *arguments)}


def _file_write(task: "Task", op: "Operation", results: dict[int, int]) -> "Truth":
    slot, offset, value = (_argument(op, name, results) for name in ("slot", "off", "val"))
    return {"ret": pwrite(task, FILE_FD0 + slot, offset, bytes([value & 255]))}


def _file_read(task: "Task", op: "Operation", results: dict[int, int]) -> "Truth":
    slot, offset = (_argument(op, name, results) for name in ("slot", "off"))
    data = pread(task, FILE_FD0 + slot, offset, 1)
    return {"ret": data[0] if data else 256}


_OWN: "dict[str, Callable[[Task, Operation, dict[int, int]], Truth]]" = {
    "touch_read": _touch,
    "touch_write": _touch,
    "mincore": _mincore,
    "pagemap": _pagemap,
    "setrlimit": _setrlimit,
    "file_write": _file_write,
    "file_read": _file_read,
}


def run_program(
    program: "dict[str, Any]",
    memory: "MemoryPort",
    index: "Callable[[], VmaIndexPort]",
) -> "dict[str, Any]":
    """Run one program on fresh memory: its ``id``, ``truth`` and ``final``."""
    return {"id": program["id"], **Runner(program, memory, index).run(program["ops"])}
