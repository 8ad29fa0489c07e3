"""Which policy places the pages of a fault: get_vma_policy(), mm/mempolicy.c, v6.18."""

from typing import TYPE_CHECKING, Final

from contigmm.abi import (
    MPOL_BIND,
    MPOL_INTERLEAVE,
    MPOL_PREFERRED,
    MPOL_PREFERRED_MANY,
    MPOL_WEIGHTED_INTERLEAVE,
)

if TYPE_CHECKING:
    from contigmm.mm.ports import MemoryPort
    from contigmm.mm.task import Task
    from contigmm.mm.vma import Mempolicy, VmArea

#: Modes that physical memory must know of; all weights are 1, as the kernel sets them first.
_KINDS: Final = {
    MPOL_PREFERRED: "preferred",
    MPOL_BIND: "bind",
    MPOL_INTERLEAVE: "interleave",
    MPOL_PREFERRED_MANY: "preferred_many",
    MPOL_WEIGHTED_INTERLEAVE: "interleave",
}
_MODE: Final = 0xFF  # the flags of a mode lie above


def placing(task: "Task", vma: "VmArea") -> "MemoryPort":
    """Return physical memory, told where its next call is to take the pages of ``vma`` from.

    The policy of the VMA goes before that of the task; the CPU's node first is nobody's policy.
    """
    memory = task.mm.memory
    policy = vma.policy or task.mempolicy
    if policy is not None:
        place(memory, policy)
    return memory


def place(memory: "MemoryPort", policy: "Mempolicy") -> None:
    """Tell physical memory the policy of its next call."""
    kind = _KINDS.get(policy[0] & _MODE)
    if kind is not None:
        memory.place(kind, nodes=policy[1])
