"""Files of a machine: opened, sized, written, mapped, sealed, closed; each call by its method."""

import pytest

from contigmm import abi
from contigmm.errors import MemoryFault, SyscallError
from contigmm.hosts import describe
from contigmm.sim.machine import Machine

RW = abi.PROT_READ | abi.PROT_WRITE
PAGE = 4096


@pytest.fixture
def machine():
    machine = Machine.boot(describe("spec:small"), profile="linux", seed=3)
    yield machine
    machine.check()


@pytest.fixture
def process(machine):
    return machine.spawn("one")


def refusal(call, *args):
    with pytest.raises(SyscallError) as caught:
        call(*args)
    return caught.value.errno, str(caught.value.reason)


def test_a_memfd_lives_until_its_last_descriptor_and_mapping_are_gone(machine, process):
    before = machine.buddyinfo()
    fd = process.memfd_create("buffer")
    process.ftruncate(fd, 4 * PAGE)
    addr = process.mmap(0, 4 * PAGE, RW, abi.MAP_SHARED, fd)
    process.write(addr + PAGE, b"told")
    assert process.pread(fd, 4, PAGE) == b"told"
    assert process.pwrite(fd, b"back", PAGE) == 4
    child = process.fork()
    process.close(fd)
    process.munmap(addr, 4 * PAGE)
    assert child.read(addr + PAGE, 4) == b"back"
    child.munmap(addr, 4 * PAGE)
    assert child.pread(fd, 4, PAGE) == b"back", "a descriptor alone keeps it"
    child.exit()
    process.exit()
    free = sum(zone.free + sum(pcp.count for pcp in zone.pagesets) for zone in machine.zones())
    assert free == sum(nr << order for row in before.values() for order, nr in enumerate(row))


def test_a_file_of_the_directory_outlives_who_opened_it(machine, process):
    fd = process.open("/var/data", abi.O_CREAT | abi.O_RDWR)
    process.pwrite(fd, b"kept", 3 * PAGE)
    process.exit()
    other = machine.spawn("two")
    fd = other.open("/var/data")
    assert other.pread(fd, 8, 3 * PAGE) == b"kept"
    assert "/var/data" in other_maps(other, fd)
    assert refusal(other.pwrite, fd, b"x", 0) == (abi.EBADF, "file_not_writable")
    truncated = other.open("/var/data", abi.O_RDWR | abi.O_TRUNC)
    assert other.pread(truncated, 8, 0) == b""


def other_maps(process, fd):
    process.mmap(0, PAGE, abi.PROT_READ, abi.MAP_PRIVATE, fd)
    return process.maps()


def test_open_refuses(process):
    assert refusal(process.open, "/none") == (abi.ENOENT, "no_such_file")
    assert refusal(process.open, "") == (abi.ENOENT, "no_such_file")
    assert refusal(process.open, "/" + "a" * 256) == (abi.ENAMETOOLONG, "file_name_too_long")
    assert refusal(process.open, "a/" * 2048) == (abi.ENAMETOOLONG, "file_name_too_long")
    process.open("/one", abi.O_CREAT)
    again = abi.O_CREAT | abi.O_EXCL
    assert refusal(process.open, "/one", again) == (abi.EEXIST, "file_exists")
    write_only = process.open("/one", abi.O_WRONLY)
    assert refusal(process.pread, write_only, 1, 0) == (abi.EBADF, "file_not_readable")
    mapping = (0, PAGE, abi.PROT_READ, abi.MAP_SHARED, write_only)
    assert refusal(process.mmap, *mapping) == (abi.EACCES, "file_not_mappable")
    assert refusal(process.close, 99) == (abi.EBADF, "bad_file_descriptor")


@pytest.mark.parametrize(
    ("name", "flags", "errno", "reason"),
    [
        pytest.param("a", 0x20, abi.EINVAL, "unknown_flags", id="an unknown bit"),
        pytest.param("a", 0x4000_0000, abi.EINVAL, "unknown_flags", id="size without HUGETLB"),
        pytest.param("a", 0x18, abi.EINVAL, "flags_conflict", id="EXEC and NOEXEC_SEAL"),
        pytest.param("a" * 250, 0, abi.EINVAL, "file_name_too_long", id="250 bytes of name"),
        pytest.param("a", 4, abi.ENODEV, "huge_page_pool_empty", id="huge pages: no pool"),
    ],
)
def test_memfd_create_refuses(process, name, flags, errno, reason):
    assert refusal(process.memfd_create, name, flags) == (errno, reason)


