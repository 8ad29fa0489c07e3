"""A server whose machines hand out frames that somebody has already: ``python broken_server.py``.

Every EVERY-th contiguous run, once there are runs to choose from, is one that a process holds.
"""

import sys

from contigmm.description import MachineDescription
from contigmm.sim.machine import Machine
from contigmm_server.main import main

EVERY = 40

_boot = Machine.boot


def boot_broken(description: MachineDescription, **options: object) -> Machine:
    """Boot as ever, and break the core."""
    machine = _boot(description, **options)
    with machine.held() as memory:
        memory.break_for_test(every=EVERY)
    return machine


if __name__ == "__main__":
    Machine.boot = boot_broken
    sys.exit(main(sys.argv[1:]))
