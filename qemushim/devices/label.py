"""``<seclabel>`` below a ``<source>``: how one file or socket of a device is labelled.

https://libvirt.org/formatdomain.html#security-label
"""

from __future__ import annotations

from qemushim.document.fields import Switch, Text
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.errors import error


class SourceLabel(Item):
    """``<seclabel>`` of a source; the domain's own has more to say."""

    tag = "seclabel"

    model = Text("@model")
    relabel = Switch("@relabel", True)
    label = Text("label")


def complete_labels(source: Node) -> None:
    """Check the labels of a source, and drop those that say nothing.  Raises ``ConfigError``."""
    labels = source.all("seclabel")
    seen: set[str | None] = set()
    for node in labels:
        label = SourceLabel(node)
        if label.model in seen:
            raise error.plain(
                f"seclabel for model {label.model} is already provided", node, "keep one of them"
            )
        seen.add(label.model)
        if label.label is not None and node.get("relabel") == "no":
            raise error.xml(
                f"Cannot specify a label if relabelling is turned off. model={label.model or '(null)'}",
                node,
                "drop <label>, or relabel='no'",
            )
        if label.label is None and node.get("relabel") == "yes":
            raise error.xml(
                f"Cannot specify relabel if label is missing. model={label.model or ''}",
                node,
                "add a <label>",
            )
        if label.label is None and label.relabel:
            source.remove(node)
