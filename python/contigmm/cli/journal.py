"""``contigmm journal``: hands over to the server's distribution, which writes journals."""

from importlib.metadata import entry_points

import typer


def journal(context: typer.Context) -> None:
    """Look into journals of contigmm serve --data (options: journal --help)."""
    from contigmm.load.own_server import SERVER, NoServerError

    for entry_point in entry_points(group="contigmm.commands", name="journal"):
        raise typer.Exit(entry_point.load()(context.args) or 0)
    raise NoServerError(
        f"no server is installed: pip install {SERVER} (in a checkout: pip install ./server)"
    )
