"""What a pipeline demands of a run: ``p99<=20ms``, ``ops_per_s>=1000``, ``refused<=5%``."""

import re
from dataclasses import dataclass
from typing import Final, Self

from contigmm.load.report import Report
from contigmm.load.samples import Kind
from contigmm.load.sizes import LoadInputError

_FORM: Final = re.compile(r"(\w+)\s*(<=|>=)\s*(\d{1,15}(?:\.\d{1,15})?)\s*(us|µs|ms|s|%)?")
_UNITS: Final = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}
_TIMES: Final = ("p50", "p90", "p99", "p999", "max")
_NAMES: Final = (*_TIMES, "ops_per_s", "refused", "jain")


@dataclass(frozen=True)
class Threshold:
    """A bound of one figure of the report."""

    figure: str
    at_most: bool
    bound: float
    """Microseconds for latencies, a share for ``refused``."""
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``FIGURE<=BOUND`` or ``FIGURE>=BOUND``.

        Raises:
            LoadInputError: There is no such figure, or its bound has another unit.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None or match[1] not in _NAMES:
            raise LoadInputError(
                f"{text!r} is no threshold: one of {', '.join(_NAMES)}, then <= or >=, then a"
                " number, such as p99<=20ms"
            )
        figure, unit = match[1], match[4]
        if (figure in _TIMES) != (unit in _UNITS) or (figure == "refused") != (unit == "%"):
            raise LoadInputError(
                f"{text!r}: latencies have a unit of us, ms or s, refused has %, others none"
            )
        scale = 0.01 if unit == "%" else _UNITS.get(unit or "", 1.0)
        return cls(figure, match[2] == "<=", float(match[3]) * scale, text.strip())

    def miss(self, report: Report) -> str | None:
        """Return a sentence on how ``report`` misses the bound; None: it keeps it."""
        value = self._value(report)
        if value <= self.bound if self.at_most else value >= self.bound:
            return None
        shown = f"{value:.1%}" if self.figure == "refused" else f"{value:,.6g}"
        return f"{self.text} is missed: it is {shown}{' us' if self.figure in _TIMES else ''}"

    def _value(self, report: Report) -> float:
        if self.figure in _TIMES:
            return float(getattr(report.latency[Kind.MAP], self.figure))
        if self.figure == "ops_per_s":
            return report.traffic.ops_per_s
        if self.figure == "jain":
            return report.fairness
        return (report.attempts - report.successes) / max(report.attempts, 1)
