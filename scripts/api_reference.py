"""Writes docs/api.md, the reference of contigmm.v1, from the comments in protos/.

``scripts/api_reference.py`` writes it, with ``--check`` it only tells whether it is up to date.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

ROOT: Final = Path(__file__).resolve().parents[1]
OUT: Final = ROOT / "docs/api.md"
PACKAGE: Final = ".contigmm.v1."

# Numbers of fields in descriptor.proto, of which the paths of SourceCodeInfo are made.
_SYNTAX, _MESSAGE, _ENUM, _SERVICE = 12, 4, 5, 6
_FIELD, _ONEOF, _VALUE, _METHOD = 2, 8, 2, 2

# Files by what a reader looks for first; the others follow by name.
_FIRST: Final = ("machine", "process", "memory", "operation", "batch", "view", "description")

_HEAD: Final = """# contigmm.v1

The service's messages and methods, made from the comments in [protos/](../protos) by
`scripts/api_reference.py`. How a call travels is in [ARCHITECTURE.md](../ARCHITECTURE.md), how to
make one from five languages and the shell in [clients.md](clients.md).
"""


class Comments:
    """What stands above each declaration of a file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._at = {tuple(place.path): place for place in file.source_code_info.location}

    def of(self, *path: int) -> str:
        """Return the comment above a declaration, as one paragraph a paragraph."""
        place = self._at.get(path)
        return _unwrapped(place.leading_comments) if place else ""

    @property
    def head(self) -> str:
        """The comment at the top of the file."""
        place = self._at.get((_SYNTAX,))
        if place is None:
            return ""
        return _unwrapped("\n".join((*place.leading_detached_comments, place.leading_comments)))


def _unwrapped(comment: str) -> str:
    paragraphs = comment.strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _described() -> list[FileDescriptorProto]:
    """Compile the protos, comments included."""
    names = sorted((ROOT / "protos/contigmm/v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "protos.binpb"
        options = (f"-I{ROOT / 'protos'}", "--include_source_info", f"--descriptor_set_out={made}")
        google = Path(protoc.__file__).parent / "_proto"
        if protoc.main(["", *options, f"-I{google}", *map(str, names)]) != 0:
            sys.exit("api_reference: the protos do not compile")
        files = list(FileDescriptorSet.FromString(made.read_bytes()).file)
    order = {f"contigmm/v1/{name}.proto": place for place, name in enumerate(_FIRST)}
    return sorted(files, key=lambda file: (order.get(file.name, len(order)), file.name))


def _link(full_name: str) -> str:
    """Return a type's name, with a link where it is ours."""
    name = full_name.removeprefix(PACKAGE)
    if name == full_name:
        return f"`{full_name.removeprefix('.')}`"
    return f"[{name}](#{name.lower().replace('.', '')})"


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    if field.type_name:
        for nested in message.nested_type:
            if nested.options.map_entry and field.type_name.endswith(f".{nested.name}"):
                key, value = (_type(part, nested) for part in nested.field)
                return f"map of {key} to {value}"
        name = _link(field.type_name)
    else:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def _cell(text: str) -> str:
    return text.replace("\n\n", " ").replace("|", "\\|")


def _message(message: DescriptorProto, comments: Comments, *path: int) -> Iterator[str]:
    yield f"### {message.name}\n\n{comments.of(*path)}\n"
    if not message.field:
        return
    yield (
        "| field | number | type | meaning |\n|---|---|---|---|\n"
        + "\n".join(
            f"| `{field.name}` | {field.number} | {_type(field, message)}"
            f" | {_choice(field, message)}{_cell(comments.of(*path, _FIELD, place))} |"
            for place, field in enumerate(message.field)
        )
        + "\n"
    )
    for place, oneof in enumerate(message.oneof_decl):
        if said := comments.of(*path, _ONEOF, place):
            yield f"Of `{oneof.name}`: {said[0].lower()}{said[1:]}\n"
    for place, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(nested, comments, *path, 3, place)


def _choice(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Tell of a field which oneof it is in."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return f"(`{message.oneof_decl[field.oneof_index].name}`) "


def _enum(enum: EnumDescriptorProto, comments: Comments, *path: int) -> Iterator[str]:
    yield f"### {enum.name}\n\n{comments.of(*path)}\n"
    yield (
        "| value | number | meaning |\n|---|---|---|\n"
        + "\n".join(
            f"| `{value.name}` | {value.number} | {_cell(comments.of(*path, _VALUE, place))} |"
            for place, value in enumerate(enum.value)
        )
        + "\n"
    )


def _service(service: ServiceDescriptorProto, comments: Comments, *path: int) -> Iterator[str]:
    yield f"### {service.name}\n\n{comments.of(*path)}\n"
    yield (
        "| method | request | answer | meaning |\n|---|---|---|---|\n"
        + "\n".join(
            _method(method, comments.of(*path, _METHOD, place))
            for place, method in enumerate(service.method)
        )
        + "\n"
    )


def _method(method: MethodDescriptorProto, comment: str) -> str:
    sent = ("stream of " if method.client_streaming else "") + _link(method.input_type)
    got = ("stream of " if method.server_streaming else "") + _link(method.output_type)
    return f"| `{method.name}` | {sent} | {got} | {_cell(comment)} |"


def _sections(files: Sequence[FileDescriptorProto]) -> Iterator[str]:
    yield _HEAD
    yield (
        "\n".join(
            f"* [{file.name}](#{file.name.replace('/', '').replace('.', '')})" for file in files
        )
        + "\n"
    )
    for file in files:
        comments = Comments(file)
        yield f"## {file.name}\n\n{comments.head}\n"
        for place, service in enumerate(file.service):
            yield from _service(service, comments, _SERVICE, place)
        for place, message in enumerate(file.message_type):
            yield from _message(message, comments, _MESSAGE, place)
        for place, enum in enumerate(file.enum_type):
            yield from _enum(enum, comments, _ENUM, place)


def main() -> None:
    """Write docs/api.md, or compare it."""
    text = "\n".join(_sections(_described()))
    if sys.argv[1:] == ["--check"]:
        if not OUT.exists() or OUT.read_text(encoding="utf-8") != text:
            sys.exit("docs/api.md is out of date: run scripts/api_reference.py")
    elif sys.argv[1:]:
        sys.exit("usage: scripts/api_reference.py [--check]")
    else:
        OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
