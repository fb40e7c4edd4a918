"""Which declared fields do the golden documents exercise?"""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.document.fields import Choice, Field
from qemushim.document.item import Item, Schema
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.document.sizes import KibUnit
from qemushim.machine.domain import Domain
from tests.goldens import GOLDEN, cases

#: declared fields that no golden document gives a value → why none can
EXCUSED: dict[str, str] = {
    "bootloader": "refused: QEMU has none",
    "bootloader_args": "goes with the boot loader",
    "devices/controller[xenbus]/@maxEventChannels": "refused: a PC of QEMU has no Xen bus",
    "devices/controller[xenbus]/@maxGrantFrames": "goes with the Xen bus",
    "devices/graphics[desktop]/@display": "refused: QEMU has no VirtualBox",
    "devices/graphics[desktop]/@fullscreen": "refused: QEMU has no VirtualBox",
    "devices/filesystem/source/@dev": "refused: QEMU mounts folders alone",
    "devices/filesystem/source/@file": "refused: QEMU mounts folders alone",
    "devices/hostdev/source/@writeFiltering": "refused: Xen's alone",
}


def schemas(tag: str, kind: type[Item]) -> Iterator[tuple[str, Schema]]:
    """The schema of a kind of element, or ``TAG[TYPE]`` and the schema of each of its types where they differ."""
    if kind.schema_for.__func__ is Item.schema_for.__func__:  # type: ignore[attr-defined]
        yield tag, kind.schema
        return
    types = kind.fields.get("type")
    for word in types.values if isinstance(types, Choice) else ():
        yield f"{tag}[{word}]", kind.schema_for(Node(kind.tag, {"type": word}))
    yield tag, kind.schema_for(Node(kind.tag))


def can_be_said(field: Field[object]) -> bool:
    """Whether a document can give the field a value of its own."""
    if isinstance(field, KibUnit):
        return False  # goes along with its size
    return not field.live and not (isinstance(field, Choice) and not field.values)


def declared(schema: Schema, path: str, known: set[int]) -> Iterator[tuple[int, str]]:
    """Every field of a schema and below, each schema once: the field's identity, and its path in the document."""
    if id(schema) in known:
        return
    known.add(id(schema))
    for name, field in schema.attributes.items():
        if can_be_said(field):
            yield id(field), f"{path}@{name}"
    if schema.text is not None:
        yield id(schema.text), path.rstrip("/")
    for tag, child in schema.children.items():
        found = [(tag, child.own)] if child.field is None else schemas(tag, child.field.item_class())
        for name, below in found:
            yield from declared(below, f"{path}{name}/", known)


def exercised(node: Node, schema: Schema) -> Iterator[int]:
    """The identity of every field that a document gives a value."""
    for name in node.attrib:
        field: Field[object] | None = schema.attributes.get(name)
        if field is not None:
            yield id(field)
    if schema.text is not None and node.text.strip():
        yield id(schema.text)
    for child in node.children:
        kind = schema.children.get(child.tag)
        if kind is not None and not kind.verbatim:
            yield from exercised(child, kind.schema(child))


def never_exercised() -> list[str]:
    """Paths of the declared fields that no accepted golden document and no golden definition gives a value."""
    seen: set[int] = set()
    documents = {case.path for case in cases() if case.file("xml").exists()}
    for path in documents | {case.file("xml") for case in cases() if case.file("xml").exists()}:
        seen.update(exercised(parse(path.read_bytes()), Domain.schema))
    for path in GOLDEN.glob("*.attach/*.xml"):
        root = parse(path.read_bytes())
        seen.update(
            exercised(Node("devices", children=[root]), Domain.schema.children["devices"].schema(root))
        )
    fields: dict[int, str] = {}
    for identity, place in declared(Domain.schema, "", set()):
        fields.setdefault(identity, place)
    return sorted({place for identity, place in fields.items() if identity not in seen})
