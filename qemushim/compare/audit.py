"""Many guests at once: which of them survive another QEMU.

Each guest is taken from the QEMU that it was made for (the one of its machine type's version, or one that is named) to
the new one, as ``sides.upgrade`` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from qemushim import batch
from qemushim.compare.sides import origin, refusal, upgrade, version_text
from qemushim.compare.verdict import Comparison, Verdict
from qemushim.emulator.bundled import find
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host

#: verdicts, worst first; ``None``: not compared
ORDER: tuple[Verdict | None, ...] = (Verdict.REFUSED, None, Verdict.VISIBLE, Verdict.INVISIBLE, Verdict.SAME)
#: parts that a summary names
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Task:
    """One guest, and the QEMUs by the names that ``emulator.bundled.find`` takes; plain data that can travel."""

    #: what messages call the document
    file: str
    text: bytes
    new: str = "latest"
    #: ``""``: the one of the machine type's version
    old: str = ""
    #: where the document names none
    arch: str = "x86_64"


@dataclass(frozen=True, slots=True)
class Finding:
    """What has come of one guest."""

    file: str
    name: str
    machine: str
    #: the QEMUs, as asked for
    old: str
    new: str
    comparison: Comparison | None = None
    #: why there is nothing to compare: the document is refused by the old QEMU already, or a QEMU is not known
    problem: str = ""

    def slim(self) -> Finding:
        """The same without the parts that are as they were: what a table or a page tells."""
        if self.comparison is None:
            return self
        return replace(self, comparison=replace(self.comparison, lines=self.comparison.different))

    @property
    def verdict(self) -> Verdict | None:
        """``None``: not compared."""
        return self.comparison.verdict if self.comparison is not None else None

    @property
    def summary(self) -> str:
        """The worst of it in a line."""
        if self.comparison is None:
            return self.problem
        verdict = self.comparison.verdict
        worst = [line for line in self.comparison.different if line.verdict is verdict]
        if verdict is Verdict.REFUSED:
            return "; ".join(change.new or "" for line in worst for change in line.changes)
        words = [
            f"{line.part} ({', '.join(dict.fromkeys(_fact(change.fact) for change in line.changes))})"
            for line in worst[:_NAMED]
        ]
        if len(worst) > _NAMED:
            words.append(f"and {len(worst) - _NAMED} more")
        return ", ".join(words)

    def data(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "name": self.name,
            "machine": self.machine,
            "old": self.old,
            "new": self.new,
            "verdict": word(self.verdict),
            "problem": self.problem or None,
            "comparison": self.comparison.data() if self.comparison is not None else None,
        }


def _fact(name: str) -> str:
    return name.rpartition("@")[2]


def examine(task: Task) -> Finding:
    """Work on one guest; whatever is wrong with it is a finding, never an error."""
    name = machine = ""
    old = task.old or task.new
    try:
        guest = Guest.from_xml(task.text, file=task.file)
        name, machine = guest.name, guest.domain.machine_type
        arch = guest.domain.arch or task.arch
        new = find(task.new, arch)
        before = find(task.old, arch) if task.old else origin(guest, new)
        old = version_text(before)
        comparison = _compare(guest, before, new)
        return Finding(task.file, name, machine, old, version_text(new), comparison)
    except ShimError as problem:
        reason = f"{problem.where}{problem.message}"
    except Exception as mistake:
        # one odd guest must not lose the findings of all others
        reason = f"{task.file}: mistake in qemushim: {type(mistake).__name__}: {mistake}"
    return Finding(task.file, name, machine, old, task.new, problem=reason)


def _compare(guest: Guest, old: Emulator, new: Emulator) -> Comparison:
    sides = [(emulator, Host.nominal(emulator.arch)) for emulator in (old, new)]
    try:
        return upgrade(guest, sides[0], sides[1])
    except ShimError as problem:
        if old is not new:
            raise
        # no other QEMU is known for it, and this one refuses it
        return refusal(guest.file, guest.file, problem)


def audit(
    tasks: Iterable[Task],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    done: Callable[[Finding], object] | None = None,
) -> list[Finding]:
    """Examine guests, in the order given; see ``batch.map`` for the executor."""
    return batch.map(examine, tasks, executor=executor, workers=workers, done=done)


def audit_each(
    tasks: Iterable[Task], *, executor: Executor | None = None, workers: int | None = None
) -> Generator[Finding, None, None]:
    """The same of a stream of guests, one after the other: memory does not grow with their number (``batch.each``)."""
    return batch.each(examine, tasks, executor=executor, workers=workers)


def word(verdict: Verdict | None) -> str:
    """The name in data; ``unknown`` of what was not compared."""
    return "unknown" if verdict is None else verdict.word


def report_data(findings: list[Finding]) -> dict[str, Any]:
    """The schema of ``qemushim audit --json`` (docs/audit.md)."""
    return {"counts": counts(findings), "guests": [finding.data() for finding in findings]}


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many guests have each verdict, worst first."""
    found = Counter(finding.verdict for finding in findings)
    return {word(verdict): found[verdict] for verdict in ORDER}


__all__ = ["ORDER", "Finding", "Task", "audit", "audit_each", "counts", "examine", "report_data", "word"]
