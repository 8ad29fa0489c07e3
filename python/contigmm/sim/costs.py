"""What steps of the allocator cost: files that ``contigmm calibrate`` writes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from contigmm import foreign_json
from contigmm.description import MachineDescription
from contigmm.errors import ContigmmError
from contigmm.phys import default_costs

SCHEMA: Final = "costs/1"
_U32_MAX: Final = 2**32 - 1
#: A setting of a machine that says what a step costs begins so.
_SETTING: Final = "cost_"


class CostsError(ContigmmError):
    """A file of costs cannot be used; the message is one sentence."""


def read_costs(path: Path) -> dict[str, int]:
    """Read a file of costs; a step that it does not name has its default.

    Raises:
        CostsError: there is no such file, or it does not hold costs.
    """
    try:
        content = foreign_json.loads(path.read_text())
    except OSError as error:
        raise CostsError(f"{path}: {error.strerror}.") from error
    except ValueError as error:
        raise CostsError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise CostsError(f'{path} does not say "schema": "{SCHEMA}".')
    return checked_costs(content.get("costs"), str(path))


def checked_costs(told: object, source: str) -> dict[str, int]:
    """Return these costs with the defaults of the others.

    Raises:
        CostsError: a step is unknown, or its cost no number of ns that a step can take.
    """
    costs = default_costs()
    if not isinstance(told, dict):
        raise CostsError(f"{source} has no table of costs.")
    for name, value in told.items():
        if name not in costs:
            raise CostsError(f"{source}: no step is called {name!r}.")
        if type(value) is not int or not 0 <= value <= _U32_MAX:
            raise CostsError(f"{source}: {name} is {value!r}, no number from 0 to {_U32_MAX}.")
        costs[name] = value
    return costs


def with_costs(description: MachineDescription, costs: Mapping[str, int]) -> MachineDescription:
    """Return the same machine with these costs, as settings."""
    told = {_SETTING + name: value for name, value in costs.items()}
    return replace(description, settings={**description.settings, **told})


def costs_of(settings: Mapping[str, int | str]) -> dict[str, int]:
    """Return the costs that a machine's settings tell, and the defaults of the others.

    Raises:
        CostsError: a setting names no step, or is no number of ns that a step can take.
    """
    told = {
        name.removeprefix(_SETTING): value
        for name, value in settings.items()
        if name.startswith(_SETTING)
    }
    return checked_costs(told, "The machine's settings")
