"""The picture of a run: free blocks by order and the unusable index, before the load and after.

Colours are Okabe and Ito's, told apart by the colour-blind; line styles and hatches say the same
again for who prints in grey.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from contigmm.load.fragmentation import PAGE_BYTES, Fragmentation
from contigmm.load.report import Report
from contigmm.load.sizes import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE: Final = "#0072B2"
_ORANGE: Final = "#E69F00"
_GREY: Final = "#999999"
_DPI: Final = 130


def draw(report: Report, path: Path) -> None:
    """Write the picture of ``report``; the ending of ``path`` says in which format.

    Raises:
        ValueError: matplotlib knows no format of that ending.
        OSError: The file cannot be written.
    """
    zones = [
        zone
        for zone, counts in report.stages.filled.zones.items()
        if any(counts) or any(report.stages.end.zones[zone])
    ]
    figure = Figure(figsize=(11, 1.9 + 2.6 * len(zones)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(report), fontsize=12)
    rows = figure.subplots(len(zones), 2, squeeze=False)
    for (left, right), zone in zip(rows, zones, strict=True):
        _draw_blocks(left, report, zone)
        _draw_index(right, report, zone)
    rows[0][0].legend(fontsize=9)
    rows[0][1].legend(fontsize=9)
    figure.savefig(path, dpi=_DPI)


def _title(report: Report) -> str:
    rates = ", ".join(
        f"{format_bytes(size.size_bytes)} {size.refused_share:.0%}" for size in report.sizes
    )
    source = "this host" if report.source == "host:" else report.source.rpartition("/")[2]
    return (
        f"{report.scenario.nr_processes} processes on {source}, {report.traffic.duration_s:.0f} s,"
        f" seed {report.scenario.seed}\nrefused: {rates}"
    )


def _draw_blocks(axes: "Axes", report: Report, zone: str) -> None:
    orders = np.arange(len(report.stages.filled.zones[zone]))
    width = 0.4
    axes.bar(
        orders - width / 2,
        _free_mib(report.stages.filled, zone),
        width,
        color=_BLUE,
        label="before the load",
    )
    axes.bar(
        orders + width / 2,
        _free_mib(report.stages.end, zone),
        width,
        color=_ORANGE,
        hatch="//",
        edgecolor="white",
        label="after, all still held",
    )
    axes.set_title(f"{_title_of(zone)}: free memory in blocks of", fontsize=10)
    axes.set_xticks(orders, [format_bytes(PAGE_BYTES << int(order)) for order in orders])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("MiB")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_index(axes: "Axes", report: Report, zone: str) -> None:
    stages = (
        (report.stages.captured, "as captured", _GREY, ":", "s"),
        (report.stages.filled, "before the load", _BLUE, "--", "o"),
        (report.stages.end, "after, all still held", _ORANGE, "-", "^"),
    )
    for stage, label, colour, style, marker in stages:
        shares = stage.unusable[zone]
        axes.plot(
            range(len(shares)), shares, linestyle=style, marker=marker, color=colour, label=label
        )
    axes.set_title(f"{_title_of(zone)}: share of it in blocks too small for", fontsize=10)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xticks(range(len(shares)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda order, _: format_bytes(PAGE_BYTES << int(order)) if order >= 0 else "")
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3)


def _title_of(zone: str) -> str:
    return f"node {zone.replace('/', ', zone ')}"


def _free_mib(stage: Fragmentation, zone: str) -> list[float]:
    counts = stage.zones[zone]
    return [(count << order) * PAGE_BYTES / (1 << 20) for order, count in enumerate(counts)]
