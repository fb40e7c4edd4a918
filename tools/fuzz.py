#!/usr/bin/env python3
"""Define and build documents nobody wrote, as many as you like, and keep each kind of mistake as a minimal case.

    tools/fuzz.py --documents 100000 --state /var/tmp/fuzz

A second run goes on where the first one stopped.  What counts as a mistake: an exception that is no ``ShimError``,
more than a second for one document, two answers to one question, a definition that changes when it is defined again
or gives another command line, text that can not be read back.  Exit code: 1 where something was found.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qemushim.document.node import Node
from qemushim.emulator.bundled import find
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from tools import documents

#: seconds: more is a finding; and when an endless document is given up
SLOW, ENDLESS = 1.0, 10
#: bytes of address space that the process may take
MEMORY = 4 << 30


#: what libvirt too accepts at first, and refuses in its own definition
UNREADABLE = (
    *("number of ISA serial ports", "already allocated", "ISA serial target port"),
    # a volume that names no pool is written without its source, so is the data of an image that are nowhere
    "missing source information for device",
    "missing disk data file store source",
    # so is a USB device of the host that is any
    "Missing <source> element in hostdev device",
    # a controller that is none beside the one that every machine has
    "USB is disabled for this domain",
)
#: what libvirt takes and does not write, so that its own definition says another thing
UNWRITTEN = ("bus='none'",)
#: what libvirt starts a guest with and leaves out of the definition, where the disk is on a SCSI bus
SCSI_REMOVABLE = "removable="

_WITHOUT_DIGITS = str.maketrans("", "", "0123456789")


class EndlessError(BaseException):
    """A document took too long: no ``Exception``, so that nothing on the way holds it up."""


@dataclass(frozen=True)
class Outcome:
    """What became of a document: ``refused``, ``ok``, or the kind of mistake and what is known of it."""

    kind: str
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("ok", "refused")

    @property
    def signature(self) -> str:
        """Equal for what is probably the same mistake."""
        first = self.detail.partition("\n")[0]
        return f"{self.kind}: {first.translate(_WITHOUT_DIGITS)[:120]}"


@cache
def host(arch: str) -> Host:
    return Host.nominal(arch)


def judge(text: str, emulator: Emulator) -> Outcome:
    """What becomes of a document with an emulator."""
    start = time.process_time()
    try:
        with _deadline():
            outcome = _judge(text, emulator)
    except EndlessError:
        return Outcome("endless", f"more than {ENDLESS} s")
    except RecursionError:
        return Outcome("exception", "RecursionError")
    except Exception as problem:
        frames = traceback.extract_tb(problem.__traceback__)
        place = next((f for f in reversed(frames) if "qemushim/" in f.filename), frames[-1])
        where = f"{Path(place.filename).name}:{place.name}"
        return Outcome("exception", f"{type(problem).__name__} in {where}\n{traceback.format_exc()}")
    took = time.process_time() - start
    return Outcome("slow", f"{took:.1f} s") if took > SLOW and not outcome.is_finding else outcome


def _judge(text: str, emulator: Emulator) -> Outcome:
    here = host(emulator.arch)
    answers = [_answer(text, emulator, here) for _ in range(2)]
    if answers[0] != answers[1]:
        return Outcome("undetermined", _difference(*answers))
    xml, tokens, refusal = answers[0]
    if "None" in refusal and "None" not in text:
        return Outcome("words", refusal)
    if not xml:
        return Outcome("refused", refusal)
    try:
        again = Guest.from_xml(xml).define(emulator, here, update=False)
    except ShimError as problem:
        if any(words in problem.message for words in UNREADABLE):
            return Outcome("ok")
        return Outcome("definition refused", problem.message)
    if any(words in text for words in UNWRITTEN):
        return Outcome("ok")
    if sorted(again.to_xml().splitlines()) != sorted(xml.splitlines()):
        return Outcome("definition changes", _difference(xml, again.to_xml()))
    if refusal:
        return Outcome("refused", refusal)
    if again.to_xml() != xml:
        # devices were put in order, as libvirt does when it reads its own definition; that must be the end of it
        xml, again = again.to_xml(), Guest.from_xml(again.to_xml()).define(emulator, here, update=False)
        if again.to_xml() != xml:
            return Outcome("definition changes twice", _difference(xml, again.to_xml()))
        return Outcome("ok")
    if SCSI_REMOVABLE in text:
        return Outcome("ok")
    if (second := again.command(emulator, here).tokens) != list(tokens):
        return Outcome("command changes", _difference("\n".join(tokens), "\n".join(second)))
    for token in tokens:
        if "\0" in token:
            return Outcome("NUL in the command line", token)
        if token.startswith('{"'):
            json.loads(token)
    return Outcome("ok")


def _answer(text: str, emulator: Emulator, here: Host) -> tuple[str, tuple[str, ...], str]:
    """The definition, the command line, and why one of them is not there."""
    xml = ""
    try:
        guest = Guest.from_xml(text).define(emulator, here)
        xml = guest.to_xml()
        return xml, tuple(guest.command(emulator, here).tokens), ""
    except ShimError as problem:
        return xml, (), f"{problem.line}: {problem.message}"


def _difference(one: object, other: object) -> str:
    """The first line that differs."""
    lines = (str(one).splitlines(), str(other).splitlines())
    for first, second in zip(*lines, strict=False):
        if first != second:
            return f"{first.strip()} → {second.strip()}"
    return f"{len(lines[0])} → {len(lines[1])} lines"


@contextmanager
def _deadline() -> Iterator[None]:
    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise EndlessError

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, ENDLESS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def minimal(root: Node, emulator: Emulator, outcome: Outcome) -> Node:
    """The smallest document that gives the same finding."""

    def is_same(candidate: Node) -> bool:
        found = judge(documents.text(candidate), emulator)
        # words of the document are part of the detail of some kinds
        return found.kind == outcome.kind and (
            found.signature == outcome.signature or outcome.kind != "exception"
        )

    return documents.minimal(root, is_same)


class State:
    """How far a run is, in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "progress.json"
        known = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.next: int = known.get("next", 0)
        self.outcomes: Counter[str] = Counter(known.get("outcomes", {}))
        self.findings: Counter[str] = Counter(known.get("findings", {}))

    def save(self) -> None:
        data = {"next": self.next, "outcomes": self.outcomes, "findings": self.findings}
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps(data, indent=1, ensure_ascii=False))
        temporary.replace(self.file)

    def keep(self, number: int, root: Node, emulator: Emulator, outcome: Outcome) -> Path:
        """Write a finding as a minimal document, with what was wrong."""
        self.findings[outcome.signature] += 1
        stem = self.directory / f"{outcome.kind.replace(' ', '-')}-{number}"
        if self.findings[outcome.signature] > 1:
            return stem
        small = minimal(root, emulator, outcome)
        again = judge(documents.text(small), emulator)
        name = f"{'.'.join(map(str, emulator.version))} {emulator.arch}"
        stem.with_suffix(".xml").write_text(documents.text(small), errors="surrogateescape")
        stem.with_suffix(".txt").write_text(f"document {number}, QEMU {name}\n{again.kind}: {again.detail}\n")
        return stem


