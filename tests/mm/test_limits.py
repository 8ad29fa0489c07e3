"""Every limit at its boundary: what is just allowed, and what is one more."""

from dataclasses import replace

import pytest

from contigmm import abi
from contigmm.errors import MemoryFault, Reason, SyscallError
from contigmm.hosts import describe
from contigmm.mm.files import Ext4File, Inode, Pipe
from contigmm.mm.flags import VM_LOCKED, VM_READ, VM_WRITE
from contigmm.mm.limits import Overcommit, may_expand_vm, mlock_future_ok
from contigmm.sim.machine import Machine
from contigmm.syscalls.brk import brk
from contigmm.syscalls.madvise import madvise
from contigmm.syscalls.mincore import mincore
from contigmm.syscalls.mlock import mlock
from contigmm.syscalls.mlockall import mlockall
from contigmm.syscalls.mmap import mmap
from contigmm.syscalls.mprotect import mprotect
from contigmm.syscalls.mremap import mremap
from contigmm.syscalls.mseal import mseal
from contigmm.syscalls.munmap import munmap
from contigmm.syscalls.touch import touch_write

B, P = 0x1000_0000, 4096
RW, FIXED, GROWSDOWN = 3, 0x32, 0x132
DATA = VM_READ | VM_WRITE


def refusal(call, *args) -> tuple[int, Reason]:
    with pytest.raises(SyscallError) as caught:
        call(*args)
    return caught.value.errno, caught.value.reason


@pytest.mark.parametrize(("number", "flags"), [(abi.RLIMIT_AS, VM_READ), (abi.RLIMIT_DATA, DATA)])
@pytest.mark.parametrize("bytes_more", [0, P - 1])
def test_a_limit_of_size_counts_whole_pages(make_task, number, flags, bytes_more):
    task = make_task(limits={number: 8 * P + bytes_more})
    mm = task.mm
    assert may_expand_vm(mm, flags, 8)
    assert not may_expand_vm(mm, flags, 9)
    mmap(task, B, 5 * P, RW, FIXED)
    assert may_expand_vm(mm, flags, 3)
    assert not may_expand_vm(mm, flags, 4)


def test_a_data_limit_of_zero_that_could_be_raised_does_not_count(make_task):
    task = make_task()
    task.rlimits[abi.RLIMIT_DATA] = (0, 8 * P)
    assert may_expand_vm(task.mm, DATA, 8)
    assert not may_expand_vm(task.mm, DATA, 9)
    assert may_expand_vm(task.mm, VM_READ, 9)
    task.rlimits[abi.RLIMIT_DATA] = (P, 8 * P)
    assert not may_expand_vm(task.mm, DATA, 2), "the workaround is for 0 only"


def test_the_lock_limit_counts_what_would_be_locked_and_knows_the_privileged(make_task):
    task = make_task(limits={abi.RLIMIT_MEMLOCK: 4 * P + 1})
    assert mlock_future_ok(task, task.mm, VM_LOCKED, 4 * P)
    assert not mlock_future_ok(task, task.mm, VM_LOCKED, 5 * P)
    assert mlock_future_ok(task, task.mm, 0, 5 * P)
    root = make_task(limits={abi.RLIMIT_MEMLOCK: 0}, caps=frozenset({"CAP_IPC_LOCK"}))
    assert mlock_future_ok(root, root.mm, VM_LOCKED, 5 * P)


def test_all_memory_may_be_locked_up_to_the_limit_and_future_memory_always(make_task):
    task = make_task(limits={abi.RLIMIT_MEMLOCK: 4 * P})
    mmap(task, B, 4 * P, RW, FIXED)
    assert mlockall(task, abi.MCL_CURRENT) == 0
    mmap(task, B + 4 * P, P, RW, FIXED)
    assert refusal(mlockall, task, abi.MCL_CURRENT) == (abi.ENOMEM, Reason.MEMLOCK_LIMIT)
    assert mlockall(task, abi.MCL_FUTURE) == 0


@pytest.mark.parametrize(
    ("mode", "allowed"),
    [
        pytest.param(abi.OVERCOMMIT_GUESS, 1100, id="guess: all memory and swap, each time anew"),
        pytest.param(abi.OVERCOMMIT_ALWAYS, 1 << 40, id="always"),
    ],
)
def test_a_promise_of_the_lenient_modes(task, mode, allowed):
    promises = Overcommit(total_ram_pages=1000, total_swap_pages=100, mode=mode)
    for _ in range(2):
        assert promises.charge(task.mm, allowed, is_admin=False)
    if mode == abi.OVERCOMMIT_GUESS:
        assert not promises.charge(task.mm, allowed + 1, is_admin=False)
    assert promises.committed == 2 * allowed, "a refused promise is not kept"


