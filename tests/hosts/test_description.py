"""A description is a value with canonical bytes, and bad bytes are refused with a sentence."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from contigmm.description import (
    NO_OWNER,
    DescriptionError,
    FrameRuns,
    FreeBlocks,
    Layout,
    MachineDescription,
    OwnerDescription,
    OwnerKind,
    PageClass,
    PcpDescription,
    PcpPages,
    ZoneDescription,
)


def u32(*values):
    return np.array(values, "<u4")


def u8(*values):
    return np.array(values, "<u1")


def small_layout() -> Layout:
    return Layout(
        frames=FrameRuns(
            start=u32(0, 512),
            nr=u32(16, 512),
            page_class=u8(PageClass.KERNEL, PageClass.ANON_THP),
            order=u8(0, 9),
            flags=u8(0, 16),
            owner=u32(NO_OWNER, 0),
            index=u32(0, 0),
        ),
        free=FreeBlocks(pfn=u32(32, 64), order=u8(5, 6), migratetype=u8(1, 1)),
        pcp=PcpPages(pfn=u32(16), cpu=np.array([1], "<u2"), order=u8(0), migratetype=u8(1)),
        pageblock_type=u8(1, 1),
        owners=(OwnerDescription(OwnerKind.PROCESS, "anon-0"),),
    )


def small() -> MachineDescription:
    zone = ZoneDescription(
        node=0,
        name="DMA",
        start_pfn=0,
        spanned=1024,
        present=1024,
        managed=1000,
        watermark_min=3,
        protection=(0, 7),
        pcp=(PcpDescription(1, 6, 1), PcpDescription(0, 6, 1, 2, 3)),
    )
    return MachineDescription(
        zones=(zone,),
        nr_cpus=2,
        cpu_nodes=(0, 0),
        distances=((10,),),
        settings={"min_free_kbytes": 64, "thp": "madvise"},
        layout=small_layout(),
        known=("free blocks",),
        drawn=("list order",),
        seed=7,
    )


def test_bytes_give_the_same_description_back():
    packed = small().to_bytes()
    again = MachineDescription.from_bytes(packed)
    assert again.to_bytes() == packed
    assert again.digest() == small().digest()
    assert again.zones == small().zones
    assert again.layout is not None
    assert again.layout.owners == small_layout().owners
    assert again.buddyinfo() == {"0/DMA": [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]}


def test_a_machine_without_layout_has_bytes_too():
    fresh = replace(small(), layout=None)
    assert MachineDescription.from_bytes(fresh.to_bytes()).layout is None
    with pytest.raises(DescriptionError, match="no layout"):
        fresh.buddyinfo()


def spoiled(change) -> bytes:
    """The small description's bytes after ``change`` of its plain text."""
    packed = small().to_bytes()
    return packed[:8] + zlib.compress(change(zlib.decompress(packed[8:])))


def with_header(edit):
    def change(plain: bytes) -> bytes:
        length = int.from_bytes(plain[:4], "little")
        header = json.loads(plain[4 : 4 + length])
        edit(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(4, "little") + text + plain[4 + length :]

    return spoiled(change)


@pytest.mark.parametrize(
    ("packed", "sentence"),
    [
        pytest.param(b"", "no machine description", id="nothing"),
        pytest.param(b"CMMDESC1", "cut off", id="magic only"),
        pytest.param(b"CMMDESC1garbage", "cannot be unpacked", id="not zlib"),
        pytest.param(small().to_bytes()[:-9], "cut off", id="cut"),
        pytest.param(spoiled(lambda plain: plain[:-1]), "cut off", id="last array cut"),
        pytest.param(spoiled(lambda plain: plain + b"x"), "Bytes follow", id="more behind"),
        pytest.param(spoiled(lambda plain: b"\xff\xff"), "malformed", id="no header"),
        pytest.param(with_header(lambda h: h.pop("zones")), "malformed", id="no zones"),
        pytest.param(with_header(lambda h: h.update(zones=[])), "no zone", id="empty zones"),
        pytest.param(with_header(lambda h: h.update(nr_cpus=0)), "0 CPUs", id="no CPU"),
        pytest.param(with_header(lambda h: h.update(surprise=1)), "malformed", id="unknown key"),
        pytest.param(
            with_header(lambda h: h["arrays"].update({"free.pfn": -1})), "length", id="negative"
        ),
        pytest.param(
            with_header(lambda h: h["arrays"].update({"free.pfn": 2**40})), "cut off", id="enormous"
        ),
        pytest.param(
            with_header(lambda h: h["zones"][0].update(managed=1025)), "managed", id="managed"
        ),
        pytest.param(with_header(lambda h: h["zones"][0].update(name="X")), "'X'", id="zone name"),
        pytest.param(
            with_header(lambda h: h["zones"][0].update(present=1020)), "holes", id="no hole told"
        ),
        pytest.param(
            with_header(lambda h: h["zones"][0].update(present=1020, holes=[[1022, 4]])),
            "A hole",
            id="hole beyond the zone",
        ),
    ],
)
def test_bad_bytes_are_refused_with_a_sentence(packed, sentence):
    with pytest.raises(DescriptionError, match=sentence):
        MachineDescription.from_bytes(packed)


def test_bytes_that_unpack_to_too_much_are_refused():
    bomb = b"CMMDESC1" + zlib.compress(bytes(10 << 20))
    with pytest.raises(DescriptionError, match="unpacks to more"):
        MachineDescription.from_bytes(bomb, max_unpacked=1 << 20)
    with pytest.raises(DescriptionError, match="more than 8 bytes"):
        MachineDescription.from_bytes(bomb, max_packed=8)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("start", u32(40, 512), "twice"),
        ("start", u32(0, 520), "multiple"),
        ("nr", u32(0, 512), "multiple"),
        ("start", u32(0, 1024), "no zone"),
        ("page_class", u8(18, 0), "class"),
        ("owner", u32(NO_OWNER, 1), "owner does not exist"),
        ("owner", u32(0, 0), "not its kind's"),
        ("index", u32(0, 2**32 - 5), "beyond the last"),
        ("order", u8(0, 19), "folio"),
        ("index", u32(1), "length"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(column, value, sentence):
    layout = small_layout()
    wrong = replace(layout, frames=replace(layout.frames, **{column: value}))
    with pytest.raises(DescriptionError, match=sentence):
        replace(small(), layout=wrong).check()


def test_a_page_that_an_owner_has_twice_is_refused():
    layout = small_layout()
    frames = replace(
        layout.frames,
        start=u32(0, 512, 768),
        nr=u32(16, 256, 256),
        page_class=u8(PageClass.KERNEL, PageClass.ANON, PageClass.ANON),
        order=u8(0, 0, 0),
        flags=u8(0, 16, 16),
        owner=u32(NO_OWNER, 0, 0),
        index=u32(0, 256, 0),
    )
    replace(small(), layout=replace(layout, frames=frames)).check()
    twice = replace(frames, index=u32(0, 200, 0))
    with pytest.raises(DescriptionError, match="described twice"):
        replace(small(), layout=replace(layout, frames=twice)).check()