def test_a_memfd_is_sealed_as_it_was_made(process):
    plain, sealable = process.memfd_create("a"), process.memfd_create("b", abi.MFD_ALLOW_SEALING)
    no_exec = process.memfd_create("a" * 249, abi.MFD_NOEXEC_SEAL)
    seals = [process.fcntl(fd, abi.F_GET_SEALS) for fd in (plain, sealable, no_exec)]
    assert seals == [abi.F_SEAL_SEAL, 0, abi.F_SEAL_EXEC]
    process.fcntl(sealable, abi.F_ADD_SEALS, abi.F_SEAL_GROW)
    assert refusal(process.ftruncate, sealable, PAGE) == (abi.EPERM, "file_sealed")
    assert refusal(process.fcntl, plain, abi.F_ADD_SEALS, abi.F_SEAL_GROW)[0] == abi.EPERM


def test_a_seal_on_the_execute_bits_of_an_executable_file_seals_its_contents(process):
    fd = process.memfd_create("a", abi.MFD_ALLOW_SEALING)
    process.ftruncate(fd, PAGE)
    addr = process.mmap(0, PAGE, RW, abi.MAP_SHARED, fd)
    add_exec = (fd, abi.F_ADD_SEALS, abi.F_SEAL_EXEC)
    assert refusal(process.fcntl, *add_exec) == (abi.EBUSY, "file_busy")
    process.munmap(addr, PAGE)
    process.fcntl(*add_exec)
    assert refusal(process.ftruncate, fd, 0) == (abi.EPERM, "file_sealed")
    plain = process.memfd_create("b", abi.MFD_NOEXEC_SEAL)
    process.fcntl(plain, abi.F_ADD_SEALS, abi.F_SEAL_EXEC)
    assert process.fcntl(plain, abi.F_GET_SEALS) == abi.F_SEAL_EXEC


def test_a_range_of_a_file_on_a_disk_is_zeroed_and_its_end_moves(process):
    fd = process.open("/var/data", abi.O_CREAT | abi.O_RDWR)
    process.pwrite(fd, b"x" * 2 * PAGE, 0)
    process.fallocate(fd, abi.FALLOC_FL_ZERO_RANGE | abi.FALLOC_FL_KEEP_SIZE, PAGE - 1, 3 * PAGE)
    assert process.pread(fd, 4 * PAGE, 0) == b"x" * (PAGE - 1) + bytes(PAGE + 1)
    process.fallocate(fd, abi.FALLOC_FL_ZERO_RANGE, 1, 3 * PAGE)
    assert process.pread(fd, 4 * PAGE, 0) == b"x" + bytes(3 * PAGE)


def test_a_hole_is_punched_and_room_is_made(process):
    fd = process.memfd_create("a")
    process.fallocate(fd, 0, 0, 2 * PAGE)
    process.pwrite(fd, b"x" * 2 * PAGE, 0)
    process.fallocate(fd, abi.FALLOC_FL_PUNCH_HOLE | abi.FALLOC_FL_KEEP_SIZE, 0, PAGE)
    assert process.pread(fd, 2 * PAGE, 0) == bytes(PAGE) + b"x" * PAGE
    addr = process.mmap(0, 3 * PAGE, RW, abi.MAP_SHARED, fd)
    with pytest.raises(MemoryFault) as fault:
        process.touch(addr, 3 * PAGE)
    assert (fault.value.signal, fault.value.done) == (abi.SIGBUS, 2)


def test_descriptors_are_the_lowest_free_and_as_many_as_the_limit_says(machine):
    process = machine.spawn("few", rlimits={"NOFILE": (2, 2)})
    assert [process.memfd_create("a"), process.memfd_create("b")] == [0, 1]
    for call, *args in ((process.memfd_create, "c"), (process.open, "/c", abi.O_CREAT)):
        assert refusal(call, *args) == (abi.EMFILE, "too_many_open_files")
    process.close(0)
    assert process.open("/c", abi.O_CREAT) == 0


