"""Identity of anonymous memory: which VMAs may hold pages of which fault history.

A VMA gets an ``AnonVma`` at its first anonymous fault; a forked VMA keeps its ancestors' and adds
its own. Merging asks only for identity and for the length of the chain: mm/rmap.c, v6.12.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contigmm.mm.vma import VmArea


class AnonVma:
    """``struct anon_vma``: a family of anonymous pages, and its place among its ancestors."""

    __slots__ = ("nr_vmas", "num_active_vmas", "num_children", "parent")

    def __init__(self) -> None:
        self.parent: AnonVma = self
        self.num_children = 0  # anon_vmas whose parent this is; a root counts itself
        self.num_active_vmas = 0  # VMAs whose anon_vma this is
        self.nr_vmas = 0  # VMAs that have it in their chain: the interval tree's size


def anon_vma_attach(vma: "VmArea", anon_vma: AnonVma) -> None:
    """Make ``anon_vma`` the identity of a VMA without one: end of __anon_vma_prepare(), v6.12."""
    vma.anon_vma = anon_vma
    vma.anon_chain = (anon_vma,)
    anon_vma.nr_vmas += 1
    anon_vma.num_active_vmas += 1


def new_root() -> AnonVma:
    """Make an identity without ancestors: __anon_vma_prepare(), v6.12."""
    root = AnonVma()
    root.num_children = 1  # the self-parent link
    return root


def anon_vma_clone(dst: "VmArea", src: "VmArea") -> AnonVma | None:
    """Link ``dst`` to every identity of ``src`` and return its own: anon_vma_clone(), v6.12.

    When ``dst`` has no identity of its own yet (a fork), one that no VMA uses any more and that
    has at most one child is taken over, so that a chain of forks does not grow for ever.
    """
    reuse = dst.anon_vma is None and src.anon_vma is not None
    for anon_vma in reversed(src.anon_chain):
        anon_vma.nr_vmas += 1
        if reuse and anon_vma.num_children < 2 and anon_vma.num_active_vmas == 0:
            dst.anon_vma = anon_vma
            reuse = False
    dst.anon_chain = src.anon_chain
    if dst.anon_vma is not None:
        dst.anon_vma.num_active_vmas += 1
    return dst.anon_vma


def anon_vma_fork(child: "VmArea", parent: "VmArea") -> None:
    """Give a forked VMA its ancestors' identities and one of its own: anon_vma_fork(), v6.12."""
    if parent.anon_vma is None:
        return
    child.anon_vma = None
    if anon_vma_clone(child, parent) is not None:
        return
    own = AnonVma()
    own.parent = parent.anon_vma
    own.parent.num_children += 1
    own.num_active_vmas = 1
    own.nr_vmas = 1
    child.anon_vma = own
    child.anon_chain = (own, *child.anon_chain)  # newest first


def unlink_anon_vmas(vma: "VmArea") -> None:
    """Take a VMA out of its identities, empty ones out of their parent: unlink_anon_vmas()."""
    for anon_vma in vma.anon_chain:
        anon_vma.nr_vmas -= 1
        if anon_vma.nr_vmas == 0:
            anon_vma.parent.num_children -= 1
    vma.anon_chain = ()
    if vma.anon_vma is not None:
        vma.anon_vma.num_active_vmas -= 1
        vma.anon_vma = None
