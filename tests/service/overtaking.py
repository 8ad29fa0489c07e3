"""A server with a bug on purpose: now and then two commands exchange the positions they tell."""

import random
import sys
from collections.abc import Sequence
from unittest.mock import patch

from contigmm.sim.machine import Machine
from contigmm.sim.operation import Answer, Operation
from contigmm_server import main

_draw = random.Random(1)
_ahead: list[bool] = []
_execute = Machine.execute


def execute(
    machine: Machine, operations: Sequence[Operation], *, stop_on_refusal: bool = False
) -> list[Answer]:
    """As the machine, but one call in fifty tells the next one's position, which tells its."""
    answers = _execute(machine, operations, stop_on_refusal=stop_on_refusal)
    if len(answers) == 1 and answers[0].seq:
        if _ahead:
            _ahead.clear()
            answers[0].seq -= 1
        elif _draw.random() < 0.02:
            _ahead.append(True)
            answers[0].seq += 1
    return answers


if __name__ == "__main__":
    with patch.object(Machine, "execute", execute):
        sys.exit(main.main())
