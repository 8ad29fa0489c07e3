"""What one server takes on before it says no."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
CHUNK_BYTES = MIB
"""Most bytes of payload in one message of a bulk answer."""
READ_BYTES = 64 * KIB
"""Most bytes of one ``read`` or ``write`` operation."""
BATCH_READ_BYTES = MIB
"""Most bytes of all ``read`` operations of a batch together."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a server; GetServer tells them."""

    machines: int = 16
    frames: int = 1 << 29
    """Frames of one machine: 2 TiB."""
    replay_frames: int = 1 << 24
    """Frames of the memory of one ReplayKmem: 64 GiB. Each takes four bytes from the start."""
    queue: int = 1024
    """Commands that wait for one machine."""
    message_bytes: int = 4 * MIB
    """One message received."""
    metadata_bytes: int = 16 * KIB
    rpcs: int = 4096
    """Calls in progress, streams included."""
    streams_per_connection: int = 1024
    upload_packed_bytes: int = 64 * MIB
    upload_unpacked_bytes: int = 512 * MIB
    replies: int = 65_536
    """Request ids that a machine remembers."""
    reply_bytes: int = 64 * MIB
    """Requests and answers kept for them, as on the wire."""
    sessions: int = 1024
    """Sessions without a stream that a machine remembers."""
    session_kept_operations: int = 4 * 4096
    """Operations of a session whose answers are kept for a client that comes back."""
    session_kept_bytes: int = 4 * MIB
    """Those answers together, as on the wire."""
    sessions_bytes: int = 64 * MIB
    """Answers that all sessions of a machine keep."""
    page_of_processes: int = 1000
    page_of_machines: int = 100
