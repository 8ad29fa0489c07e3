"""Tasks that share an address space, new programs in old processes, and pages that change nodes."""

import pytest

from contigmm import abi
from contigmm.errors import MemoryFault, SyscallError
from contigmm.hosts import describe
from contigmm.sim.machine import Machine

RW = abi.PROT_READ | abi.PROT_WRITE
PRIVATE = abi.MAP_PRIVATE | abi.MAP_ANONYMOUS
SHARED = abi.MAP_SHARED | abi.MAP_ANONYMOUS
PAGE = 4096
THREAD = abi.CLONE_VM | abi.CLONE_SIGHAND | abi.CLONE_THREAD | abi.CLONE_FILES


@pytest.fixture
def machine():
    machine = Machine.boot(describe("spec:numa"), profile="linux", seed=3)
    yield machine
    machine.check()


def free(machine):
    return sum(zone.free + sum(pcp.count for pcp in zone.pagesets) for zone in machine.zones())


def refusal(call, *args, **options):
    with pytest.raises(SyscallError) as caught:
        call(*args, **options)
    return caught.value.errno, str(caught.value.reason)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(abi.CLONE_NEWNS | abi.CLONE_FS, id="NEWNS and FS"),
        pytest.param(abi.CLONE_NEWUSER | abi.CLONE_FS, id="NEWUSER and FS"),
        pytest.param(abi.CLONE_THREAD, id="THREAD without SIGHAND"),
        pytest.param(abi.CLONE_SIGHAND, id="SIGHAND without VM"),
        pytest.param(THREAD | abi.CLONE_NEWPID, id="THREAD in a new namespace"),
    ],
)
def test_clone_refuses_flags_that_contradict(machine, flags):
    assert refusal(machine.spawn("one").clone, flags) == (abi.EINVAL, "flags_conflict")


def test_a_thread_sees_every_change_of_the_address_space(machine):
    leader = machine.spawn("one")
    thread = leader.clone(THREAD)
    addr = thread.mmap(0, 2 * PAGE, RW, PRIVATE)
    leader.write(addr, b"hello")
    assert thread.read(addr, 5) == b"hello"
    assert leader.maps() == thread.maps()
    fd = thread.memfd_create("a")
    assert leader.pwrite(fd, b"x", 0) == 1, "CLONE_FILES"
    leader.setrlimit(abi.RLIMIT_MEMLOCK, soft=0, hard=0)
    assert refusal(thread.mlock, addr, PAGE) == (abi.EPERM, "may_not_lock")


def test_without_clone_thread_limits_and_files_are_copies(machine):
    parent = machine.spawn("one")
    fd = parent.memfd_create("a")
    child = parent.clone(abi.CLONE_VM)
    parent.setrlimit(abi.RLIMIT_MEMLOCK, soft=0, hard=0)
    addr = parent.mmap(0, PAGE, RW, PRIVATE)
    child.mlock(addr, PAGE)
    child.close(fd)
    assert parent.pread(fd, 1, 0) == b""
    parent.exit()
    child.write(addr, b"still there")


def test_the_last_user_of_an_address_space_drops_it(machine):
    before = free(machine)
    leader = machine.spawn("one")
    other = leader.clone(abi.CLONE_VM)
    thread = leader.clone(THREAD)
    leader.touch(leader.mmap(0, 64 * PAGE, RW, PRIVATE), 64 * PAGE)
    leader.exit()
    assert not machine.is_alive(thread.id), "exit_group ends all threads"
    assert other.status()["VmRSS"] == 256
    other.exit()
    assert free(machine) == before


def test_execve_begins_anew_and_ends_the_other_threads(machine):
    before = free(machine)
    leader = machine.spawn("one")
    thread = leader.clone(THREAD)
    leader.mlockall(abi.MCL_FUTURE)
    leader.prctl(abi.PR_SET_MDWE, abi.PR_MDWE_REFUSE_EXEC_GAIN)
    leader.personality(abi.READ_IMPLIES_EXEC | abi.ADDR_COMPAT_LAYOUT)
    addr = leader.mmap(0, 64 * PAGE, abi.PROT_READ, PRIVATE)
    thread.execve("two")
    assert (machine.is_alive(leader.id), machine.is_alive(thread.id)) == (False, True)
    assert machine.process(thread.id).pid == leader.pid, "the leader's pid is taken over"
    assert thread.maps() == ""
    with pytest.raises(MemoryFault):
        thread.touch(addr, 1)
    assert thread.mmap(0, PAGE, RW, PRIVATE) > abi.TASK_SIZE // 2, "READ_IMPLIES_EXEC is gone"
    assert thread.status()["VmLck"] == 0, "MCL_FUTURE is gone"
    assert thread.prctl(abi.PR_GET_MDWE) == abi.PR_MDWE_REFUSE_EXEC_GAIN, "mm_init() inherits it"
    thread.exit()
    assert free(machine) == before


