"""A load as a value: who asks for what, when, on which machine.

The options of ``contigmm load`` and a YAML file make the same :class:`Scenario`, checked by the
same rules. Unknown fields, wrong types and absurd values are refused with the place where they
stand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from contigmm.load.arrival import Arrival
from contigmm.load.sizes import Chances, Hold, LoadInputError, SizeMix, parse_bytes

RLIM_INFINITY: Final = 2**64 - 1  # include/uapi/asm-generic/resource.h, v6.12
MAX_PROCESSES: Final = 100_000
_MAX_FILE_BYTES: Final = 1 << 20

Place = tuple[str | int, ...]
"""Keys and indices that lead from the top of a document to a value."""


def _sizes(given: object) -> SizeMix:
    if isinstance(given, Mapping):
        given = ",".join(f"{size}:{weight}" for size, weight in given.items())
    if not isinstance(given, str | int) or isinstance(given, bool):
        raise LoadInputError("sizes are named with weights, such as {64K: 50, 2M: 30}")
    return SizeMix.parse(str(given))


def _hold(given: object) -> Hold | None:
    return None if given == "auto" else Hold.parse(_word(given))


def _memlock(given: object) -> int:
    return RLIM_INFINITY if given == "unlimited" else parse_bytes(_word(given))


def _arrival(given: object) -> Arrival:
    return Arrival.parse(_word(given))


def _word(given: object) -> str:
    """Take a word or a number, as YAML reads them, for the text that a person wrote."""
    if not isinstance(given, str | int) or isinstance(given, bool):
        raise LoadInputError(f"{given!r} is neither a word nor a number")
    return str(given)


Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Group(_Part):
    """Simulated processes that are alike."""

    name: str = Field(default="load", pattern=r"^[\w-]{1,32}$")
    processes: int = Field(ge=1, le=MAX_PROCESSES)
    sizes: Annotated[SizeMix, BeforeValidator(_sizes)]
    memory: Literal["contig", "ordinary"] = "contig"
    """``MAP_CONTIG``, or what any program has: pages one by one, when they are touched."""
    hold: Annotated[Hold | None, BeforeValidator(_hold)] = None
    """None: so that ``pressure`` times the free memory is wanted at once."""
    memlock: Annotated[int, BeforeValidator(_memlock)] = RLIM_INFINITY
    """``RLIMIT_MEMLOCK`` in bytes."""
    pin: Share = 0.0
    """Chance that an ordinary mapping is locked by mlock(2)."""
    fork: Share = 0.0
    """Chance that a request is followed by a fork, whose child writes what it has inherited."""
    kill: Share = 0.0
    """Chance that a process is killed after a request, and another takes its place."""

    @model_validator(mode="after")
    def _no_pin_twice(self) -> "Group":
        if self.pin and self.memory == "contig":
            raise LoadInputError("pin is for ordinary memory: what is contiguous is pinned anyway")
        return self

    @property
    def chances(self) -> Chances:
        """What else happens with a request."""
        return Chances(self.pin, self.fork, self.kill)


class Phase(_Part):
    """A stretch of the measured time in which requests come in one way."""

    name: str = Field(default="measured", pattern=r"^[\w-]{1,32}$")
    seconds: float = Field(ge=0.1, le=86_400)
    arrival: Annotated[Arrival, BeforeValidator(_arrival)] = Arrival()


class Scenario(_Part):
    """A load that can be run."""

    question: str = ""
    """What it is to answer, in a sentence."""
    machine: str | None = None
    """host:, file:PATH or spec:NAME."""
    seed: int = 0
    ageing: Share = 0.0
    """Share of free memory that is broken up by scattered pages first."""
    occupancy: Share = 0.97
    pressure: float = Field(default=2.5, ge=0.01, le=1000)
    reclaim: bool = False
    """Whether requests compact and reclaim before they are refused."""
    groups: tuple[Group, ...] = Field(min_length=1, max_length=16, strict=False)
    phases: tuple[Phase, ...] = Field(min_length=1, max_length=64, strict=False)

    @model_validator(mode="after")
    def _names_differ(self) -> "Scenario":
        for parts in (self.groups, self.phases):
            names = [part.name for part in parts]
            if twice := [name for name in names if names.count(name) > 1]:
                raise LoadInputError(f"the name {twice[0]!r} is given twice")
        return self

    @property
    def nr_processes(self) -> int:
        """Simulated processes of all groups."""
        return sum(group.processes for group in self.groups)

    @property
    def duration_s(self) -> float:
        """Measured seconds of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def sizes_bytes(self) -> tuple[int, ...]:
        """Sizes of all groups, ascending."""
        return tuple(sorted({size for group in self.groups for size in group.sizes.sizes_bytes}))

    @property
    def forks(self) -> bool:
        """Whether processes may share pages."""
        return any(group.fork for group in self.groups)

    def group_of(self, process_index: int) -> int:
        """Return the index of the group that a process belongs to; groups follow each other."""
        for index, group in enumerate(self.groups):
            if process_index < group.processes:
                return index
            process_index -= group.processes
        raise IndexError(f"process {process_index} is of no group")

    def holds(self, usable_bytes: int) -> tuple[Hold, ...]:
        """Return how long each group holds; those that leave it open share the pressure."""
        wanted_bytes = self.pressure * usable_bytes
        a_round = sum(
            group.processes * group.sizes.mean_bytes for group in self.groups if group.hold is None
        )
        return tuple(group.hold or Hold.around(wanted_bytes / a_round) for group in self.groups)

    def lasting(self, seconds: float) -> "Scenario":
        """Return the same scenario with its phases stretched or cut to ``seconds`` in all."""
        scale = seconds / self.duration_s
        return self.model_copy(
            update={
                "phases": tuple(
                    phase.model_copy(update={"seconds": phase.seconds * scale})
                    for phase in self.phases
                )
            }
        )


