"""Is a line of strace read as what it says, whatever options strace was given?"""

import random

import pytest

from contigmm.abi import MAP_ANONYMOUS, MAP_HUGETLB, MAP_PRIVATE, PROT_READ, U64_MAX
from contigmm.hosts.strace_log import LoggedCall, ProcessEnd, parse_strace, split_arguments
from contigmm.hosts.strace_words import clone_flags, descriptor, number


def only(line: str) -> LoggedCall:
    log = parse_strace([line])
    assert not log.remarks
    (event,) = log.events
    assert isinstance(event, LoggedCall)
    return event


@pytest.mark.parametrize(
    "head",
    ["", "77 ", "[pid 77] ", "77  05:36:02 ", "77 05:36:02.353921 ", "77  1795385793.41 ",
     "     0.000215 ", "[pid    77]      0.000215 "],
)  # fmt: skip
def test_every_kind_of_line_head_is_understood(head):
    event = only(f"{head}munmap(0x7ffff7fb7000, 36171) = 0 <0.000009>")
    assert (event.name, event.value, event.error) == ("munmap", 0, "")
    assert event.pid == (77 if "77" in head else 0)


def test_a_refusal_has_its_name_and_a_pending_result_has_none():
    refused = only("mmap(NULL, 0, PROT_READ, MAP_PRIVATE, 3, 0) = -1 EINVAL (Invalid argument)")
    assert (refused.value, refused.error) == (None, "EINVAL")
    unknown = only("exit_group(0) = ?")
    assert (unknown.value, unknown.error) == (None, "")


def test_a_call_cut_in_two_is_one_and_lasts_from_line_to_line():
    log = parse_strace(
        [
            "1 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0 <unfinished ...>",
            "2 munmap(0x1000, 4096) = 0",
            "1 <... mmap resumed>) = 0x7000",
        ]
    )
    first, second = log.events
    assert isinstance(first, LoggedCall)
    assert isinstance(second, LoggedCall)
    assert (second.name, second.value, second.line) == ("mmap", 0x7000, 3)
    assert second.arguments() == [
        "NULL",
        "8192",
        "PROT_READ",
        "MAP_PRIVATE|MAP_ANONYMOUS",
        "-1",
        "0",
    ]
    assert second.began < first.began < second.ended


def test_what_cannot_be_used_is_said_with_its_line():
    log = parse_strace(
        [
            "1 brk(NULL) = 0x1000",
            "what is this",
            "2 <... mmap resumed>) = 0x7000",
            "1 munmap(0x1000, 4",
            "3 wait4(-1, <unfinished ...>",
            "1 --- SIGCHLD {si_signo=SIGCHLD} ---",
            "1 +++ exited with 0 +++",
        ]
    )
    assert [remark.line for remark in log.remarks] == [2, 3, 4, 5]
    assert isinstance(log.events[-1], ProcessEnd)


def test_numbers_words_and_descriptors():
    assert number("PROT_READ") == PROT_READ
    assert number("MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB|21<<MAP_HUGE_SHIFT") == (
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26
    )
    assert number("0x8 /* PROT_??? */") == 8
    assert number("-1") == U64_MAX
    assert descriptor("3</usr/lib/libc.so.6>") == (3, "/usr/lib/libc.so.6")
    with pytest.raises(ValueError, match="NO_SUCH_WORD"):
        number("NO_SUCH_WORD")
    assert clone_flags("{flags=CLONE_VM|CLONE_FS|CLONE_THREAD, stack=0x1}, 88") == 0x1_0100
    assert clone_flags("child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD") == 0


def test_commas_in_quotes_and_brackets_do_not_split():
    assert split_arguments('"a, \\"b", ["c", "d"], {e=1, f=2}, 3') == [
        '"a, \\"b"', '["c", "d"]', "{e=1, f=2}", "3",
    ]  # fmt: skip


def test_no_text_stops_the_reader():
    draw = random.Random(5)
    line = "12 1795385793.4 mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, 3, 0) = 0x7000 <0.1>"
    for _ in range(2000):
        letters = list(line)
        for _ in range(draw.randrange(1, 8)):
            letters[draw.randrange(len(letters))] = draw.choice('()<>=,"\\{} 0x|-?.\x00é')
        parse_strace(["".join(letters), line])
