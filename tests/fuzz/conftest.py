"""Made-up recordings and ways to spoil are importable by their bare names."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "replay")]
