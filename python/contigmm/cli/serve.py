"""``contigmm serve``: hands over to the server, which is a distribution of its own."""

import typer


def serve(context: typer.Context) -> None:
    """Serve machines over gRPC (options: serve --help)."""
    from contigmm.load.own_server import find_server

    raise typer.Exit(find_server()(context.args) or 0)
