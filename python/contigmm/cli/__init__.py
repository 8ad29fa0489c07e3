"""The command line. ``contigmm --help`` needs the library's own dependencies only."""

from contigmm.cli.app import main

__all__ = ["main"]
