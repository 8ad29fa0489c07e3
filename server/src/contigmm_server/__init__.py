"""The gRPC service of contigmm."""

import os
from typing import Final

GRPC_EXPERIMENTS: Final = "-event_engine_listener"
"""Let the thread that waits for gRPC's events also read and write the sockets.

gRPC 1.85 hands every event to that thread from one of its event engine. Whoever sets the variable
of this name decides: see gRPC's doc/environment_variables.md.
"""

os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)  # gRPC reads it when it is imported
