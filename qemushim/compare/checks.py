"""One thing that has to stay as it is: where it stands, what libvirt calls it, how it words a difference.

https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from qemushim.document.node import Node

#: the guest sees other hardware; only what may change while it runs; nothing, but libvirt takes it for another machine
GUEST, VOLATILE, NOMINAL = "guest", "volatile", "nominal"
#: how libvirt words a difference: with both values, with both in quotes, with none
PLAIN = "Target {what} {new} does not match source {old}"
QUOTED = "Target {what} '{new}' does not match source '{old}'"
BARE = "Target {what} does not match source"
#: how libvirt writes what is not there: text, a switch, a number
NO_TEXT, NO_SWITCH, NO_NUMBER = "<null>", "default", "0"


class Difference(NamedTuple):
    """One thing that is not as it was."""

    #: ``devices/disk[vda]/target/@bus``: the element in the definition, devices by what they are known by
    path: str
    #: ``""``: it was not there, or will not be
    old: str
    new: str
    #: libvirt's words; ``""``: it does not look there
    message: str
    severity: str = GUEST

    def __str__(self) -> str:
        if not self.old or not self.new:
            return f"{self.path}: {self.new or self.old} is {'added' if self.new else 'removed'}"
        return f"{self.path}: {self.old} becomes {self.new}"


class Check(NamedTuple):
    """One thing that has to stay.

    ``words`` have ``{what}``, ``{old}`` and ``{new}``; ``""``: libvirt does not look there.
    """

    path: str
    what: str
    words: str = PLAIN
    #: how libvirt writes that it is not there
    null: str = NO_TEXT
    #: what it is where the document does not say
    default: str = ""
    #: what is compared, where it is not the text at the path as it stands
    value: Callable[[Node], str] | None = None

    def of(self, node: Node) -> str:
        """What a definition says; ``present`` of an element that is empty, ``""`` where there is nothing."""
        if self.value is not None:
            return self.value(node)
        raw = node.value(self.path)
        if raw is None:
            return ""
        text = raw.strip()
        if not text and "@" not in self.path:
            return "present"
        return text.lower() if self.path.endswith("mac/@address") else text

    def differs(self, old: Node, new: Node, path: str = "") -> Iterator[Difference]:
        """The difference between two elements, if there is one."""
        before, after = self.of(old), self.of(new)
        if before == after:
            return
        same = (before or self.default) == (after or self.default)
        if same and self.null != NO_SWITCH:
            return
        words = self.words.format(what=self.what, old=before or self.null, new=after or self.null)
        severity = NOMINAL if same else GUEST
        shown = (before or self.default, after or self.default) if not same else (before, after)
        yield Difference(f"{path}{self.path}", *shown, words, severity)


__all__ = [
    "BARE",
    "GUEST",
    "NOMINAL",
    "NO_NUMBER",
    "NO_SWITCH",
    "NO_TEXT",
    "PLAIN",
    "QUOTED",
    "VOLATILE",
    "Check",
    "Difference",
]
