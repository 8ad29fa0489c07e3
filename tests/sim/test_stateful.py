"""A machine against dictionaries of bytes: what every process reads is what the model holds.

The model knows neither frames nor page tables. A private page belongs to one process and is
copied at fork; a shared one is one list that all relatives refer to.
"""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from contigmm import abi
from contigmm.errors import MemoryFault, SyscallError
from contigmm.hosts import describe
from contigmm.sim.machine import Machine, NoSuchProcessError

RW = abi.PROT_READ | abi.PROT_WRITE
PAGE = 4096
PFN = (1 << 55) - 1
PRIVATE, SHARED, CONTIG = "private", "shared", "contig"
FLAGS = {
    PRIVATE: abi.MAP_PRIVATE | abi.MAP_ANONYMOUS,
    SHARED: abi.MAP_SHARED | abi.MAP_ANONYMOUS,
    CONTIG: abi.MAP_PRIVATE | abi.MAP_ANONYMOUS | abi.MAP_CONTIG,
}


class Page:
    """One page of the model: its bytes, and of which kind the mapping is."""

    def __init__(self, kind):
        self.kind = kind
        self.data = bytearray(PAGE)

    def forked(self):
        if self.kind == SHARED:
            return self
        page = Page(self.kind)
        page.data[:] = self.data
        return page


class MachineModel(RuleBasedStateMachine):
    processes = Bundle("processes")
    addresses = Bundle("addresses")

    def __init__(self):
        super().__init__()
        self.pages = {}  # process id -> page address -> Page

    @initialize(seed=st.integers(0, 3))
    def boot(self, seed):
        self.machine = Machine.boot(describe("spec:small"), seed=seed)
        self.seq = 0

    def live(self, process):
        return process in self.pages

    @rule(target=processes)
    def spawn(self):
        process = self.machine.spawn("one", rlimits={"MEMLOCK": (1 << 30, 1 << 30)}).id
        self.seq += 1
        self.pages[process] = {}
        return process

    @rule(
        target=addresses,
        process=processes,
        nr=st.integers(1, 20),
        kind=st.sampled_from(list(FLAGS)),
    )
    def mmap(self, process, nr, kind):
        if not self.live(process):
            return multiple()
        addr = self.machine.process(process).mmap(0, nr * PAGE, RW, FLAGS[kind])
        self.seq += 1
        new = range(addr, addr + nr * PAGE, PAGE)
        assert not self.pages[process].keys() & set(new), "mapped over something"
        self.pages[process].update({at: Page(kind) for at in new})
        return addr

    @rule(process=processes, addr=addresses, page=st.integers(0, 25), nr=st.integers(1, 10))
    def munmap(self, process, addr, page, nr):
        if not self.live(process):
            return
        start = addr + page * PAGE
        self.machine.process(process).munmap(start, nr * PAGE)
        self.seq += 1
        for at in range(start, start + nr * PAGE, PAGE):
            self.pages[process].pop(at, None)

    @rule(
        process=processes,
        addr=addresses,
        offset=st.integers(0, 21 * PAGE),
        data=st.binary(min_size=1, max_size=40),
    )
    def write(self, process, addr, offset, data):
        if not self.live(process):
            return
        pages, at = self.pages[process], addr + offset
        places = [(a // PAGE * PAGE, a % PAGE) for a in range(at, at + len(data))]
        mapped = next((i for i, (page, _) in enumerate(places) if page not in pages), len(places))
        handle = self.machine.process(process)
        self.seq += 1
        if mapped == len(places):
            assert handle.write(at, data) == len(data)
        else:
            with pytest.raises(MemoryFault) as fault:
                handle.write(at, data)
            assert fault.value.done == mapped
        for (page, place), byte in zip(places[:mapped], data, strict=False):
            pages[page].data[place] = byte

    @rule(process=processes, addr=addresses, page=st.integers(0, 20))
    def read(self, process, addr, page):
        if not self.live(process):
            return
        at = addr + page * PAGE
        self.seq += 1
        found = self.pages[process].get(at)
        if found is None:
            with pytest.raises(MemoryFault):
                self.machine.process(process).read(at, PAGE)
        else:
            assert self.machine.process(process).read(at, PAGE) == bytes(found.data)

    @precondition(lambda self: any(self.pages.values()))
    @rule(data=st.data(), byte=st.integers(1, 255))
    def write_where_something_is_mapped(self, data, byte):
        process = data.draw(st.sampled_from([p for p, pages in self.pages.items() if pages]))
        at = data.draw(st.sampled_from(sorted(self.pages[process])))
        self.machine.process(process).write(at + 7, bytes([byte]))
        self.seq += 1
        self.pages[process][at].data[7] = byte

    @rule()
    def read_everything(self):
        for process, pages in self.pages.items():
            handle = self.machine.process(process)
            for at, page in pages.items():
                assert handle.read(at, PAGE) == bytes(page.data), f"page {at:#x} of {process}"
                self.seq += 1

    @rule(target=processes, process=processes)
    def fork(self, process):
        if not self.live(process):
            return multiple()
        child = self.machine.process(process).fork().id
        self.seq += 1
        kept = {at: page for at, page in self.pages[process].items() if page.kind != CONTIG}
        self.pages[child] = {at: page.forked() for at, page in kept.items()}
        mapped = self.mapped(child)
        assert mapped == set(self.pages[child]), "what a fork copies"
        return child

    @rule(process=consumes(processes))
    def exit(self, process):
        if not self.live(process):
            return
        self.machine.process(process).exit()
        self.seq += 1
        del self.pages[process]
        with pytest.raises(NoSuchProcessError):
            self.machine.process(process)

    @rule()
    def save_and_restore(self):
        digest = self.machine.digest()
        self.machine = Machine.restore(self.machine.snapshot())
        assert self.machine.digest() == digest

    @precondition(lambda self: self.pages)
    @rule(process=processes)
    def too_much_is_refused_and_changes_nothing(self, process):
        if not self.live(process):
            return
        before = self.machine.buddyinfo()
        with pytest.raises(SyscallError):
            self.machine.process(process).mmap(0, 1 << 30, RW, FLAGS[CONTIG])
        self.seq += 1
        assert self.machine.buddyinfo() == before

    def mapped(self, process):
        vmas = self.machine.entry(process).task.mm.all_vmas()
        return {at for vma in vmas for at in range(vma.vm_start, vma.vm_end, PAGE)}

    @invariant()
    def the_machine_is_sound_and_maps_what_the_model_maps(self):
        if not hasattr(self, "machine"):
            return
        self.machine.check()
        assert self.machine.seq == self.seq
        assert {process.id for process in self.machine.processes()} == set(self.pages)
        for process, pages in self.pages.items():
            assert self.mapped(process) == set(pages)

    @invariant()
    def a_contiguous_page_has_a_frame_of_its_own(self):
        frames = []
        for process, pages in self.pages.items():
            handle = self.machine.process(process)
            for at, page in pages.items():
                if page.kind == CONTIG:
                    frames.append(int(handle.pagemap(at, PAGE)[0]) & PFN)
        assert 0 not in frames
        assert len(np.unique(frames)) == len(frames)


TestMachineModel = MachineModel.TestCase
TestMachineModel.settings = settings(max_examples=30, stateful_step_count=40)
