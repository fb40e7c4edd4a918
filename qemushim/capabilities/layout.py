"""The elements that capabilities are told in, and how they are written."""

from __future__ import annotations

from collections.abc import Iterable

from qemushim.document.node import Node
from qemushim.document.writer import escape


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def add_supported(parent: Node, tag: str, supported: bool = True, **attributes: str) -> Node:
    """``<tag supported='yes'>``; what else it says goes before ``supported``."""
    return parent.add(tag, {**attributes, "supported": yes_no(supported)})


def add_enum(parent: Node, name: str, values: Iterable[str]) -> None:
    """``<enum name='…'>`` with the values that are possible; without any where none is."""
    enum = parent.add("enum", {"name": name})
    for value in values:
        enum.add("value", text=value)


def text(node: Node, *, spaced: bool = False) -> str:
    """The document as libvirt lays it out; ``spaced``: with empty lines between the children of the root."""
    out: list[str] = []
    if not spaced:
        _write(node, "", out)
        return "".join(out)
    out.append(f"<{node.tag}>\n\n")
    for child in node.children:
        _write(child, "  ", out)
        out.append("\n")
    out.append(f"</{node.tag}>\n")
    return "".join(out)


def _write(node: Node, indent: str, out: list[str]) -> None:
    head = indent + "<" + node.tag + "".join(f" {k}='{escape(v)}'" for k, v in node.attrib.items())
    if node.children:
        out.append(f"{head}>\n")
        for child in node.children:
            _write(child, indent + "  ", out)
        out.append(f"{indent}</{node.tag}>\n")
    elif node.text:
        out.append(f"{head}>{escape(node.text)}</{node.tag}>\n")
    else:
        out.append(f"{head}/>\n")
