"""Which declared fields do the golden documents exercise?"""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.document.fields import Field
from qemushim.document.item import Schema
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.errors import ShimError
from qemushim.machine.domain import Domain
from tests.goldens import GOLDEN

#: elements deep in one another (backing files of backing files) are declared again and again: this deep is enough
DEPTH = 9


def declared(schema: Schema, path: str = "", depth: int = 0) -> Iterator[tuple[int, str]]:
    """Every field of a schema and below: its identity, and its path in the document."""
    for name, field in schema.attributes.items():
        yield id(field), f"{path}@{name}"
    if schema.text is not None:
        yield id(schema.text), path.rstrip("/")
    if depth < DEPTH:
        for tag, child in schema.children.items():
            below = child.own if child.field is None else child.field.item_class().schema
            yield from declared(below, f"{path}{tag}/", depth + 1)


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
    """Paths of the declared fields that no golden document and no golden definition gives a value."""
    seen: set[int] = set()
    for path in [*GOLDEN.glob("*.xml"), *GOLDEN.glob("*.attach/*.xml")]:
        try:
            root = parse(path.read_bytes())
        except ShimError:
            continue  # a case of a broken document
        kind = Domain.schema.children["devices"].own if root.tag != "domain" else None
        if kind is None:
            seen.update(exercised(root, Domain.schema))
    fields: dict[int, str] = {}
    for identity, path in declared(Domain.schema):
        fields.setdefault(identity, path)
    return sorted(path for identity, path in fields.items() if identity not in seen)