def test_execve_leaves_an_address_space_to_its_other_users(machine):
    parent = machine.spawn("one")
    addr = parent.mmap(0, PAGE, RW, PRIVATE)
    child = parent.clone(abi.CLONE_VM | abi.CLONE_FILES)
    fd = parent.memfd_create("a", abi.MFD_CLOEXEC)
    child.execve("two")
    parent.write(addr, b"mine")
    assert parent.pread(fd, 1, 0) == b"", "the table was unshared before it was cleaned"
    assert refusal(child.pread, fd, 1, 0)[0] == abi.EBADF


def test_what_tasks_share_outlives_a_snapshot(machine):
    leader = machine.spawn("one")
    thread, other = leader.clone(THREAD), leader.clone(abi.CLONE_VM)
    addr = leader.mmap(0, 4 * PAGE, RW, PRIVATE)
    leader.touch(addr, 4 * PAGE)
    twin = Machine.restore(machine.snapshot())
    for one in (machine, twin):
        same = one.process(thread.id)
        same.munmap(addr, PAGE)
        same.setrlimit(abi.RLIMIT_MEMLOCK, soft=0, hard=0)
        assert refusal(one.process(leader.id).mlock, addr + PAGE, PAGE)[0] == abi.EPERM
        one.process(other.id).mlock(addr + PAGE, PAGE)
        fd = same.memfd_create("a")
        assert one.process(leader.id).pread(fd, 1, 0) == b""
        one.process(leader.id).exit()
        one.process(other.id).exit()
    assert twin.digest() == machine.digest()
    twin.check()


def test_move_pages_tells_and_changes_the_node_of_a_page(machine):
    process = machine.spawn("one")
    addr = process.mmap(0, 4 * PAGE, RW, PRIVATE)
    process.write(addr, b"first")
    process.touch(addr + PAGE, 1, write=False)  # the zero page
    pages = [addr, addr + PAGE, addr + 2 * PAGE, PAGE]
    gone = [-abi.EFAULT, -abi.ENOENT, -abi.EFAULT]
    assert process.move_pages(pages) == (0, [0, *gone])
    before = int(process.pagemap(addr, PAGE)[0])
    assert process.move_pages(pages, [1] * 4) == (0, [1, *gone])
    assert int(process.pagemap(addr, PAGE)[0]) != before
    assert process.move_pages(pages) == (0, [1, *gone])
    assert process.read(addr, 5) == b"first"


def test_only_move_all_moves_what_others_map(machine):
    parent = machine.spawn("one", caps=frozenset({"CAP_SYS_NICE"}))
    addr = parent.mmap(0, PAGE, RW, PRIVATE)
    parent.write(addr, b"both")
    child = parent.fork()
    assert child.move_pages([addr], [1]) == (0, [-abi.EACCES])
    assert child.move_pages([addr], [1], flags=abi.MPOL_MF_MOVE_ALL) == (0, [1])
    assert (parent.move_pages([addr]), parent.read(addr, 4)) == ((0, [1]), b"both")


def test_move_pages_refuses(machine):
    process = machine.spawn("one", uid=1)
    stranger = machine.spawn("two", uid=2)
    move = process.move_pages
    assert refusal(move, [], flags=8, pid=999) == (abi.EINVAL, "unknown_flags"), "before the pid"
    needs_nice = abi.MPOL_MF_MOVE_ALL
    assert refusal(move, [], flags=needs_nice) == (abi.EPERM, "missing_capability")
    assert refusal(move, [], pid=999) == (abi.ESRCH, "no_such_process")
    assert refusal(move, [], pid=stranger.pid) == (abi.EPERM, "may_not_trace")
    tracer = machine.spawn("three", uid=3, caps=frozenset({"CAP_SYS_PTRACE"}))
    addr = stranger.mmap(0, PAGE, RW, PRIVATE | abi.MAP_POPULATE)
    assert tracer.move_pages([addr], pid=stranger.pid) == (0, [0])
    addr = process.mmap(0, 2 * PAGE, RW, PRIVATE | abi.MAP_POPULATE)
    for node in (-1, 5, 4096):
        both = [addr, addr + PAGE]
        assert refusal(move, both, [1, node]) == (abi.ENODEV, "no_such_node")
        assert move([addr]) == (0, [1]), "what came before has moved"
    with pytest.raises(ValueError, match="2 pages, but 1 nodes"):
        move([addr, addr], [1])