def test_a_promise_of_the_strict_mode(task):
    def allowed(*, is_admin: bool, **settings: int) -> int:
        """The largest promise, by trying."""
        low, high = 0, 1 << 20
        while low < high:
            asked = (low + high + 1) // 2
            promises = Overcommit(100_000, 10_000, mode=abi.OVERCOMMIT_NEVER, **settings)
            if promises.charge(task.mm, asked, is_admin=is_admin):
                low = asked
            else:
                high = asked - 1
        return low

    assert allowed(is_admin=True) == 60_000 - 1, "half of memory, and swap; less, not as much"
    assert allowed(is_admin=False) == 60_000 - 2048 - 1
    assert allowed(is_admin=True, ratio=80) == 90_000 - 1
    assert allowed(is_admin=True, kbytes=160_000) == 50_000 - 1
    assert allowed(is_admin=True, hugetlb_pages=50_000) == 35_000 - 1
    mmap(task, B, 3200 * P, 0, FIXED)
    assert allowed(is_admin=True) == 60_000 - 100 - 1, "a 32nd of what the process has is kept"


def test_beyond_the_strict_limit_a_replacement_is_allowed_and_a_move_is_not(task):
    """__mmap_region() asks for the difference if there is one, vrm_calc_charge() for any."""
    mmap(task, B, 16 * P, RW, FIXED)
    promises = task.mm.config.overcommit
    promises.mode, promises.kbytes = abi.OVERCOMMIT_NEVER, 4
    assert refusal(mmap, task, 0, P, RW, 0x22) == (abi.ENOMEM, Reason.OVERCOMMIT)
    assert mmap(task, B, 16 * P, RW, FIXED) == B
    move = abi.MREMAP_MAYMOVE | abi.MREMAP_FIXED
    refused = refusal(mremap, task, B, 16 * P, 16 * P, move, 2 * B)
    assert refused == (abi.ENOMEM, Reason.OVERCOMMIT)
    assert promises.committed == 16


def test_the_strict_mode_promises_memory_without_reserve_too(task):
    promises = task.mm.config.overcommit
    for mode, promised in ((abi.OVERCOMMIT_GUESS, 0), (abi.OVERCOMMIT_NEVER, 4)):
        promises.mode = mode
        mmap(task, 0, 4 * P, RW, 0x22 | abi.MAP_NORESERVE)
        assert promises.committed == promised
    assert mmap(task, 0, 2 << 20, RW, abi.MAP_HUGETLB | 0x22 | abi.MAP_NORESERVE)
    task.files[5] = Ext4File("/file", Inode(task.mm.memory.file_create(shmem=False), 4 * P))
    mmap(task, 0, 4 * P, RW, abi.MAP_PRIVATE | abi.MAP_NORESERVE, 5)
    assert promises.committed == 8, "private pages of a file are memory too"


def test_a_move_without_memory_for_page_tables_leaves_everything_where_it_was(task):
    class NoTables:
        """Physical memory that moves half of what it is asked to, once."""

        def __init__(self, memory):
            self.memory, self.calls = memory, 0

        def __getattr__(self, name):
            return getattr(self.memory, name)

        def move(self, *, nr, **where):
            self.calls += 1
            done = nr if self.calls == 2 else nr // 2
            assert self.memory.move(nr=done, **where) == (done, "")
            return done, "" if self.calls == 2 else "no_block"

    mmap(task, B, 4 * P, RW, FIXED)
    touch_write(task, B, 4, P, 7)
    mm = task.mm
    mm.memory = NoTables(mm.memory)
    move = abi.MREMAP_MAYMOVE | abi.MREMAP_FIXED
    refused = refusal(mremap, task, B, 4 * P, 4 * P, move, 2 * B)
    assert refused[0] == abi.ENOMEM
    assert [(vma.vm_start, vma.vm_end) for vma in mm.all_vmas()] == [(B, B + 4 * P)]
    assert mm.total_vm == 4
    assert [word >> 63 for word in mm.memory.pagemap(mm=mm.id, vpn=B >> 12, nr=4)] == [1] * 4


