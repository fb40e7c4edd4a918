"""Two fingerprints compared: which part is which, what differs of it, and what that means to the guest."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qemushim.compare.fingerprint import Fingerprint, Part
from qemushim.compare.verdict import Change, Line, Verdict
from qemushim.compare.visible import DEVICES, HOST_KINDS, MACHINE_NOTES, consequence

#: facts that repeat, in QEMU's words, what others of the part say
_REPEATS = ("driver", "property ", "given to QEMU")
#: the part of a machine type that is its version
_VERSIONED = re.compile(r"(.+)-(\d+)\.(\d+)(?:\.\d+)?")


def lines(old: Fingerprint, new: Fingerprint) -> tuple[Line, ...]:
    """A line for every part of either side, in the order of the new one; those that are gone stand last."""
    pairs = _pairs(old.parts, new.parts)
    return tuple(_line(one, other) for one, other in pairs)


def _pairs(old: list[Part], new: list[Part]) -> list[tuple[Part | None, Part | None]]:
    """Parts of the same name, then what is left of a kind in turn."""
    left = {(part.kind, part.name): part for part in old}
    found: dict[int, Part | None] = {id(part): left.pop((part.kind, part.name), None) for part in new}
    for part in new:
        if found[id(part)] is None and part.kind in DEVICES:
            rest = [key for key, other in left.items() if _alike(part, other)]
            if rest:
                found[id(part)] = left.pop(rest[0])
    return [*((found[id(part)], part) for part in new), *((part, None) for part in left.values())]


def _alike(one: Part, other: Part) -> bool:
    """Whether two devices of different names may be one device that was changed."""
    if one.kind != other.kind or one.kind in ("controller", "channel"):
        return False
    # a disk that is called otherwise on the same bus is another disk, unless it sits in the same place
    return one.kind != "disk" or one.facts.get("address") == other.facts.get("address")


def _line(old: Part | None, new: Part | None) -> Line:
    part = new or old
    assert part is not None
    if part.kind not in DEVICES:
        # a side of the machine that the document does not mention is there all the same
        old, new = old or Part(part.kind, part.name), new or Part(part.kind, part.name)
    if old is None or new is None:
        return Line(
            part.title, tuple(_presence(part, old, new)), old.line if old else 0, new.line if new else 0
        )
    changes = [*_facts(old, new), *_hidden(old, new)]
    title = new.title if old.title == new.title else f"{old.title} → {new.title}"
    return Line(title, tuple(changes), old.line, new.line)


def _presence(part: Part, old: Part | None, new: Part | None) -> Iterator[Change]:
    was, now = (_summary(old) if old else None), (_summary(new) if new else None)
    verdict = Verdict.INVISIBLE if part.kind in HOST_KINDS else Verdict.VISIBLE
    yield Change("presence", was, now, verdict, consequence(part.kind, "presence"))


def _summary(part: Part) -> str:
    """A few words that say what a device is."""
    words = [part.facts.get(fact, "") for fact in ("@model", "model/@type", "target/@bus")]
    address = part.facts.get("address", "")
    return " ".join(filter(None, [*words, f"at {address}" if address else ""])) or "present"


def _facts(old: Part, new: Part) -> Iterator[Change]:
    names = sorted({*old.facts, *new.facts}, key=lambda name: (name.startswith(_REPEATS), name))
    # a device that comes with the board on one side has no such facts there
    told = ("driver" in old.facts) != ("driver" in new.facts)
    for name in names:
        was, now = old.facts.get(name), new.facts.get(name)
        if was == now or (name.startswith(_REPEATS) and told):
            continue
        # the place says nothing of what the device is
        told = told or name != "address"
        yield Change(name, was, now, Verdict.VISIBLE, _meaning(new, name, was, now))


def _hidden(old: Part, new: Part) -> Iterator[Change]:
    for name in sorted({*old.hidden, *new.hidden}):
        was, now = old.hidden.get(name), new.hidden.get(name)
        if was != now:
            yield Change(name, was, now, Verdict.INVISIBLE)


def _meaning(part: Part, name: str, was: str | None, now: str | None) -> str:
    text = consequence(part.kind, name, part.name)
    if (part.kind, name) == ("machine", "type"):
        return "; ".join([text, *machine_notes(was or "", now or "")])
    return text


def machine_version(name: str) -> str:
    """``7.2`` of ``pc-q35-7.2``; ``""`` of an alias, and of machine types that are counted otherwise."""
    found = _VERSIONED.fullmatch(name)
    return f"{found[2]}.{found[3]}" if found else ""


def machine_notes(old: str, new: str) -> list[str]:
    """What came with the versions of one family of machine types between two of it."""
    before, after = _VERSIONED.fullmatch(old), _VERSIONED.fullmatch(new)
    if before is None or after is None or before[1] != after[1]:
        return []
    ages = sorted((int(found[2]), int(found[3])) for found in (before, after))
    return [
        note
        for family, version, note in MACHINE_NOTES
        if new.startswith(family) and ages[0] < version <= ages[1]
    ]


__all__ = ["lines", "machine_notes", "machine_version"]
