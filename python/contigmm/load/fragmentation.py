"""Free blocks by zone and order at one moment, and how much of that a request could not use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

PAGE_BYTES: Final = 4096

ZoneCounts = Mapping[str, tuple[int, ...]]
"""Free blocks by order of each ``NODE/ZONE``, as in /proc/buddyinfo."""


def unusable_index(free_blocks: tuple[int, ...]) -> tuple[float, ...]:
    """Return, by order, the share of free memory that is in blocks too small for the order.

    With nothing free it is 1: mm/vmstat.c:unusable_free_index(), v6.12.
    """
    total = sum(count << order for order, count in enumerate(free_blocks))
    if total == 0:
        return tuple(1.0 for _ in free_blocks)
    suitable = total
    index = []
    for order, count in enumerate(free_blocks):
        index.append((total - suitable) / total)
        suitable -= count << order
    return tuple(index)


@dataclass(frozen=True)
class Fragmentation:
    """The free memory of a machine at one moment."""

    zones: ZoneCounts
    pcp_frames: int = 0
    """Free frames that stand on per-CPU lists instead."""

    @classmethod
    def of(cls, buddyinfo: Mapping[str, list[int]], *, pcp_frames: int = 0) -> Self:
        """Take over what a machine's ``buddyinfo()`` says."""
        zones = {zone: tuple(counts) for zone, counts in buddyinfo.items()}
        return cls(zones, pcp_frames)

    @property
    def total(self) -> tuple[int, ...]:
        """Free blocks by order, of all zones together."""
        return tuple(map(sum, zip(*self.zones.values(), strict=True)))

    @property
    def free_bytes(self) -> int:
        """Free memory on the buddy lists."""
        return sum(count << order for order, count in enumerate(self.total)) * PAGE_BYTES

    @property
    def pcp_bytes(self) -> int:
        """Free memory on per-CPU lists."""
        return self.pcp_frames * PAGE_BYTES

    @property
    def unusable(self) -> dict[str, tuple[float, ...]]:
        """The index by order, 0 to 1, of each zone that has free memory or had some."""
        return {zone: unusable_index(counts) for zone, counts in self.zones.items()}

    def as_json(self) -> dict[str, dict[str, list[int]] | dict[str, list[float]]]:
        """Return the member ``before`` or ``after`` of load/1."""
        return {
            "buddyinfo": {zone: list(counts) for zone, counts in self.zones.items()},
            "unusable_index": {
                zone: [round(share, 4) for share in shares]
                for zone, shares in self.unusable.items()
            },
        }
