"""The queue of one machine: order, bounds, and what happens to those who go away."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from contigmm_server.commands import SHORT_US, CommandQueue
from contigmm_server.failures import ServiceError

pytestmark = pytest.mark.asyncio
LONG_US = SHORT_US


def make_queue(limit: int = 100, settle: Callable[[], None] = lambda: None) -> CommandQueue:
    return CommandQueue(ThreadPoolExecutor(2), limit=limit, settle=settle)


async def test_short_work_runs_on_the_event_loop_and_long_work_in_a_thread():
    queue = make_queue()
    here = threading.get_ident()
    assert await queue.run(threading.get_ident, cost_us=SHORT_US - 1) == here
    assert await queue.run(threading.get_ident, cost_us=LONG_US) != here


async def test_commands_run_in_the_order_in_which_they_came_whatever_their_length():
    queue = make_queue()
    order: list[int] = []
    costs = [1, LONG_US, 1, 1, LONG_US, 1]
    await asyncio.gather(
        *(queue.run(lambda n=n: order.append(n), cost_us=cost) for n, cost in enumerate(costs))
    )
    assert order == [0, 1, 2, 3, 4, 5]
    assert queue.depth == 0


async def test_a_machine_belongs_to_the_thread_until_it_ends_though_its_caller_has_gone():
    queue = make_queue()
    may_end, order = threading.Event(), []

    def slow() -> None:
        may_end.wait(5)
        order.append("slow")

    caller = asyncio.create_task(queue.run(slow, cost_us=LONG_US))
    await asyncio.sleep(0.01)
    caller.cancel()
    next_one = asyncio.create_task(queue.run(lambda: order.append("next"), cost_us=1))
    await asyncio.sleep(0.01)
    assert caller.cancelled()
    assert not next_one.done()
    may_end.set()
    await next_one
    assert order == ["slow", "next"]


async def test_what_has_not_begun_is_dropped_when_its_caller_goes_away():
    queue = make_queue()
    may_end, ran = threading.Event(), []
    slow = asyncio.create_task(queue.run(lambda: may_end.wait(5), cost_us=LONG_US))
    await asyncio.sleep(0.01)
    dropped = asyncio.create_task(queue.run(lambda: ran.append("dropped"), cost_us=1))
    kept = asyncio.create_task(queue.run(lambda: ran.append("kept"), cost_us=1))
    await asyncio.sleep(0)
    dropped.cancel()
    may_end.set()
    await asyncio.gather(slow, kept)
    assert ran == ["kept"]


async def test_a_turn_granted_in_the_moment_of_cancellation_goes_to_the_next():
    queue = make_queue()
    first = asyncio.create_task(queue.run_in_turn(lambda: "first", cost_us=1))
    second = asyncio.create_task(queue.run_in_turn(lambda: "second", cost_us=1))
    await asyncio.sleep(0)  # both wait
    await asyncio.sleep(0)  # the first has been granted its turn and not yet run
    first.cancel()
    assert await asyncio.wait_for(second, 5) == "second"


async def test_a_full_queue_refuses_and_goes_on_when_there_is_room():
    queue = make_queue(limit=1)
    may_end = threading.Event()
    slow = asyncio.create_task(queue.run(lambda: may_end.wait(5), cost_us=LONG_US))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(queue.run(lambda: "waited", cost_us=1))
    await asyncio.sleep(0)
    with pytest.raises(ServiceError, match="waiting"):
        await queue.run(lambda: "refused", cost_us=1)
    may_end.set()
    await slow
    assert await waiting == "waited"
    assert await queue.run(lambda: "room", cost_us=1) == "room"


async def test_whoever_has_gone_away_takes_no_room():
    queue = make_queue(limit=1)
    may_end = threading.Event()
    slow = asyncio.create_task(queue.run(lambda: may_end.wait(5), cost_us=LONG_US))
    await asyncio.sleep(0.01)
    for _ in range(3):
        gone = asyncio.create_task(queue.run(lambda: "gone", cost_us=1))
        await asyncio.sleep(0)
        assert queue.depth == 1
        gone.cancel()
        await asyncio.sleep(0)
        assert queue.depth == 0
    waiting = asyncio.create_task(queue.run(lambda: "waited", cost_us=1))
    await asyncio.sleep(0)
    may_end.set()
    await slow
    assert await waiting == "waited"


async def test_what_the_service_orders_itself_passes_the_limit():
    queue = make_queue(limit=0)
    assert await queue.run_ordered(lambda: "ordered", cost_us=1) == "ordered"


@pytest.mark.parametrize("cost_us", [1, LONG_US])
async def test_a_command_that_raises_frees_the_machine(cost_us: float):
    settled: list[int] = []
    queue = make_queue(settle=lambda: settled.append(1))
    with pytest.raises(ZeroDivisionError):
        await queue.run(lambda: 1 / 0, cost_us=cost_us)
    assert await queue.run(lambda: "next", cost_us=1) == "next"
    assert len(settled) == 2


async def test_depth_counts_what_arrived_together():
    queue = make_queue()
    await asyncio.gather(*(queue.run_in_turn(lambda: None, cost_us=1) for _ in range(5)))
    assert queue.depth_max == 5
