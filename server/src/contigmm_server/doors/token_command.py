"""``contigmm-server token create|list|rotate|revoke``: the file of tokens on the command line."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contigmm_server.doors import tokens
from contigmm_server.doors.caller import Role

UNUSABLE: Final = 2
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_MAX_S: Final = 100 * 365 * 86_400


def _duration(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,12})([smhd])", text)
    seconds = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= _MAX_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 12h or 30d")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contigmm-server token",
        description="Change the file that serve --tokens FILE reads. A server that runs takes a "
        "change within half a second.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a token and print it, this once")
    create.add_argument("--tenant", required=True, metavar="NAME")
    create.add_argument("--role", required=True, choices=[role.name.lower() for role in Role])
    create.add_argument(
        "--expires-in", type=_duration, metavar="TIME", help="90s, 12h, 30d; without it: never"
    )
    listing = commands.add_parser("list", help="print id, tenant, role and times of every token")
    rotate = commands.add_parser("rotate", help="make the old secret void; print the new token")
    revoke = commands.add_parser("revoke", help="make a token void")
    for command in (rotate, revoke):
        command.add_argument("id", metavar="ID", help="the part of a token behind cmm_")
    for command in (create, listing, rotate, revoke):
        command.add_argument("--tokens", required=True, type=Path, metavar="FILE")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; give its exit status."""
    args = _parser().parse_args(arguments)
    try:
        sys.stdout.writelines(f"{line}\n" for line in _run(args))
    except tokens.TokenError as error:
        sys.stderr.write(f"contigmm-server token: {error}\n")
        return UNUSABLE
    return 0


def _run(args: argparse.Namespace) -> list[str]:
    if args.command == "create":
        role = Role[args.role.upper()]
        return [
            tokens.create(args.tokens, tenant=args.tenant, role=role, expires_in_s=args.expires_in)
        ]
    if args.command == "rotate":
        return [tokens.rotate(args.tokens, args.id)]
    if args.command == "revoke":
        tokens.revoke(args.tokens, args.id)
        return []
    return [
        f"{token.id}  {token.tenant:20}  {token.role.lower():6}  made {token.created}  "
        f"void from {token.expires or 'never'}"
        for token in tokens.read(args.tokens).values()
    ]
