"""``python -m contigmm.cli``: the same as the command ``contigmm``."""

import sys

from contigmm.cli.app import main

sys.exit(main())
