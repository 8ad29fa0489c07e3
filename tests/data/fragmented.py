"""Makes fragmented.snap.tar.xz: a small machine whose free memory is in pieces.

The counts below are of the kind that a busy machine of this size shows; where the blocks lie is
drawn from the seed. Run it after a change of the capture's format; the file is committed.
"""

import tempfile
from pathlib import Path

from contigmm.hosts import describe, save_capture

SEED = 20261123

BUDDYINFO = """\
Node 0, zone      DMA      5      4      3      2      2      1      1      0      1      1      2
Node 0, zone    DMA32   9120   7043   4210   1822    655    203     58     17      6      2      0
"""

PAGETYPEINFO = """\
Page block order: 9
Pages per block:  512

Free pages count per migrate type at order 0 1 2 3 4 5 6 7 8 9 10
Node    0, zone      DMA, type    Unmovable      1      1      1      0      0      0      0      0      1      0      0
Node    0, zone      DMA, type      Movable      4      3      2      2      2      1      1      0      0      1      2
Node    0, zone      DMA, type  Reclaimable      0      0      0      0      0      0      0      0      0      0      0
Node    0, zone    DMA32, type    Unmovable   1310    702    391    110     31      9      3      1      0      0      0
Node    0, zone    DMA32, type      Movable   7204   5998   3671   1650    611    191     55     16      6      2      0
Node    0, zone    DMA32, type  Reclaimable    606    343    148     62     13      3      0      0      0      0      0

Number of blocks type     Unmovable      Movable  Reclaimable
Node 0, zone      DMA            1            7            0
Node 0, zone    DMA32           61          921           34
"""

ZONEINFO = """\
Node 0, zone      DMA
  pages free     3264
        boost    0
        min      83
        low      103
        high     123
        promo    143
        spanned  4095
        present  3998
        managed  3840
        cma      0
        protection: (0, 1972, 1972, 1972, 1972)
  pagesets
    cpu: 0
              count:    0
              high:     4
              batch:    1
              high_min: 51
              high_max: 240
    cpu: 1
              count:    0
              high:     4
              batch:    1
              high_min: 51
              high_max: 240
  start_pfn:           1
Node 0, zone    DMA32
  pages free     84398
        boost    0
        min      11181
        low      13976
        high     16771
        promo    19566
        spanned  520192
        present  520192
        managed  504832
        cma      0
        protection: (0, 0, 0, 0, 0)
  pagesets
    cpu: 0
              count:    612
              high:     7040
              batch:    63
              high_min: 6988
              high_max: 31552
    cpu: 1
              count:    287
              high:     6988
              batch:    63
              high_min: 6988
              high_max: 31552
  start_pfn:           4096
"""

MEMINFO = """\
MemTotal:        2034688 kB
MemFree:          350648 kB
Buffers:           38112 kB
Cached:           771204 kB
AnonPages:        612480 kB
Mlocked:            2048 kB
Shmem:             28160 kB
Slab:             148200 kB
PageTables:         9840 kB
"""


def main() -> None:
    """Write the capture beside this file."""
    texts = {
        "buddyinfo": BUDDYINFO,
        "pagetypeinfo": PAGETYPEINFO,
        "zoneinfo": ZONEINFO,
        "meminfo": MEMINFO,
        "iomem": "00001000-0009efff : System RAM\n00100000-7fffffff : System RAM\n",
    }
    with tempfile.TemporaryDirectory() as home:
        for name, body in texts.items():
            (Path(home) / name).write_text(body)
        described = describe(f"file:{home}", seed=SEED)
    packed = save_capture(described, note="drawn by tests/data/fragmented.py")
    Path(__file__).with_name("fragmented.snap.tar.xz").write_bytes(packed)


if __name__ == "__main__":
    main()