def run(options: argparse.Namespace, inputs: Sequence[Node]) -> State:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    seen = documents.survey(inputs)
    state = State(options.state)
    end = state.next + options.documents if options.more else options.documents
    columns = (TextColumn("fuzzing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TextColumn("{task.description}"), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=end, completed=state.next)
        try:
            while state.next < end:
                root, emulator = documents.draw(state.next, inputs, seen)
                outcome = judge(documents.text(root), emulator)
                state.outcomes[outcome.kind] += 1
                if outcome.is_finding:
                    kept = state.keep(state.next, root, emulator, outcome)
                    console.print(f"{kept.name}: {outcome.signature}", markup=False, highlight=False)
                state.next += 1
                if state.next % 500 == 0:
                    state.save()
                    bar.update(
                        task,
                        completed=state.next,
                        description=f"{sum(state.findings.values())} findings",
                    )
        finally:
            state.save()
    return state


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=100_000, help="how many in all (default: 100,000)")
    parser.add_argument("--more", action="store_true", help="that many beyond those that are done")
    parser.add_argument("--state", type=Path, default=Path("fuzz-state"), help="where findings are kept")
    parser.add_argument(
        "--inputs", type=Path, action="append", help="directories of documents (default: golden/)"
    )
    parser.add_argument("--one", type=int, help="judge this document alone, and print it")
    parser.add_argument("--case", type=Path, help="judge a document that was kept")
    parser.add_argument("--qemu", default="10.0", help="emulator for --case")
    options = parser.parse_args(arguments)
    if options.case:
        root = documents.parse(options.case.read_bytes())
        outcome = judge(documents.text(root), find(options.qemu, root.value("os/type/@arch") or "x86_64"))
        print(f"{outcome.kind}: {outcome.detail}")
        return int(outcome.is_finding)
    inputs = documents.load(options.inputs or [ROOT / "golden"])
    if options.one is not None:
        root, emulator = documents.draw(options.one, inputs, documents.survey(inputs))
        outcome = judge(documents.text(root), emulator)
        print(documents.text(root), f"{outcome.kind}: {outcome.detail}", sep="\n")
        return int(outcome.is_finding)
    state = run(options, inputs)
    for kind, count in state.outcomes.most_common():
        print(f"{count:>9} {kind}")
    return int(bool(state.findings))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.exit(main())
