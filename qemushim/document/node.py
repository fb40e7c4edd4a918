"""``Node``: one element of a document, light enough that a whole guest is copied in microseconds.

A tree of our own rather than lxml's: it is pure Python data (copied, pickled and compared without a C library), it
keeps comments, unknown elements and the user's white space, and it knows its line beyond libxml2's limit of 65,535.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

#: ``Node.tag`` of a comment, whose words are ``Node.text``
COMMENT = "#comment"

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
#: how elements of that namespace are tagged here, whatever prefix the document uses
QEMU_PREFIX = "qemu:"


@cache
def _steps(path: str) -> tuple[tuple[str, ...], str]:
    """``a/b/@name`` → tags and the attribute; paths are written in the program, so there are not many."""
    head, at, name = path.rpartition("@")
    if not at:
        head, name = path, ""
    return tuple(step for step in head.split("/") if step), name


_new = object.__new__


class Node:
    """An element: tag, attributes, children, the text before the first child and behind the end tag, its line."""

    __slots__ = ("attrib", "children", "line", "origin", "tag", "tail", "text")

    def __init__(
        self,
        tag: str,
        attrib: dict[str, str] | None = None,
        *,
        text: str = "",
        line: int = 0,
        children: list[Node] | None = None,
    ) -> None:
        self.tag = tag
        self.attrib: dict[str, str] = attrib if attrib is not None else {}
        self.children: list[Node] = children if children is not None else []
        self.text = text
        self.tail = ""
        #: line of the start tag in the user's document, 0 for what was added
        self.line = line
        #: its number among the elements of that document, from 0; -1 for what was added
        self.origin = -1

    def __repr__(self) -> str:
        attributes = "".join(f" {k}={v!r}" for k, v in self.attrib.items())
        return f"<{self.tag}{attributes}> line {self.line}"

    def __iter__(self) -> Iterator[Node]:
        return iter(self.children)

    def get(self, name: str, default: str | None = None) -> str | None:
        return self.attrib.get(name, default)

    def set(self, name: str, value: str | int) -> None:
        self.attrib[name] = str(value)

    def drop(self, *names: str) -> None:
        """Remove attributes; absent ones are no mistake."""
        for name in names:
            self.attrib.pop(name, None)

    def child(self, tag: str) -> Node | None:
        """The first child of that tag."""
        for node in self.children:
            if node.tag == tag:
                return node
        return None

    def first(self) -> dict[str, Node]:
        """Tag → the first child of that tag, for who is going to look for many."""
        return {node.tag: node for node in reversed(self.children)}

    def all(self, tag: str) -> list[Node]:
        return [node for node in self.children if node.tag == tag]

    def find(self, path: str) -> Node | None:
        """The first element at ``a/b/c`` below this one."""
        return self.descend(_steps(path)[0])

    def descend(self, steps: tuple[str, ...]) -> Node | None:
        """The same, the path taken apart already."""
        here = self
        for tag in steps:
            for node in here.children:
                if node.tag == tag:
                    here = node
                    break
            else:
                return None
        return here

    def value(self, path: str) -> str | None:
        """Raw text at ``a/b/@name``, ``@name``, or the text of ``a/b``; ``None`` where it is not."""
        steps, name = _steps(path)
        node = self
        for tag in steps:
            for child in node.children:
                if child.tag == tag:
                    node = child
                    break
            else:
                return None
        return node.attrib.get(name) if name else node.text.strip()

    def ensure(self, path: str) -> Node:
        """The element at ``a/b/c`` below this one, made where missing."""
        node = self
        for tag in _steps(path)[0]:
            found = node.child(tag)
            if found is None:
                found = node.add(tag)
            node = found
        return node

    def add(self, tag: str, attrib: dict[str, str] | None = None, *, text: str = "") -> Node:
        """Append a new child and return it.  A new element speaks of the line of the one that it is in."""
        node = Node(tag, attrib, text=text, line=self.line)
        self.children.append(node)
        return node

    def append(self, node: Node) -> Node:
        self.children.append(node)
        return node

    def remove(self, node: Node) -> None:
        """Remove a child (by identity)."""
        for i, child in enumerate(self.children):
            if child is node:
                del self.children[i]
                return
        raise AssertionError(f"{node!r} is no child of {self!r}")

    def discard(self, tag: str) -> None:
        """Remove every child of that tag."""
        if self.child(tag) is not None:
            self.children = [node for node in self.children if node.tag != tag]

    def copy(self) -> Node:
        # what __init__ would do, in half the time
        twin = _new(Node)
        twin.tag = self.tag
        twin.attrib = self.attrib.copy()
        twin.children = [child.copy() for child in self.children] if self.children else []
        twin.text = self.text
        twin.tail = self.tail
        twin.line = self.line
        twin.origin = self.origin
        return twin

    def iter(self) -> Iterator[Node]:
        """This element and all below it, in document order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))
