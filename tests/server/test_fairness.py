"""Fair turns between tenants: how much others run while one waits."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contigmm.sim.operation import MAX_OPERATIONS
from contigmm_server.commands import SHORT_US, CommandQueue
from contigmm_server.doors.caller import CURRENT, Caller
from contigmm_server.turns import Turns

BOUND = 2 * MAX_OPERATIONS
"""Operations of any other tenant that begin while the first command of a tenant waits."""

sizes = st.one_of(st.just(1), st.integers(1, 64), st.integers(1, MAX_OPERATIONS))
arrivals = st.lists(st.tuples(st.integers(0, 3), sizes), min_size=0, max_size=6)


class Watched:
    """Turns, and for each waiting head what other tenants have begun meanwhile."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.turns = Turns()
        self.owners: dict[asyncio.Future[None], tuple[int, int]] = {}
        self.lines: dict[int, list[asyncio.Future[None]]] = {}
        self.begun: dict[int, Counter[int]] = {}
        self.worst = 0

    def add(self, tenant: int, operations: int) -> asyncio.Future[None]:
        turn = self.loop.create_future()
        self.owners[turn] = tenant, operations
        self.lines.setdefault(tenant, []).append(turn)
        self.begun.setdefault(tenant, Counter())
        self.turns.add(str(tenant), operations, turn)
        return turn

    def give_up(self, turn: asyncio.Future[None], *, noticed: bool) -> None:
        """Its caller goes away; the next of its tenant, if any, is first from now on."""
        tenant, operations = self.owners[turn]
        line = self.lines[tenant]
        if line[0] is turn:
            self.begun[tenant].clear()
        line.remove(turn)
        turn.cancel()
        if noticed:
            self.turns.leave(str(tenant), operations, turn)
        if not line:
            self.begun.pop(tenant)

    def serve(self) -> int | None:
        turn = self.turns.next()
        if turn is None:
            return None
        tenant, operations = self.owners.pop(turn)
        line = self.lines[tenant]
        assert line.pop(0) is turn
        self.begun.pop(tenant)
        if line:
            self.begun[tenant] = Counter()
        for waiting in self.begun.values():
            waiting[tenant] += operations
            self.worst = max(self.worst, waiting[tenant])
        return tenant


@settings(max_examples=400)
@given(st.lists(arrivals, max_size=40), st.randoms(use_true_random=False))
def test_no_tenant_waits_for_more_than_the_bound_of_any_other(rounds, draw):
    watched = Watched()
    try:
        for arriving in rounds:
            turns = [watched.add(tenant, operations) for tenant, operations in arriving]
            if turns and draw.random() < 0.3:
                watched.give_up(draw.choice(turns), noticed=draw.random() < 0.5)
            watched.serve()
        while watched.serve() is not None:
            pass
        assert watched.worst <= BOUND
        assert len(watched.turns) == 0
    finally:
        watched.loop.close()


def test_tenants_that_always_wait_get_equal_shares_by_operations():
    watched, served, draw = Watched(), Counter[int](), random.Random(1)
    length = {0: lambda: 1, 1: lambda: MAX_OPERATIONS, 2: lambda: draw.randint(1, MAX_OPERATIONS)}
    waiting = {tenant: watched.add(tenant, size()) for tenant, size in length.items()}
    amounts = {tenant: watched.owners[turn][1] for tenant, turn in waiting.items()}
    while served.total() < 100 * MAX_OPERATIONS:
        tenant = watched.serve()
        assert tenant is not None
        served[tenant] += amounts[tenant]
        amounts[tenant] = length[tenant]()
        watched.add(tenant, amounts[tenant])
    watched.loop.close()
    assert max(served.values()) - min(served.values()) <= BOUND


def test_one_tenant_is_served_in_the_order_in_which_it_came():
    watched = Watched()
    turns = [watched.add(0, size) for size in (5, 4096, 1, 7)]
    assert [watched.turns.next() for _ in turns] == turns
    assert watched.turns.next() is None
    watched.loop.close()


@pytest.mark.asyncio
async def test_a_full_line_of_one_tenant_leaves_room_for_another():
    executor = ThreadPoolExecutor(1)
    queue = CommandQueue(executor, limit=4, settle=lambda: None)
    order: list[str] = []

    async def on_behalf(tenant: str, ask: Callable[[], Awaitable[None]]) -> None:
        CURRENT.set(Caller(tenant))
        await ask()

    def ask(tenant: str) -> Callable[[], Awaitable[None]]:
        return lambda: queue.run_in_turn(lambda: order.append(tenant), cost_us=1, operations=100)

    loop = asyncio.get_running_loop()
    may_end = threading.Event()
    holder = loop.create_task(queue.run(lambda: may_end.wait(5), cost_us=SHORT_US))
    await asyncio.sleep(0)
    crowd = [loop.create_task(on_behalf("crowd", ask("crowd"))) for _ in range(5)]
    await asyncio.sleep(0)
    single = loop.create_task(on_behalf("single", ask("single")))
    await asyncio.sleep(0)
    may_end.set()
    await holder
    ended = await asyncio.gather(*crowd, single, return_exceptions=True)
    assert [type(end).__name__ for end in ended] == ["NoneType"] * 4 + ["ServiceError", "NoneType"]
    assert "single" in order[:2]
    executor.shutdown()
