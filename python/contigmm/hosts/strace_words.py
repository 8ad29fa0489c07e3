"""Words of strace's arguments and the numbers that they stand for."""

import re
from typing import Final

from contigmm import abi

#: Names that strace prints and that no header gives a bit of its own, or that `abi` has no use for.
_OTHERS: Final = {
    "MAP_FILE": 0,
    "MREMAP_0": 0,
    "MAP_STACK": abi.MAP_STACK,
    "MADV_SOFT_OFFLINE": 101,
    "CLONE_VM": 0x100,
    "CLONE_VFORK": 0x4000,
    "CLONE_THREAD": 0x1_0000,
}
_WORDS: Final = {
    name: value
    for name, value in vars(abi).items()
    if name.startswith(("PROT_", "MAP_", "MREMAP_", "MADV_", "MS_", "MCL_", "MLOCK_"))
    and isinstance(value, int)
} | _OTHERS
_COMMENT: Final = re.compile(r"/\*.*?\*/")
_NUMBER: Final = re.compile(r"-?(?:0[xX][0-9a-fA-F]{1,32}|\d{1,40})")
_DESCRIPTOR: Final = re.compile(r"(-?\d{1,20})(?:<(.*)>)?(?:\s*\(deleted\))?", re.DOTALL)
#: A name of the kernel's ABI that this room need not know the number of, such as CLONE_FS.
_CLONE: Final = re.compile(r"flags=([^,})]*)")


def number(text: str) -> int:
    """Read an argument: a number, NULL, or words joined by ``|``; taken modulo 2**64.

    Raises:
        ValueError: a word that is unknown here, or no number at all.
    """
    total = 0
    for part in _COMMENT.sub("", text).split("|"):
        total |= _one(part.strip())
    return total & abi.U64_MAX


def _one(part: str) -> int:
    if part == "NULL":
        return 0
    if part in _WORDS:
        return _WORDS[part]
    if _NUMBER.fullmatch(part):
        # strace prints octal nowhere among these; a leading 0 is the number 0
        return int(part, 16) if part[:3].lower().lstrip("-").startswith("0x") else int(part)
    left, shifted, right = part.partition("<<")
    if shifted:
        return _one(left) << (_one(right) & 63)
    raise ValueError(f"{part!r} is no number and no word known here")


def descriptor(text: str) -> tuple[int, str]:
    """Read a file descriptor and, where strace was told ``-y``, the path behind it.

    Raises:
        ValueError: it is no descriptor.
    """
    found = _DESCRIPTOR.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no file descriptor")
    return int(found[1]), found[2] or ""


def clone_flags(arguments: str) -> int:
    """Return those of a clone's or clone3's flags that decide what is shared; others are left out.

    ``arguments`` is the text between the parentheses.
    """
    found = _CLONE.search(arguments)
    words = found[1].split("|") if found else []
    return sum(_OTHERS[word.strip()] for word in words if word.strip() in _OTHERS)
