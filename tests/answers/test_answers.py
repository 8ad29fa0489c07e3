"""Answers come from requests on a booted machine, and agree with the free lists behind them."""

import json
from pathlib import Path

import pytest

from contigmm import open_machine
from contigmm.answers import RequestError, explain, howmany
from contigmm.answers.request import Request, parse_gfp, parse_size
from contigmm.cli import main
from contigmm.hosts import SourceError, describe

DATA = Path(__file__).parents[1] / "data"
FRAGMENTED = f"file:{DATA / 'fragmented.snap.tar.xz'}"
FEW = 3


def free_blocks():
    """Free blocks of zone DMA32, by order."""
    return describe(FRAGMENTED).buddyinfo()["0/DMA32"]


def carvable(order):
    """Blocks of an order that the free blocks of zone DMA32 could be carved into."""
    return sum(count << (size - order) for size, count in enumerate(free_blocks()) if size >= order)


@pytest.mark.parametrize(("size", "order"), [("2M", 9), ("1M", 8), ("512K", 7), ("256K", 6)])
def test_where_blocks_are_few_all_of_them_are_delivered(size, order):
    answer = howmany(FRAGMENTED, size, draws=FEW)
    assert answer.trials[0].cause == "no_block"
    # Zone DMA gives what it does not keep for those who can use nothing else.
    dma = describe(FRAGMENTED).zones[0]
    free = sum(count << k for k, count in enumerate(describe(FRAGMENTED).buddyinfo()["0/DMA"]))
    spare = free - dma.watermark_min - dma.protection[2]
    told = carvable(order) + (spare >> order)
    if order > 6:
        assert answer.low == answer.count == answer.high == told
    else:  # in some draws the frames of per-CPU lists complete a block when they are drained
        assert told <= answer.low <= answer.high <= told + 2


def test_single_pages_end_at_the_marks():
    answer = howmany("spec:medium", "4K")
    machine = open_machine("spec:medium")
    spare = [max(0, z.free - z.marks[0] - z.protection[2]) for z in machine.zones() if z.managed]
    assert answer.trials[0].cause == "below_watermark"
    assert answer.count == sum(spare)


def test_the_mark_rises_where_other_types_pageblocks_are_claimed():
    answer = howmany(FRAGMENTED, "4K", draws=1)
    zone = describe(FRAGMENTED).zones[1]
    spare = carvable(0) - zone.watermark_min
    boost = zone.watermark_high * 15000 // 10000
    assert spare - boost - 64 <= answer.count <= spare - boost + 2000
    assert any(f"+ boost {boost:,}" in line for line in answer.arithmetic)


def test_a_piece_that_is_no_power_of_two_gives_its_tail_back():
    whole, part = (howmany("spec:small", size).count for size in ("4M", "3M"))
    assert part >= whole
    assert howmany("spec:small", "5K").count == howmany("spec:small", "8K").count


def test_a_spec_leaves_nothing_to_chance():
    answer = howmany("spec:medium", "4M")
    assert (answer.low, answer.high, answer.confidence) == (answer.count, answer.count, 1.0)
    assert len(answer.trials) == 1


def test_the_interval_says_what_it_is_worth():
    answer = howmany(FRAGMENTED, "64K", draws=FEW)
    assert answer.low <= answer.count <= answer.high
    assert answer.confidence == 0.5
    assert answer.unknown


def test_a_block_that_is_there_is_served():
    answer = explain(FRAGMENTED, "1M", draws=FEW)
    assert (answer.verdict, answer.cause) == ("succeeds", "served")
    assert answer.would_help == ()


def test_a_request_that_may_not_make_room_fails():
    answer = explain(FRAGMENTED, "4M", gfp="GFP_TRANSHUGE_LIGHT", draws=FEW)
    assert (answer.verdict, answer.cause) == ("fails", "no_block")
    assert any(line.startswith("compaction: ") for line in answer.would_help)
    assert any("it has 0 blocks of order 10" in line for line in answer.evidence)
    assert any(line.startswith("unknown: ") for line in answer.evidence)


def test_a_request_that_may_make_room_compacts():
    answer = explain(FRAGMENTED, "4M", gfp="GFP_KERNEL", draws=FEW)
    assert (answer.verdict, answer.cause) == ("succeeds", "served")
    assert any(line.startswith("to make room, ") for line in answer.evidence)


def test_more_pieces_are_there_after_compaction():
    now = howmany(FRAGMENTED, "2M", draws=FEW)
    later = howmany(FRAGMENTED, "2M", after="compact", draws=FEW)
    assert later.count > now.count
    assert "are there after compaction" in later.sentence()


