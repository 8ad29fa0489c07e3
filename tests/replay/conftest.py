"""The made-up report is importable by its bare name, whatever imports the tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