def scenario_of(document: object) -> Scenario:
    """Check a document of the form that YAML files have, and make the scenario.

    Raises:
        LoadInputError: A field is unknown, missing, or has no such value.
    """
    return _checked(document, "", {})


def read_scenario(path: Path) -> Scenario:
    """Read a YAML file.

    Raises:
        LoadInputError: It is no YAML, or no scenario; the sentence names file, line and field.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_MAX_FILE_BYTES + 1)
    if len(text) > _MAX_FILE_BYTES:
        raise LoadInputError(f"{path}: a scenario has at most {_MAX_FILE_BYTES:,} bytes")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise LoadInputError(f"{path}: a scenario repeats itself in words, not by *aliases")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[Place, int] = {(): 1}
        if root is not None:
            _note_lines(root, (), lines, str(path))
        document = yaml.safe_load(text)
    except LoadInputError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise LoadInputError(f"{path}{line}: {error.problem or 'this is no YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise LoadInputError(f"{path}: this is no YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise LoadInputError(f"{path}: this is nested too deeply to be a scenario") from error
    return _checked(document, str(path), lines)


def _note_lines(node: yaml.Node, place: Place, lines: dict[Place, int], source: str) -> None:
    """Note on which line each value stands, and refuse a key that is there twice."""
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*place, index), lines, source)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            if inner in lines:
                raise LoadInputError(
                    f"{source}:{key.start_mark.line + 1}: {_path(inner)} is given twice"
                )
            _note_lines(value, inner, lines, source)
            lines[inner] = key.start_mark.line + 1


def _checked(document: object, source: str, lines: Mapping[Place, int]) -> Scenario:
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = tuple(first["loc"])
        raise LoadInputError(_sentence(first, place, source, lines)) from error


def _sentence(
    error: Mapping[str, Any], place: Place, source: str, lines: Mapping[Place, int]
) -> str:
    """Say what is wrong with one field, and where it stands."""
    cause = error.get("ctx", {}).get("error")
    if error["type"] == "extra_forbidden":
        text = "there is no such field"
    elif error["type"] == "missing":
        text = "is missing"
    elif isinstance(cause, LoadInputError):
        text = str(cause)
    else:
        text = error["msg"][:1].lower() + error["msg"][1:]
    if not source:  # of the command line: the sentence quotes the option's value
        return text if isinstance(cause, LoadInputError) else f"{_path(place)}: {text}"
    known = next(lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in lines)
    return f"{source}:{known}: {_path(place)}: {text}"


def _path(place: Place) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return path.removeprefix(".") or "the scenario"
