"""Arithmetic on counts of free blocks by order."""

import numpy as np
import numpy.typing as npt


def suitable_blocks(counts: npt.NDArray[np.uint64], order: int) -> int:
    """Return how many blocks of ``order`` these free blocks could be carved into.

    ``fill_contig_page_info()``, mm/vmstat.c v6.12: ``free_blocks_suitable``.
    """
    larger = counts[order:].astype(np.int64)
    return int((larger << np.arange(len(larger))).sum())
