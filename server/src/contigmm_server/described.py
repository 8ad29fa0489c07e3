"""Descriptions of machines between the wire and the library."""

from contigmm.description import DescriptionError, MachineDescription, ZoneDescription
from contigmm.v1 import description_pb2 as pb
from contigmm_server.failures import ErrorReason, invalid

MAX_CPUS = 1024
MAX_ZONES = 4096


def decode(wire: pb.MachineDescription) -> MachineDescription:
    """The description of a fresh machine.

    Raises:
        ServiceError: INVALID_ARGUMENT, it contradicts itself.
    """
    if len(wire.zones) > MAX_ZONES:
        raise invalid(ErrorReason.ERROR_REASON_TOO_LARGE, f"more than {MAX_ZONES} zones")
    nodes = sorted({zone.node for zone in wire.zones})
    if len(wire.distances) not in (0, len(nodes) ** 2):
        raise invalid(
            ErrorReason.ERROR_REASON_INVALID_FIELD,
            f"description.distances: {len(wire.distances)} numbers for {len(nodes)} nodes",
        )
    width = len(nodes)
    rows = tuple(
        tuple(wire.distances[first : first + width])
        for first in range(0, len(wire.distances), width or 1)
    )
    description = MachineDescription(
        zones=tuple(_zone(zone) for zone in wire.zones),
        nr_cpus=wire.cpus or 1,
        cpu_nodes=tuple(wire.cpu_nodes),
        distances=rows,
        settings=dict(wire.settings),
        origin=wire.origin,
        known=("Zones, CPUs and settings are as described; all managed memory is free.",),
    )
    try:
        description.check()
    except DescriptionError as error:
        raise invalid(ErrorReason.ERROR_REASON_INVALID_FIELD, f"description: {error}") from error
    return description


def _zone(wire: pb.ZoneDescription) -> ZoneDescription:
    present = wire.present or wire.spanned
    marks = wire.watermarks if wire.HasField("watermarks") else None
    return ZoneDescription(
        node=wire.node,
        name=wire.name,
        start_pfn=wire.start_pfn,
        spanned=wire.spanned,
        present=present,
        managed=wire.managed or present,
        watermark_min=marks.min if marks else None,
        watermark_low=marks.low if marks else None,
        watermark_high=marks.high if marks else None,
    )


def unpack(packed: bytes, most: int) -> MachineDescription:
    """The description of a machine in use, from its canonical bytes.

    Raises:
        ServiceError: INVALID_ARGUMENT, they cannot be read or are too large unpacked.
    """
    try:
        return MachineDescription.from_bytes(packed, max_unpacked=most)
    except DescriptionError as error:
        raise invalid(ErrorReason.ERROR_REASON_UNREADABLE_UPLOAD, str(error)) from error


def check_size(description: MachineDescription, cpus: int, most_frames: int) -> None:
    """Refuse what would cost the server too much.

    Raises:
        ServiceError: INVALID_ARGUMENT.
    """
    check_numbers(description.nr_frames, max(cpus, description.nr_cpus), most_frames)


def check_numbers(frames: int, cpus: int, most_frames: int) -> None:
    """Refuse a machine with so many frames and CPUs if it would cost the server too much.

    Raises:
        ServiceError: INVALID_ARGUMENT.
    """
    if frames > most_frames:
        raise invalid(
            ErrorReason.ERROR_REASON_TOO_LARGE,
            f"{frames} frames, this server runs machines of at most {most_frames}",
        )
    if cpus > MAX_CPUS:
        raise invalid(ErrorReason.ERROR_REASON_TOO_LARGE, f"more than {MAX_CPUS} CPUs")
