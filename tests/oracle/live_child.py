"""Runs one case's system calls on the running kernel, in a process of its own; called by test_live.

Standard input: a JSON list of operations, each a name and integers. Standard output: a JSON list of
their results: what the call returned (a negative errno when refused), or for ``look`` the mappings
inside the window with their Rss, AnonHugePages and VmFlags.
"""

import ctypes
import json
import sys

NUMBERS = {
    "mmap": 9, "mprotect": 10, "munmap": 11, "mremap": 25, "madvise": 28, "mlock": 149,
    "munlock": 150, "mseal": 462,
}  # fmt: skip
WINDOW = range(0x10_0000_0000, 0x20_0000_0000)
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def call(name, arguments):
    words = [ctypes.c_ulong(word) for word in arguments]
    result = LIBC.syscall(ctypes.c_long(NUMBERS[name]), *words)
    return -ctypes.get_errno() if result == -1 else result


def look():
    found = []
    with open("/proc/self/smaps", encoding="ascii") as lines:
        for line in lines:
            head = line.split()
            if "-" in head[0] and not head[0].endswith(":"):
                start, end = (int(part, 16) for part in head[0].split("-"))
                row = [f"{start:x}-{end:x} {head[1]}", {}]
                if start in WINDOW:
                    found.append(row)
            elif head[0] in ("Rss:", "AnonHugePages:"):
                row[1][head[0][:-1]] = int(head[1])
            elif head[0] == "VmFlags:":
                row[1]["VmFlags"] = head[1:]
    return found


def policy(name, *arguments):
    """Calls about nodes: masks are integers, and come back as integers."""
    if name == "get_mempolicy":
        addr, flags = arguments
        mode, mask = ctypes.c_int(), ctypes.c_ulong()
        words = [ctypes.byref(mode), ctypes.byref(mask), ctypes.c_ulong(64)]
        words += [ctypes.c_ulong(addr), ctypes.c_ulong(flags)]
        result = LIBC.syscall(ctypes.c_long(239), *words)
        return -ctypes.get_errno() if result == -1 else [mode.value, mask.value]
    if name == "move_pages":
        pages, nodes, flags = arguments
        count = len(pages)
        addresses = (ctypes.c_void_p * count)(*pages)
        wanted = None if nodes is None else (ctypes.c_int * count)(*nodes)
        status = (ctypes.c_int * count)(*[99] * count)
        words = [ctypes.c_ulong(0), ctypes.c_ulong(count), addresses, wanted, status]
        result = LIBC.syscall(ctypes.c_long(279), *words, ctypes.c_ulong(flags))
        return -ctypes.get_errno() if result == -1 else [result, *status]
    *plain, mode, nodes = arguments[: 4 if name == "mbind" else 2]
    mask = ctypes.c_ulong(nodes)
    words = [*map(ctypes.c_ulong, [*plain, mode]), ctypes.byref(mask), ctypes.c_ulong(65)]
    words += map(ctypes.c_ulong, arguments[4:])
    result = LIBC.syscall(ctypes.c_long({"mbind": 237, "set_mempolicy": 238}[name]), *words)
    return -ctypes.get_errno() if result == -1 else result


def run(name, *arguments):
    if name in ("get_mempolicy", "set_mempolicy", "mbind", "move_pages"):
        return policy(name, *arguments)
    if name == "look":
        return look()
    if name == "store":
        addr, pages, byte = arguments
        for page in range(pages):
            ctypes.c_ubyte.from_address(addr + 4096 * page).value = (byte + page) & 255
        return pages
    if name == "load":
        addr, pages = arguments
        return [ctypes.c_ubyte.from_address(addr + 4096 * page).value for page in range(pages)]
    return call(name, arguments)


if __name__ == "__main__":
    json.dump([run(*operation) for operation in json.load(sys.stdin)], sys.stdout)
