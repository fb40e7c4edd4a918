"""Which declared fields do the golden documents exercise?"""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.document.fields import Choice, Field, KibUnit
from qemushim.document.item import Item, Schema
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.machine.domain import Domain
from tests.goldens import GOLDEN, cases

#: declared fields that no golden document gives a value → why none can
EXCUSED: dict[str, str] = {}


def schemas(kind: type[Item]) -> Iterator[Schema]:
    """The schema of a kind of element, or those of all its types where they differ."""
    if kind.schema_for.__func__ is Item.schema_for.__func__:  # type: ignore[attr-defined]
        yield kind.schema
        return
    types = kind.fields.get("type")
    for word in (*(types.values if isinstance(types, Choice) else ()), ""):
        yield kind.schema_for(Node(kind.tag, {"type": word} if word else {}))


def declared(schema: Schema, path: str, known: set[int]) -> Iterator[tuple[int, str]]:
    """Every field of a schema and below, each schema once: the field's identity, and its path in the document."""
    if id(schema) in known:
        return
    known.add(id(schema))
    for name, field in schema.attributes.items():
        if not isinstance(field, KibUnit):  # goes along with its size
            yield id(field), f"{path}@{name}"
    if schema.text is not None:
        yield id(schema.text), path.rstrip("/")
    for tag, child in schema.children.items():
        for below in [child.own] if child.field is None else schemas(child.field.item_class()):
            yield from declared(below, f"{path}{tag}/", known)


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
        seen.update(exercised(Node("devices", children=[root]), Domain.schema.children["devices"].schema(root)))
    fields: dict[int, str] = {}
    for identity, path in declared(Domain.schema, "", set()):
        fields.setdefault(identity, path)
    return sorted({path for identity, path in fields.items() if identity not in seen})
