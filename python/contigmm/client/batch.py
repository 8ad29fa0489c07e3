"""Writing batches: calls in order, of any processes, that may use each other's results."""

from dataclasses import dataclass

from contigmm.sim.operation import Call, ExitCause, Operation


@dataclass(slots=True, frozen=True)
class Ref:
    """The result of an earlier operation of a batch, as an address."""

    index: int


Address = int | Ref


class Batch:
    """Operations in order; each method appends one and gives a reference to its result.

    A machine carries them out with ``execute(batch.operations)``, here and in the library.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def __len__(self) -> int:
        return len(self.operations)

    def _add(self, call: int, process: int, args: tuple[int, ...], data: bytes = b"") -> Ref:
        self.operations.append(Operation(call, process, args, data))
        return Ref(len(self.operations) - 1)

    def _add_at(
        self, call: int, process: int, address: Address, args: tuple[int, ...], data: bytes = b""
    ) -> Ref:
        if isinstance(address, Ref):
            ref = self._add(call, process, (0, *args), data)
            self.operations[ref.index].addr_from = address.index
            return ref
        return self._add(call, process, (address, *args), data)

    def mmap(
        self,
        process: int,
        addr: Address = 0,
        length: int = 0,
        prot: int = 0,
        flags: int = 0,
        fd: int = -1,
        offset: int = 0,
    ) -> Ref:
        """mmap(2); the result is the address."""
        return self._add_at(Call.MMAP, process, addr, (length, prot, flags, fd, offset))

    def munmap(self, process: int, addr: Address, length: int) -> Ref:
        """munmap(2)."""
        return self._add_at(Call.MUNMAP, process, addr, (length,))

    def mprotect(self, process: int, addr: Address, length: int, prot: int) -> Ref:
        """mprotect(2)."""
        return self._add_at(Call.MPROTECT, process, addr, (length, prot))

    def mlock(self, process: int, addr: Address, length: int) -> Ref:
        """mlock(2)."""
        return self._add_at(Call.MLOCK, process, addr, (length,))

    def munlock(self, process: int, addr: Address, length: int) -> Ref:
        """munlock(2)."""
        return self._add_at(Call.MUNLOCK, process, addr, (length,))

    def touch(self, process: int, addr: Address, length: int, *, write: bool = True) -> Ref:
        """An access to one byte of every page."""
        return self._add_at(Call.TOUCH, process, addr, (length, int(write)))

    def read(self, process: int, addr: Address, length: int) -> Ref:
        """A load."""
        return self._add_at(Call.READ, process, addr, (length,))

    def write(self, process: int, addr: Address, data: bytes) -> Ref:
        """A store."""
        return self._add_at(Call.WRITE, process, addr, (), data)

    def fork(self, process: int) -> Ref:
        """fork(2)."""
        return self._add(Call.FORK, process, ())

    def exit(self, process: int, status: int = 0) -> Ref:
        """exit_group(2)."""
        return self._add(Call.EXIT, process, (status, ExitCause.EXITED))