@pytest.mark.parametrize(
    ("owner", "caps", "told"),
    [
        (0, (), 1),
        (7, (), 1),
        (8, (), 0),
        (8, ("CAP_IPC_LOCK",), 0),
        (8, ("CAP_DAC_OVERRIDE",), 1),
        (8, ("CAP_FOWNER",), 1),
    ],
)
def test_the_cached_pages_of_a_file_are_shown_to_those_who_might_write_it(
    make_task, owner, caps, told
):
    """can_do_mincore(): nobody has read it, and who may not know is told that all is there."""
    task = make_task(uid=7, caps=frozenset(caps))
    core_id = task.mm.memory.file_create(shmem=False, size=2 * P)
    task.files[5] = Ext4File("/file", Inode(core_id, 2 * P, owner_uid=owner or None))
    mmap(task, B, 2 * P, abi.PROT_READ, abi.MAP_PRIVATE | abi.MAP_FIXED, 5)
    assert list(mincore(task, B, 2 * P)) == [1 - told] * 2


def test_the_limit_that_a_mapping_exceeds_is_named(make_task):
    task = make_task(limits={abi.RLIMIT_AS: 8 * P, abi.RLIMIT_DATA: 4 * P})
    assert refusal(mmap, task, B, 8 * P, RW, FIXED) == (abi.ENOMEM, Reason.DATA_LIMIT)
    assert refusal(mmap, task, B, 9 * P, RW, FIXED) == (abi.ENOMEM, Reason.ADDRESS_SPACE_LIMIT)


def test_huge_pages_are_reserved_up_to_what_the_pool_has(task):
    huge = abi.MAP_HUGETLB | 0x22
    task.mm.config.hugetlb_free = 2
    assert mmap(task, 0, 4 << 20, RW, huge)
    refused = refusal(mmap, task, 0, 6 << 20, RW, huge)
    assert refused == (abi.ENOMEM, Reason.HUGE_PAGE_POOL_EMPTY)
    assert mmap(task, 0, 6 << 20, RW, huge | abi.MAP_NORESERVE)


def test_a_driver_that_refuses_is_asked_before_synchronous_mappings_are(task):
    class Driver(Ext4File):
        __slots__ = ()
        mmap_errno = abi.ENODEV

    task.files[7] = Driver("/dev/broken", Inode(0, 4 * P))
    promises = task.mm.config.overcommit
    for flags in (abi.MAP_PRIVATE, abi.MAP_SHARED_VALIDATE | abi.MAP_SYNC):
        refused = refusal(mmap, task, B, 4 * P, RW, flags | abi.MAP_FIXED, 7)
        assert refused == (abi.ENODEV, Reason.FILE_NOT_MAPPABLE)
        assert promises.committed == 0


def fill(task, vmas: int) -> None:
    """Map until there are so many VMAs; no two merge."""
    for at in range(vmas):
        mmap(task, B + at * P, P, RW if at % 2 else abi.PROT_READ, FIXED)
    assert task.mm.map_count == vmas


MOVE = abi.MREMAP_MAYMOVE | abi.MREMAP_FIXED
FAR = 0x2000_0000


@pytest.mark.parametrize(
    ("below", "call"),
    [
        pytest.param(-1, lambda task: mmap(task, FAR, P, RW, FIXED), id="mmap: one too many is ok"),
        pytest.param(0, lambda task: mprotect(task, B, P, 1), id="split by mprotect"),
        pytest.param(0, lambda task: mlock(task, B, P), id="split by mlock"),
        pytest.param(0, lambda task: munmap(task, B + P, P), id="a hole by munmap"),
        pytest.param(0, lambda task: madvise(task, B, P, 10), id="split by madvise"),
        pytest.param(0, lambda task: mseal(task, B, P, 0), id="split by mseal"),
        pytest.param(3, lambda task: mremap(task, B, P, 2 * P, 1), id="mremap may move"),
        pytest.param(5, lambda task: mremap(task, B, P, P, MOVE, FAR), id="mremap moves"),
    ],
)
def test_there_may_be_so_many_vmas(make_task, below, call):
    for room in (1, 0):
        task = make_task(caps=frozenset({"CAP_IPC_LOCK"}))
        mmap(task, B, 4 * P, RW, FIXED)
        mmap(task, B + 4 * P, 4 * P, abi.PROT_READ, FIXED)
        task.mm.config.max_map_count = task.mm.map_count + below + room
        if room:
            call(task)
            continue
        errno, reason = refusal(call, task)
        assert reason is Reason.TOO_MANY_MAPPINGS
        assert errno == (abi.EAGAIN if "madvise" in call.__code__.co_names else abi.ENOMEM)


def test_the_ends_of_a_mapping_may_go_when_there_may_be_no_more_vmas(task):
    mmap(task, B, 8 * P, RW, FIXED)
    task.mm.config.max_map_count = 1
    munmap(task, B, P)
    munmap(task, B + 7 * P, P)
    assert refusal(munmap, task, B + 2 * P, P)[0] == abi.ENOMEM
    munmap(task, B + 2 * P, 5 * P)