def test_calls_by_their_methods(machine):
    process = machine.spawn("one")
    addr = process.mmap(0, 8 * PAGE, RW, PRIVATE)
    process.touch(addr, PAGE)
    assert process.mincore(addr, 2 * PAGE) == b"\1\0"
    addr = process.mremap(addr, 8 * PAGE, 16 * PAGE, abi.MREMAP_MAYMOVE)
    process.madvise(addr, PAGE, abi.MADV_DONTNEED)
    process.msync(addr, PAGE, 4)
    process.mlock2(addr, PAGE, 1)
    process.munlockall()
    process.pkey_mprotect(addr, PAGE, abi.PROT_READ, -1)
    assert process.brk(0) == 0
    process.mbind(addr, PAGE, abi.MPOL_BIND, 0b10)
    process.set_mempolicy(abi.MPOL_PREFERRED, 0b1)
    assert process.get_mempolicy() == (abi.MPOL_PREFERRED, 1)
    assert process.get_mempolicy(addr, abi.MPOL_F_ADDR) == (abi.MPOL_BIND, 0b10)
    assert process.getrlimit(abi.RLIMIT_MEMLOCK) == (8 << 20, 8 << 20)
    process.mseal(addr, PAGE)
    assert refusal(process.munmap, addr, PAGE) == (abi.EPERM, "sealed")
    shared = process.mmap(0, 4 * PAGE, RW, SHARED)
    process.remap_file_pages(shared, PAGE, 0, 2, 0)


def test_marks_of_size_and_residency_stay(machine):
    process = machine.spawn("one")
    addr = process.mmap(0, 64 * PAGE, RW, PRIVATE)
    process.touch(addr, 32 * PAGE)
    process.munmap(addr, 48 * PAGE)
    status = process.status()
    assert (status["VmPeak"], status["VmSize"]) == (256, 64)
    assert (status["VmHWM"], status["VmRSS"]) == (128, 0)
    process.mremap(addr + 48 * PAGE, 16 * PAGE, 32 * PAGE, abi.MREMAP_MAYMOVE)
    assert process.status()["VmPeak"] == 256
    child = process.fork().status()
    assert (child["VmPeak"], child["VmHWM"]) == (128, 0)
    twin = Machine.restore(machine.snapshot()).process(process.id)
    assert twin.status() == process.status()


def test_entering_the_kernel_takes_time_on_the_callers_cpu(machine):
    process = machine.spawn("one", cpu=1)
    before = machine.clock_ns
    process.personality(0xFFFF_FFFF)
    assert machine.clock_ns - before == 100, "syscall_ns of CostModel, rust/core/src/clock.rs"
    machine.spawn("two")
    assert machine.clock_ns - before == 100, "nobody called the kernel"


def nodes_of(process, addr, pages):
    return process.move_pages([addr + PAGE * at for at in range(pages)])[1]


ONE, BOTH = 0b10, 0b11


