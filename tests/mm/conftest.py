"""A task on physical memory: the page-at-a-time model, or the real core where that matters."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from page_model import ModelIndex, ModelMemory

from contigmm.mm.config import MmConfig, default_rlimits
from contigmm.mm.task import Task
from contigmm.phys import Memory, VmaIndex

PAGES = 1 << 16  # 256 MiB
MakeTask = Callable[..., Task]


def boot() -> Memory:
    zone = {"node": 0, "kind": "Normal", "start_pfn": 0, "spanned": PAGES, "managed": PAGES}
    return Memory.boot(json.dumps({"seed": 1, "nr_cpus": 1, "zones": [zone]}))


@pytest.fixture(params=["model", "core"])
def make_task(request: pytest.FixtureRequest) -> MakeTask:
    """Makes tasks of one machine; keyword arguments of Task, and ``profile``, ``limits``."""
    core = request.param == "core"
    memory = boot() if core else ModelMemory()
    index = VmaIndex if core else ModelIndex
    configs: dict[str, MmConfig] = {}

    def make(profile: str = "linux", limits: dict[int, int] | None = None, **options) -> Task:
        if profile not in configs:
            configs[profile] = MmConfig(memory, profile=profile, total_ram_pages=PAGES)
        rlimits = default_rlimits()
        for number, soft in (limits or {}).items():
            rlimits[number] = (soft, rlimits[number][1])
        return Task(configs[profile], index(), rlimits=rlimits, **options)

    make.index = index
    return make


@pytest.fixture
def task(make_task: MakeTask) -> Task:
    return make_task()
