"""A document out: in libvirt's writing style (its order, its spelling, only what it knows), or as the user wrote it."""

from __future__ import annotations

from qemushim.document.item import Schema
from qemushim.document.node import COMMENT, Node

_ATTRIBUTE = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "'": "&apos;",
        '"': "&quot;",
        "\n": "&#10;",
        "\t": "&#9;",
        "\r": "&#13;",
    }
)
_LIBVIRT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;"})
#: libvirt leaves them as they are, and reads blanks where they were: here a definition stays what it is
_BLANKS = str.maketrans({"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})
_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


def escape(text: str) -> str:
    """Text as libvirt escapes it, in attributes and elements alike; characters that XML can not hold are left out."""
    if text.isalnum():
        return text
    return "".join(c for c in text if c >= " " or c in "\t\n\r").translate(_LIBVIRT)


def write(node: Node, schema: Schema, *, live: bool = False) -> str:
    """The element in libvirt's style: declared values only, in declared order, two blanks a level.

    ``live``: with what a guest has only while it runs.
    """
    out: list[str] = []
    _write(node, schema, "", out, live)
    return "".join(out)


def _write(node: Node, schema: Schema, indent: str, out: list[str], live: bool) -> None:
    head = f"{indent}<{node.tag}"
    given = node.attrib
    if given:
        for name, field in schema.attributes.items():
            raw = given.get(name)
            if raw is not None and (live or not field.live):
                value = field.final(raw, node)
                if value is not None:
                    head += f" {name}='{escape(value).translate(_BLANKS)}'"
    if schema.text is not None and schema.text.verbatim and node.text:
        out.append(f"{head}>{escape(node.text)}</{node.tag}>\n")
        return
    if schema.text is not None:
        raw = node.text.strip() if node.text.strip() else None
        text = schema.text.final(node.text if not _blank(node) else "", node) if raw is not None else None
        if text:
            out.append(f"{head}>{escape(text)}</{node.tag}>\n")
            return
    mark = len(out)
    out.append(f"{head}>\n")
    if schema.children and node.children:
        _write_children(node, schema, indent + "  ", out, live)
    if len(out) == mark + 1 and not schema.opened:
        out[mark] = f"{head}/>\n"
    else:
        out.append(f"{indent}</{node.tag}>\n")


def _blank(node: Node) -> bool:
    return not node.text.strip()


def _write_children(node: Node, schema: Schema, indent: str, out: list[str], live: bool) -> None:
    if schema.mixed:
        for child in node.children:
            if child.tag in schema.children:
                _write(child, schema.children[child.tag].schema(child), indent, out, live)
        return
    by_tag: dict[str, list[Node]] = {}
    for child in node.children:
        by_tag.setdefault(child.tag, []).append(child)
    for tag, kind in schema.children.items():
        for child in by_tag.get(tag, ()):
            if kind.verbatim:
                out.append(indent + _verbatim(child, indent) + "\n")
                break
            mark = len(out)
            _write(child, kind.schema(child), indent, out, live)
            if not kind.keep_empty and len(out) == mark + 1 and out[mark] == f"{indent}<{tag}/>\n":
                del out[mark:]
            if not kind.many:
                break


def _verbatim(node: Node, indent: str) -> str:
    """An element with everything in it; where it has no text of its own, laid out like the rest."""
    if any(child.tail.strip() for child in node.children) or (node.children and node.text.strip()):
        return keep(node)
    head = node.tag + "".join(f' {k}="{v.translate(_ATTRIBUTE)}"' for k, v in node.attrib.items())
    if node.tag == COMMENT:
        return f"<!--{node.text}-->"
    if node.children:
        inner = "".join(f"{indent}  {_verbatim(child, indent + '  ')}\n" for child in node.children)
        return f"<{head}>\n{inner}{indent}</{node.tag}>"
    return f"<{head}>{node.text.translate(_TEXT)}</{node.tag}>" if node.text.strip() else f"<{head}/>"


def keep(node: Node) -> str:
    """The element with the user's own layout, comments and order."""
    if node.tag == COMMENT:
        return f"<!--{node.text}-->"
    head = node.tag + "".join(f" {k}='{v.translate(_ATTRIBUTE)}'" for k, v in node.attrib.items())
    if not node.children and not node.text:
        return f"<{head}/>"
    inner = "".join(keep(child) + child.tail.translate(_TEXT) for child in node.children)
    return f"<{head}>{node.text.translate(_TEXT)}{inner}</{node.tag}>"