@pytest.mark.parametrize(
    ("mode", "nodes", "places"),
    [
        pytest.param(abi.MPOL_DEFAULT, 0, [0, 0, 0, 0], id="default: the CPU's own"),
        pytest.param(abi.MPOL_LOCAL, 0, [0, 0, 0, 0], id="local"),
        pytest.param(abi.MPOL_BIND, ONE, [1, 1, 1, 1], id="bind"),
        pytest.param(abi.MPOL_BIND, BOTH, [0, 0, 0, 0], id="bind: the nearest first"),
        pytest.param(abi.MPOL_PREFERRED, ONE, [1, 1, 1, 1], id="preferred"),
        pytest.param(abi.MPOL_PREFERRED_MANY, ONE, [1, 1, 1, 1], id="preferred many"),
        pytest.param(abi.MPOL_INTERLEAVE, BOTH, [0, 1, 0, 1], id="interleave"),
        pytest.param(abi.MPOL_WEIGHTED_INTERLEAVE, BOTH, [0, 1, 0, 1], id="weights of 1"),
    ],
)
@pytest.mark.parametrize("way", ["touch", "write", "populate", "mlock", "task", "file"])
def test_pages_come_from_where_the_policy_has_them(machine, mode, nodes, places, way):
    process = machine.spawn("one")
    flags, fd = PRIVATE, -1
    if way == "file":
        fd = process.memfd_create("shared")
        process.ftruncate(fd, 4 * PAGE)
        flags = abi.MAP_SHARED
    start = 1 << 32  # interleaving goes by the page's index, which begins even
    addr = process.mmap(start, 4 * PAGE, RW, flags | abi.MAP_FIXED, fd)
    if way == "task":
        process.set_mempolicy(mode, nodes)
    else:
        process.mbind(addr, 4 * PAGE, mode, nodes)
    if way == "write":
        process.write(addr, b"x" * 4 * PAGE)
    elif way == "populate":
        process.madvise(addr, 4 * PAGE, abi.MADV_POPULATE_WRITE)
    elif way == "mlock":
        process.mlock(addr, 4 * PAGE)
    else:
        process.touch(addr, 4 * PAGE)
    assert nodes_of(process, addr, 4) == places
    other = machine.spawn("two")
    place = other.mmap(0, PAGE, RW, PRIVATE)
    other.touch(place, PAGE)
    assert nodes_of(other, place, 1) == [0], "the policy is nobody else's"


def test_mbind_moves_what_is_mapped_or_refuses(machine):
    process = machine.spawn("one")
    addr = process.mmap(0, 4 * PAGE, RW, PRIVATE)
    process.write(addr, b"first")
    process.touch(addr + PAGE, PAGE)
    strict = abi.MPOL_MF_STRICT
    bind = (addr, 4 * PAGE, abi.MPOL_BIND, ONE)
    assert refusal(process.mbind, *bind, strict) == (abi.EIO, "page_on_another_node")
    assert process.get_mempolicy(addr, abi.MPOL_F_ADDR) == (0, 0), "and nothing has changed"
    process.mbind(*bind)
    assert nodes_of(process, addr, 2) == [0, 0]
    child = process.fork()
    assert refusal(process.mbind, *bind, strict)[0] == abi.EIO
    process.mbind(*bind, abi.MPOL_MF_MOVE | strict)
    assert nodes_of(process, addr, 2) == [0, 0], "a shared page stays, which is no failure"
    everything = abi.MPOL_MF_MOVE_ALL
    assert refusal(process.mbind, *bind, everything) == (abi.EPERM, "missing_capability")
    child.exit()
    process.mbind(*bind, abi.MPOL_MF_MOVE | strict)
    assert nodes_of(process, addr, 4) == [1, 1, -abi.ENOENT, -abi.ENOENT]
    assert process.read(addr, 5) == b"first"
    root = machine.spawn("root", caps=frozenset({"CAP_SYS_NICE"}))
    addr = root.mmap(0, PAGE, RW, PRIVATE)
    root.touch(addr, PAGE)
    root.fork()
    root.mbind(addr, PAGE, abi.MPOL_BIND, ONE, everything | strict)
    assert nodes_of(root, addr, 1) == [1]


def test_get_mempolicy_tells_the_node_of_a_page(machine):
    process = machine.spawn("one")
    addr = process.mmap(0, 2 * PAGE, RW, PRIVATE)
    process.set_mempolicy(abi.MPOL_BIND, ONE)
    assert process.get_mempolicy(addr, abi.MPOL_F_ADDR) == (abi.MPOL_DEFAULT, 0), "the VMA's own"
    process.touch(addr, PAGE)
    where = abi.MPOL_F_ADDR | abi.MPOL_F_NODE
    assert process.get_mempolicy(addr + 5, where)[0] == 1
    assert process.get_mempolicy(addr + PAGE, where)[0] == 0, "the zero page"
    assert refusal(process.get_mempolicy, 0, abi.MPOL_F_NODE)[0] == abi.EINVAL
    process.set_mempolicy(abi.MPOL_INTERLEAVE, ONE)
    assert process.get_mempolicy(0, abi.MPOL_F_NODE)[0] == 1
    closed = process.mmap(0, PAGE, 0, PRIVATE)
    assert refusal(process.get_mempolicy, closed, where)[0] == abi.EFAULT
    assert refusal(process.get_mempolicy, PAGE, where)[0] == abi.EFAULT
