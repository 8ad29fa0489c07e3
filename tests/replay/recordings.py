"""Recordings that no kernel made, in the format of those that one did."""

import io
import json
import lzma
import tarfile

import numpy as np

from contigmm.hosts.kmem import FORMAT, KmemEvent


def varints(values):
    out = bytearray()
    for value in values:
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def members_of(events, **meta):
    """Encode (kind, pfn, order, migratetype, cpu) rows, a microsecond apart."""
    kinds = [event[0] for event in events]
    members = {
        "meta.json": json.dumps(
            {"format": FORMAT, "t0": 0, "tick_ns": 1000, "gfps": [0x100CCA], "lost": 0, **meta}
        ).encode(),
        "col/type.u8": bytes(kinds),
        "col/cpu.u8": bytes(event[4] for event in events),
        "col/time.vlq": varints([1] * len(events)),
        "col/pid.vlq": varints([0] * len(events)),
        "col/order.u8": bytes(event[2] for event in events),
        "col/gfp.vlq": varints([0] * kinds.count(KmemEvent.ALLOC)),
        "col/mt.u8": bytes(
            event[3] + (16 if event[0] == KmemEvent.LOCKED else 0)
            for event in events
            if event[0] in (KmemEvent.ALLOC, KmemEvent.DRAIN, KmemEvent.LOCKED)
        ),
        "col/ext.u8": bytes(4 * kinds.count(KmemEvent.EXTFRAG)),
    }
    for kind in KmemEvent:
        pfns = [event[1] for event in events if event[0] == kind]
        members[f"col/pfn.{kind.name.lower()}.u32"] = np.array(pfns, "<u4").tobytes()
    return members


def packed(members):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, octets in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(octets)
            tar.addfile(info, io.BytesIO(octets))
    return lzma.compress(raw.getvalue())
