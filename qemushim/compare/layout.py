"""A comparison as text: a verdict a line, what changes below it, what it means in words."""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.compare.verdict import Change, Comparison, Line, Verdict

_WIDTH = max(len(verdict.text) for verdict in Verdict)
_INDENT = " " * (_WIDTH + 2)
#: reasons of libvirt that are told: it names one itself
_MESSAGES = 4
#: (verdict or ``None`` for what has none, text without a line end)
Row = tuple[Verdict | None, str]


def rows(comparison: Comparison, *, everything: bool = False, argv: bool = False) -> Iterator[Row]:
    """The text line by line, with the verdict that may colour it.

    ``everything``: parts that are the same have a line each, too.  ``argv``: with what differs on the command line.
    """
    yield None, f"{comparison.old} → {comparison.new}"
    yield None, ""
    shown = comparison.lines if everything else comparison.different
    for line in sorted(shown, key=lambda line: -line.verdict):
        yield from line_rows(line)
    same = len(comparison.lines) - len(comparison.different)
    if same and not everything:
        parts = "part" if same == 1 else "parts"
        yield Verdict.SAME, f"{Verdict.SAME.text:{_WIDTH}}  {same} {'' if not shown else 'other '}{parts}"
    yield None, ""
    if comparison.host:
        if argv:
            yield None, "on the host:"
            yield from ((None, f"  {line}") for line in comparison.host)
        else:
            count = len(comparison.host)
            arguments = "one argument comes or goes" if count == 1 else f"{count} arguments come or go"
            yield None, f"on the host: {arguments} (--argv shows them)"
    for message in comparison.libvirt[:_MESSAGES]:
        yield None, f"libvirt would not migrate: {message}"
    if len(comparison.libvirt) > _MESSAGES:
        yield None, f"… and {len(comparison.libvirt) - _MESSAGES} more of libvirt's reasons"
    for note in comparison.notes:
        yield None, f"note: {note}"
    yield comparison.verdict, f"verdict: {comparison.verdict.text}"


def line_rows(line: Line) -> Iterator[Row]:
    """One part of the guest."""
    verdict = line.verdict
    if verdict is Verdict.SAME:
        yield verdict, f"{verdict.text:{_WIDTH}}  {line.part}"
        return
    if verdict is Verdict.REFUSED:
        for change in line.changes:
            yield verdict, f"{verdict.text:{_WIDTH}}  {change.new}"
            if change.consequence:
                yield None, f"{_INDENT}hint: {change.consequence}"
        return
    yield verdict, f"{verdict.text:{_WIDTH}}  {line.part}{_where(line)}"
    for change in line.changes:
        yield None, f"{_INDENT}  {describe(change)}"
    for meaning in dict.fromkeys(change.consequence for change in line.changes if change.consequence):
        yield None, f"{_INDENT}  – {meaning}"


def _where(line: Line) -> str:
    if not line.old_line and not line.new_line:
        return ""
    return f"  (line {line.new_line or line.old_line})"


def describe(change: Change) -> str:
    """``address: 0000:00:03.0 → 0000:00:04.0``"""
    if change.fact == "presence":
        return f"comes: {change.new}" if change.old is None else f"goes: {change.old}"
    old = "nothing" if change.old is None else change.old
    new = "nothing" if change.new is None else change.new
    return f"{change.fact}: {old} → {new}"


__all__ = ["Row", "describe", "line_rows", "rows"]