def test_above_the_largest_order_a_range_is_emptied():
    answer = explain("spec:small", "8M")
    assert (answer.verdict, answer.cause) == ("succeeds", "served")
    assert "aligned ranges of 2,048 frames" in answer.evidence[0]
    assert explain(FRAGMENTED, "6M", draws=FEW).verdict == "succeeds"


def test_a_refused_range_names_what_stands_in_most():
    answer = explain(FRAGMENTED, "256M", draws=FEW)
    assert (answer.verdict, answer.cause) == ("fails", "range_unmovable")
    assert "a page of the kernel that cannot move, as at frame " in answer.sentence()


def test_pieces_above_the_largest_order_are_counted_by_taking_them():
    fresh = howmany("spec:small", "64M")
    assert fresh.count > 2
    assert fresh.trials[0].cause.startswith("range_"), fresh.trials[0]
    assert fresh.count > howmany("spec:small", "96M").count


def test_a_range_that_no_machine_has_is_refused():
    assert explain("spec:small", "4T").cause == "no_range"
    assert explain("spec:small", "64T").cause == "no_range"
    answer = explain("spec:small", "64M", gfp="GFP_ATOMIC")
    assert (answer.verdict, answer.cause) == ("fails", "unsupported_gfp")
    assert "CMA area" in answer.would_help[0]


def test_zones_that_the_flags_exclude_are_not_asked():
    evidence = explain("spec:medium", "64K", gfp="GFP_KERNEL|__GFP_DMA32").evidence
    assert [line.partition(":")[0].split()[1] for line in evidence] == ["0/DMA32", "0/DMA"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("64K", 65536), ("2MiB", 2 << 20), ("1gb", 1 << 30), ("1T", 1 << 40)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "2.5M", "M", "64Q", "9" * 40, "\u0664K"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(RequestError, match="is no size"):
        parse_size(text)


def test_flags():
    assert parse_gfp("GFP_KERNEL") == 0xCC0
    assert parse_gfp("GFP_KERNEL | __GFP_COMP") == 0x40CC0
    assert parse_gfp("0xcc0|__GFP_ZERO") == 0xDC0
    with pytest.raises(RequestError, match="no flag 'GFP_MAGIC'"):
        parse_gfp("GFP_MAGIC")


def test_an_order_is_that_of_the_smallest_block_that_holds_the_piece():
    orders = [Request.parse(size).order for size in ("1", "4K", "4097", "16K", "2M", "4M", "8M")]
    assert orders == [0, 0, 1, 2, 9, 10, 11]


def test_bad_arguments_are_refused():
    with pytest.raises(RequestError, match="only nothing"):
        howmany("spec:small", "4K", after="lunch")
    with pytest.raises(RequestError, match="0 draws"):
        howmany("spec:small", "4K", draws=0)
    with pytest.raises(SourceError, match="no such machine"):
        explain("spec:tiny", "4K")


def printed(capfd, *arguments):
    status = main(list(arguments))
    return status, capfd.readouterr()


def test_the_command_line_prints_json(capfd):
    status, out = printed(capfd, "howmany", "spec:small", "--size", "4M", "--json")
    answer = json.loads(out.out)
    assert (status, out.err, answer["schema"]) == (0, "", "howmany/1")
    assert {"contigmm", "size_bytes", "after", "count", "low", "high", "confidence"} <= set(answer)
    status, out = printed(capfd, "explain", "spec:small", "--size", "4M", "--json")
    answer = json.loads(out.out)
    assert (status, answer["schema"], answer["verdict"]) == (0, "explain/1", "succeeds")
    assert {"cause", "evidence", "would_help"} <= set(answer)


def test_the_command_line_prints_sentences(capfd):
    status, out = printed(capfd, "howmany", FRAGMENTED, "--size", "1M", "--draws", "1")
    assert status == 0
    assert out.out.startswith("13 pieces of 1 MiB are there now; the next one would be refused")
    assert "  zone 0/DMA32 passes" in out.out
    assert "  not told: " in out.out


def test_a_verdict_can_be_made_a_failure(capfd):
    arguments = ("explain", "spec:small", "--size", "4T", "--fail-if")
    assert printed(capfd, *arguments, "fails")[0] == 3
    assert printed(capfd, *arguments, "unknown")[0] == 0


def test_bad_input_ends_with_status_2_and_a_sentence(capfd):
    status, out = printed(capfd, "explain", "file:/no/such", "--size", "4K")
    assert (status, out.out) == (2, "")
    assert out.err.startswith("contigmm: /no/such: ")
    assert printed(capfd, "howmany", "spec:small", "--size", "much")[0] == 2
