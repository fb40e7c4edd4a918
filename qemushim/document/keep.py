"""A definition written into the user's own text: layout, comments, quotes and order stay, only what is new is added.

The text is edited in place rather than written anew, so what nobody asked to change does not change by a byte, and a
document that already says everything comes back as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from xml.parsers import expat

from qemushim.document.item import Child, Schema
from qemushim.document.node import COMMENT, Node
from qemushim.document.parse import parse
from qemushim.document.sizes import Size
from qemushim.document.writer import escape, write

_DECLARED = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")

#: remarks at the end of a line
_REMARKS = re.compile(rb"[ \t]*(?:<!--[^\n]*?-->[ \t]*)+(?=\r?\n)")


class Place(NamedTuple):
    """Where an element stands in the text, in bytes."""

    #: of ``<``
    start: int
    #: behind the ``>`` of the start tag
    inside: int
    #: of ``</``, or the same as ``inside`` of ``<x/>``
    close: int
    #: behind the last ``>``
    end: int

    @property
    def is_empty(self) -> bool:
        """``<x/>``"""
        return self.close == self.end


def as_utf8(text: str | bytes) -> bytes:
    """The text in UTF-8, with a declaration that says so where there is one."""
    if isinstance(text, str):
        return text.encode()
    found = _DECLARED.match(text)
    encoding = found[1].decode() if found else "utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    if encoding.lower() in ("utf-8", "utf8", "us-ascii", "ascii"):
        return text
    return re.sub(
        r"(encoding\s*=\s*[\"'])[A-Za-z0-9._-]+", r"\1UTF-8", text.decode(encoding), count=1
    ).encode()


def places(text: bytes) -> list[Place]:
    """The place of every element, in document order."""
    found: list[list[int]] = []
    stack: list[int] = []
    parser = expat.ParserCreate()

    def start(_tag: str, _attrib: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        stack.append(len(found))
        found.append([at, _tag_end(text, at), 0, 0])

    def end(_tag: str) -> None:
        place = found[stack.pop()]
        if text[place[1] - 2 : place[1]] == b"/>":
            place[2] = place[3] = place[1]
        else:
            place[2] = parser.CurrentByteIndex
            place[3] = text.index(b">", place[2]) + 1

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.Parse(text, True)
    return [Place(*place) for place in found]


def _tag_end(text: bytes, at: int) -> int:
    """Behind the ``>`` of the start tag at ``at``; one in a quoted value does not count."""
    quote = 0
    for i in range(at, len(text)):
        byte = text[i]
        if quote:
            quote = 0 if byte == quote else quote
        elif byte in b"\"'":
            quote = byte
        elif byte == 0x3E:
            return i + 1
    raise AssertionError("a parsed document has its tags closed")


class _Editor:
    """Collects changes of a text, and makes them all at once."""

    def __init__(self, text: bytes, removed: frozenset[int]) -> None:
        self.text = text
        self.removed = removed
        self.places = places(text)
        #: (offset, length to remove, what to put there), in the order of asking
        self.edits: list[tuple[int, int, bytes]] = []

    def origin(self, node: Node) -> Place | None:
        return None if node.origin < 0 else self.places[node.origin]

    def result(self) -> bytes:
        parts: list[bytes] = []
        at = 0
        for offset, length, new in sorted(self.edits, key=lambda edit: edit[0]):
            parts += [self.text[at:offset], new]
            at = max(at, offset + length)
        return b"".join([*parts, self.text[at:]])

    # -- one element -----------------------------------------------------------------------------------------------

    def merge(self, node: Node, given: Node, schema: Schema) -> None:
        """Bring what ``node`` says more than ``given``, the user's own element, into the text."""
        place = self.origin(node)
        assert place is not None
        same_size = self._text(node, given, schema, place)
        for name, value in node.attrib.items():
            field = schema.attributes.get(name)
            if field is None or (name == "unit" and same_size):
                continue
            old = given.attrib.get(name)
            new = field.canonical(value, node)
            if new is not None and (old is None or field.canonical(old, given) != new):
                self._attribute(place, name, new, replace=old is not None)
        self._children(node, given, schema, place)

    def _text(self, node: Node, given: Node, schema: Schema, place: Place) -> bool:
        """Bring the text up to date; whether it is a size that did not change."""
        field = schema.text
        if field is None or not node.text.strip():
            return False
        new = field.canonical(node.text.strip(), node)
        old = field.canonical(given.text.strip(), given) if given.text.strip() else None
        if new == old or new is None:
            return isinstance(field, Size)
        content = escape(new).encode()
        if place.is_empty:
            self._open(node, place, content)
        else:
            self.edits.append((place.inside, place.close - place.inside, content))
        return False

    def _attribute(self, place: Place, name: str, value: str, *, replace: bool) -> None:
        tag = self.text[place.start : place.inside]
        quote = b'"' if b'"' in tag and b"'" not in tag else b"'"
        # escape() leaves neither kind of quote in the value
        written = name.encode() + b"=" + quote + escape(value).encode() + quote
        if replace:
            pattern = rb"\s(" + re.escape(name.encode()) + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*'))"
            found = re.search(pattern, tag)
            assert found is not None, f"{name} is in {tag!r}"
            self.edits.append((place.start + found.start(1), found.end(1) - found.start(1), written))
            return
        body = tag[: -2 if tag.endswith(b"/>") else -1].rstrip()
        self.edits.append((place.start + len(body), 0, b" " + written))

    def _open(self, node: Node, place: Place, content: bytes) -> None:
        """``<x/>`` becomes ``<x>content</x>``."""
        slash = place.inside - 2
        self.edits.append((slash, 2, b">" + content + b"</" + node.tag.encode() + b">"))

    # -- children --------------------------------------------------------------------------------------------------

    def _children(self, node: Node, given: Node, schema: Schema, place: Place) -> None:
        by_origin = {child.origin: child for child in given.children if child.origin >= 0}
        known = set(by_origin)
        order = {tag: number for number, tag in enumerate(schema.children)}
        added: list[tuple[Child, Node]] = []
        for child in node.children:
            kind = schema.children.get(child.tag)
            if kind is None or child.tag == COMMENT or kind.verbatim:
                continue
            # one element may have become several
            given_child = by_origin.pop(child.origin, None)
            if given_child is not None:
                self.merge(child, given_child, kind.schema(child))
            elif child.origin < 0 or child.origin in known:
                added.append((kind, child))
        for origin in self.removed & known:
            self._remove(self.places[origin])
        if added:
            self._add(node, added, order, place)

    def _add(
        self, node: Node, added: list[tuple[Child, Node]], order: Mapping[str, int], place: Place
    ) -> None:
        """Each new child behind the last one of the user's that libvirt would write before it."""
        indent = self._indent(node, place)
        standing = [
            (order[c.tag], p) for c in node.children if c.tag in order and (p := self.origin(c)) is not None
        ]
        at_start: list[bytes] = []
        for kind, child in sorted(added, key=lambda pair: order[pair[1].tag]):
            lines = write(child, kind.schema(child)).rstrip("\n").split("\n")
            if not kind.keep_empty and lines == [f"<{child.tag}/>"]:
                continue
            content = self._laid_out(lines, indent)
            before = [p.end for number, p in standing if number <= order[child.tag]]
            if before:
                self.edits.append(
                    (self._line_end(max(before)) if indent is not None else max(before), 0, content)
                )
            else:
                at_start.append(content)
        if not at_start:
            return
        inner = self.text[place.inside : place.close]
        # where the end tag stood on the line of the start tag, it gets one of its own
        own_line = indent is not None and not inner.strip() and b"\n" not in inner
        content = b"".join(at_start) + (b"\n" + self._before(place.start) if own_line else b"")
        if place.is_empty:
            self._open(node, place, content)
        else:
            self.edits.append((place.inside, 0, content))

    def _laid_out(self, lines: list[str], indent: bytes | None) -> bytes:
        """Lines of a new element as the user indents; all on one line where the user does not."""
        if indent is None:
            return b"".join(line.strip().encode() for line in lines)
        unit = b"\t" if indent[-1:] == b"\t" else b"  "
        out = b""
        for line in lines:
            bare = line.lstrip(" ")
            out += b"\n" + indent + unit * ((len(line) - len(bare)) // 2) + bare.encode()
        return out

    def _line_end(self, at: int) -> int:
        """Behind the comments that follow on the same line, where nothing else does."""
        rest = _REMARKS.match(self.text, at)
        return rest.end() if rest else at

    def _indent(self, node: Node, place: Place) -> bytes | None:
        """The white space before the children; ``None`` where they stand on their parent's line."""
        for child in node.children:
            found = self.origin(child)
            if found is not None:
                return self._before(found.start) if b"\n" in self.text[place.start : found.start] else None
        outer = self._before(place.start)
        return outer + (b"\t" if outer[-1:] == b"\t" else b"  ")

    def _before(self, at: int) -> bytes:
        line = self.text[self.text.rfind(b"\n", 0, at) + 1 : at]
        return line[: len(line) - len(line.lstrip(b" \t"))]

    def _remove(self, place: Place) -> None:
        """The element, with its line where it has one of its own."""
        start, end = place.start, place.end
        line = self.text.rfind(b"\n", 0, start) + 1
        rest = self.text.find(b"\n", end)
        if not self.text[line:start].strip() and rest >= 0 and not self.text[end:rest].strip():
            start, end = line, rest + 1
        self.edits.append((start, end - start, b""))


def merge(text: str | bytes, node: Node, schema: Schema, removed: frozenset[int] = frozenset()) -> bytes:
    """``text`` in UTF-8, with what the definition ``node`` says more than the text does.

    ``node`` comes of a parse of ``text`` (see ``Node.origin``); ``removed`` are the origins of elements that were taken
    out on purpose.
    """
    source = as_utf8(text)
    editor = _Editor(source, removed)
    editor.merge(node, parse(source), schema)
    return editor.result()