def test_a_read_of_absurd_length_is_short(process):
    fd = process.memfd_create("a")
    process.ftruncate(fd, 1 << 40)
    assert len(process.pread(fd, 1 << 62, 0)) == 1 << 16
    assert process.pread(fd, 1, (1 << 63) - 1) == b""


def test_open_files_outlive_a_snapshot(machine, process):
    fd = process.open("/kept", abi.O_CREAT | abi.O_RDWR)
    process.pwrite(fd, b"abc", 0)
    nameless = process.memfd_create("a", abi.MFD_CLOEXEC)
    process.pwrite(nameless, b"def", 0)
    twin = Machine.restore(machine.snapshot())
    assert twin.digest() == machine.digest()
    for one in (machine, twin):
        same = one.process(process.id)
        assert same.pread(nameless, 3, 0) == b"def"
        same.execve("next")
        assert refusal(same.pread, nameless, 3, 0)[0] == abi.EBADF, "close on exec"
        assert same.pread(same.open("/kept"), 3, 0) == b"abc"
    assert twin.digest() == machine.digest()
    twin.check()


def test_reserved_pages_of_shared_memory_are_filled_by_faults_and_not_by_reads(process):
    fd = process.memfd_create("buffer")
    process.fallocate(fd, 0, 0, 2 * PAGE)
    addr = process.mmap(0, 2 * PAGE, RW, abi.MAP_PRIVATE, fd)
    assert process.pread(fd, 1, 0) == b"\0"
    assert process.mincore(addr, 2 * PAGE) == b"\0\0", "reserved, and not up to date"
    process.write(addr + PAGE, b"mine")
    process.munmap(addr + PAGE, PAGE)
    again = process.mmap(0, 2 * PAGE, RW, abi.MAP_PRIVATE, fd)
    assert process.mincore(again, 2 * PAGE) == b"\0\1", "the original of the copy was cleared"


@pytest.mark.parametrize(
    ("cached", "asked", "read"),
    [
        pytest.param([], 0, 4, id="from the start four pages are read"),
        pytest.param([], 5, 1, id="in the middle one"),
        pytest.param([3, 4], 5, 3, id="behind cached pages as many again as they are"),
        pytest.param([0], 1, 1, id="one page before is no stream"),
        pytest.param([0, 1], 2, 5, id="all pages before are cached: twice as many"),
        pytest.param([0, 1, 2], 11, 1, id="pages further off do not count"),
        pytest.param([10, 11, 12], 13, 3, id="never behind the end"),
    ],
)
def test_a_read_of_a_file_brings_in_what_the_pages_before_promise(process, cached, asked, read):
    fd = process.open("/var/data", abi.O_CREAT | abi.O_RDWR)
    process.ftruncate(fd, 16 * PAGE)
    for page in cached:
        process.pwrite(fd, b"x", page * PAGE)
    addr = process.mmap(0, 16 * PAGE, abi.PROT_READ, abi.MAP_SHARED, fd)
    process.pread(fd, 1, asked * PAGE)
    wanted = {*cached, *range(asked, asked + read)}
    resident = process.mincore(addr, 16 * PAGE)
    assert {page for page, here in enumerate(resident) if here} == wanted


def test_mincore_tells_of_files_to_those_only_who_may_write_them(machine, process):
    fd = process.open("/var/data", abi.O_CREAT | abi.O_RDWR)
    process.ftruncate(fd, 2 * PAGE)
    addr = process.mmap(0, 2 * PAGE, abi.PROT_READ, abi.MAP_SHARED, fd)
    assert process.mincore(addr, 2 * PAGE) == b"\0\0"
    for caps, answer in ((), b"\1\1"), (("CAP_FOWNER",), b"\0\0"), (("CAP_DAC_OVERRIDE",), b"\0\0"):
        other = machine.spawn("other", uid=1000, caps=frozenset(caps))
        fd = other.open("/var/data")
        addr = other.mmap(0, 2 * PAGE, abi.PROT_READ, abi.MAP_SHARED, fd)
        assert other.mincore(addr, 2 * PAGE) == answer
        fd = other.memfd_create("own")
        other.ftruncate(fd, PAGE)
        assert other.mincore(other.mmap(0, PAGE, RW, abi.MAP_SHARED, fd), PAGE) == b"\0"
