"""personality(2): kernel/exec_domain.c, v6.18."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contigmm.mm.task import Task


def personality(task: "Task", persona: int) -> int:
    """Set the personality and return the old one; 0xffffffff only asks."""
    persona &= 0xFFFF_FFFF
    old = task.persona
    if persona != 0xFFFF_FFFF:
        task.persona = persona
    return old
