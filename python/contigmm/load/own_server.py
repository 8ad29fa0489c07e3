"""A server of the load's own: another process, on loopback, that cannot outlive the load.

``python -m contigmm.load.own_server`` runs the installed server and asks it to stop when standard
input ends, which is when the process that holds its other end is gone, however it went.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from contigmm.errors import ContigmmError

SERVER: Final = "contigmm-server"


class NoServerError(ContigmmError):
    """No server is installed."""


def find_server() -> Callable[[list[str]], int | None]:
    """Return the main function of the installed server, which takes its arguments.

    Raises:
        NoServerError: None is installed, or what it needs is not.
    """
    for entry_point in entry_points(group="console_scripts", name=SERVER):
        try:
            found: Callable[[list[str]], int | None] = entry_point.load()
        except ModuleNotFoundError as missing:
            if (missing.name or "").startswith("contigmm"):
                raise  # a bug, not a package to install
            raise NoServerError(
                f"the server needs {missing.name}: pip install 'contigmm[grpc]'"
            ) from missing
        return found
    raise NoServerError(
        f"no server is installed: pip install {SERVER} (in a checkout: pip install ./server)"
    )


def _stop_at_end_of_input() -> None:
    while sys.stdin.buffer.read(1 << 16):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Run the server with the arguments given, for as long as standard input is open."""
    try:
        serve = find_server()
    except NoServerError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the coordinator reads it
        return 1
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    return serve(sys.argv[1:]) or 0


if __name__ == "__main__":
    sys.exit(main())
