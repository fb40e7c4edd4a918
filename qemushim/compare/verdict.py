"""What comes out of a comparison: a verdict a line, and what the change means to the guest."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Verdict(IntEnum):
    """What a guest notices of a change; the worse the greater."""

    SAME = 0
    INVISIBLE = 1
    VISIBLE = 2
    REFUSED = 3

    @property
    def text(self) -> str:
        return _TEXTS[self]

    @property
    def word(self) -> str:
        """The name in data: ``same``, ``invisible``, ``visible``, ``refused``."""
        return self.name.lower()


_TEXTS = {
    Verdict.SAME: "same",
    Verdict.INVISIBLE: "invisible to the guest",
    Verdict.VISIBLE: "guest sees it",
    Verdict.REFUSED: "will not start",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One fact that differs; ``None`` where a side has none."""

    fact: str
    old: str | None
    new: str | None
    verdict: Verdict
    #: what it means to the guest, in a sentence; ``""`` where there is nothing to say
    consequence: str = ""

    def data(self) -> dict[str, Any]:
        return {
            "fact": self.fact,
            "old": self.old,
            "new": self.new,
            "verdict": self.verdict.word,
            "consequence": self.consequence,
        }


@dataclass(frozen=True, slots=True)
class Line:
    """A part of the guest (``disk vda``, ``cpu``) with all that differs of it."""

    part: str
    changes: tuple[Change, ...] = ()
    #: lines of the two documents, 0 where the element was added
    old_line: int = 0
    new_line: int = 0

    @property
    def verdict(self) -> Verdict:
        return max((change.verdict for change in self.changes), default=Verdict.SAME)

    def data(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "verdict": self.verdict.word,
            "old_line": self.old_line,
            "new_line": self.new_line,
            "changes": [change.data() for change in self.changes],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides of one guest, part by part."""

    #: what the sides are called (``web.xml, QEMU 7.2.0``)
    old: str
    new: str
    lines: tuple[Line, ...] = ()
    #: what differs on the command line without reaching the guest: ``- text`` and ``+ text``
    host: tuple[str, ...] = ()
    #: libvirt's own words where it would refuse to migrate or restore from one to the other
    libvirt: tuple[str, ...] = ()
    #: worth knowing, whatever the verdict
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        worst = max((line.verdict for line in self.lines), default=Verdict.SAME)
        return max(worst, Verdict.INVISIBLE if self.host else Verdict.SAME)

    @property
    def different(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.verdict is not Verdict.SAME)

    def data(self) -> dict[str, Any]:
        """The schema of ``qemushim compare --format json`` (docs/compare.md)."""
        return {
            "old": self.old,
            "new": self.new,
            "verdict": self.verdict.word,
            "lines": [line.data() for line in self.lines],
            "host": list(self.host),
            "libvirt": list(self.libvirt),
            "notes": list(self.notes),
        }


__all__ = ["Change", "Comparison", "Line", "Verdict"]