def test_the_number_of_vmas_is_asked_before_the_seal(task):
    mmap(task, B, 8 * P, RW, FIXED)
    mseal(task, B, 8 * P, 0)
    task.mm.config.max_map_count = 1
    assert refusal(munmap, task, B + P, P) == (abi.ENOMEM, Reason.TOO_MANY_MAPPINGS)
    assert refusal(munmap, task, B, P) == (abi.EPERM, Reason.SEALED)


def test_a_heap_stays_where_there_may_be_no_more_vmas(task):
    task.mm.start_brk = task.mm.brk = FAR
    fill(task, 3)
    task.mm.config.max_map_count = 2
    assert brk(task, FAR + P) == FAR
    task.mm.config.max_map_count = 3
    assert brk(task, FAR + P) == FAR + P


@pytest.mark.parametrize("pages", [16, 17])
def test_a_stack_grows_to_its_limit(make_task, pages):
    task = make_task(limits={abi.RLIMIT_STACK: 16 * P})
    mmap(task, B, P, RW, GROWSDOWN)
    low = B + P - pages * P
    if pages == 16:
        touch_write(task, low, 1, P, 1)
        return
    with pytest.raises(MemoryFault):
        touch_write(task, low, 1, P, 1)


def test_a_machine_obeys_the_settings_it_was_booted_with():
    told = {"max_map_count": 2, "overcommit_memory": 2, "overcommit_kbytes": 1 << 16}
    small = describe("spec:small")
    machine = Machine.boot(replace(small, settings={**small.settings, **told}), profile="linux")
    for one in (machine, Machine.restore(machine.snapshot())):
        process = one.spawn("one")
        assert refusal(process.mmap, 0, 1 << 27, RW, 0x22) == (abi.ENOMEM, Reason.OVERCOMMIT)
        for at in range(3):  # one more than there may be, as in Linux
            process.mmap(B + 2 * at * P, P, RW, FIXED)
        full = (abi.ENOMEM, Reason.TOO_MANY_MAPPINGS)
        assert refusal(process.mmap, B - 2 * P, P, RW, FIXED) == full


@pytest.mark.parametrize(("name", "value"), [("overcommit_memory", 3), ("max_map_count", "-1")])
def test_a_setting_that_cannot_be_is_refused_by_name(name, value):
    small = describe("spec:small")
    with pytest.raises(ValueError, match=f"vm.{name} cannot be"):
        Machine.boot(replace(small, settings={name: value}), profile="linux")


@pytest.mark.parametrize(
    ("fd", "prot", "flags", "errno"),
    [
        pytest.param(9, RW, abi.MAP_PRIVATE | abi.MAP_HUGETLB, abi.EBADF, id="no such file first"),
        pytest.param(5, 1, abi.MAP_PRIVATE | abi.MAP_HUGETLB, abi.EINVAL, id="no hugetlbfs"),
        pytest.param(3, 1, abi.MAP_PRIVATE, abi.EACCES, id="not open for reading, before no mmap"),
        pytest.param(4, 1, abi.MAP_PRIVATE, abi.ENODEV, id="no mmap"),
        pytest.param(4, 1, abi.MAP_PRIVATE | GROWSDOWN, abi.ENODEV, id="no mmap, before growsdown"),
        pytest.param(5, 1, abi.MAP_PRIVATE | GROWSDOWN, abi.EINVAL, id="a file that grows down"),
        pytest.param(6, RW, abi.MAP_SHARED, abi.EACCES, id="not open for writing"),
        pytest.param(
            6, RW, abi.MAP_SHARED_VALIDATE | 1 << 25, abi.EOPNOTSUPP, id="a flag, before writing"
        ),
    ],
)
def test_a_file_is_asked_in_the_kernels_order(task, fd, prot, flags, errno):
    core_id = task.mm.memory.file_create(shmem=False, size=P)
    task.files[3] = Pipe(readable=False)
    task.files[4] = Pipe(readable=True)
    task.files[5] = Ext4File("/file", Inode(core_id, P))
    task.files[6] = Ext4File("/file", Inode(core_id, P), writable=False)
    assert refusal(mmap, task, B, P, prot, flags & ~0x30, fd)[0] == errno


def test_mprotect_asks_in_the_kernels_order(task):
    mmap(task, B, 2 * P, RW, FIXED)
    unknown, grows_up = 16, 0x2000000 | RW
    assert refusal(mprotect, task, B, abi.U64_MAX - P, unknown)[0] == abi.ENOMEM
    assert refusal(mprotect, task, B - P, 2 * P, grows_up)[0] == abi.ENOMEM
    assert refusal(mprotect, task, B, P, grows_up)[0] == abi.EINVAL
