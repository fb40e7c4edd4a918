#!/usr/bin/env python3
"""Send documents to a real libvirtd and to qemushim, and say how far the two agree.

    tools/differential.py FILE… --state /tmp/diff                   the documents as they are
    tools/differential.py --mutations 2000 --state /tmp/diff        documents nobody wrote (see tools/fuzz.py)

Asked is “define” (defineXML, dumpxml, undefine) and “argv” (domxml-to-native), with the QEMU that libvirtd uses.
Nothing is started.  Every kind of disagreement is kept with an example; the figures are printed as a table.
The daemon must be one to play with: definitions of its guests are made and removed.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qemushim.document.node import Node
from qemushim.emulator.bundled import find
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host, nominal_mac, nominal_uuid
from qemushim.local import INHERITED
from tools import documents

#: what the two said of a document, best first
VERDICTS = (
    "same result",
    "other result",
    "both refuse, same message",
    "both refuse, other message",
    "only libvirt refuses",
    "only qemushim refuses",
)
_AGREE = {"same result", "both refuse, same message"}
#: what precedes a value that differs between two runs of libvirt itself
_RANDOM = re.compile(r'("(?:fd|vhostfd)":"|"(?:data|iv)":"|^base=(?=\d{4}-))[^",]*')
_NUMBERS = re.compile(r"\d+")


def _own(tokens: Sequence[str]) -> tuple[str, ...]:
    """A command line without what two runs of libvirt differ in: the caller's environment, numbers of file
    descriptors that happen to be free, secrets encrypted with a random key, the clock."""
    return tuple(_RANDOM.sub(r"\1…", token) for token in tokens if token.partition("=")[0] not in INHERITED)


@dataclass(frozen=True)
class Answer:
    """A result, line by line, or the message of a refusal."""

    lines: tuple[str, ...] = ()
    refusal: str = ""


class LostError(Exception):
    """libvirtd did not survive a document."""


class Libvirt:
    """A connection to a daemon (libvirt-python), which is started again where a document was too much for it."""

    def __init__(self, uri: str, daemon: str = "") -> None:
        import libvirt

        self.api: Any = libvirt
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.uri = uri
        self.daemon = daemon
        self.connection: Any = None
        self.connect()

    def connect(self) -> None:
        if self.daemon and self.connection is not None:
            subprocess.run(shlex.split(self.daemon), check=True)
        for _ in range(50):
            try:
                self.connection = self.api.open(self.uri)
                return
            except self.api.libvirtError:
                time.sleep(0.1)
        self.connection = self.api.open(self.uri)

    def define(self, xml: str) -> Answer:
        def ask() -> Sequence[str]:
            domain = self.connection.defineXML(xml)
            flags = self.api.VIR_DOMAIN_XML_INACTIVE | self.api.VIR_DOMAIN_XML_SECURE
            try:
                lines: list[str] = domain.XMLDesc(flags).splitlines()
                return lines
            finally:
                domain.undefineFlags(self.api.VIR_DOMAIN_UNDEFINE_NVRAM | self.api.VIR_DOMAIN_UNDEFINE_TPM)

        return self._answer(ask)

    def argv(self, xml: str) -> Answer:
        def ask() -> Sequence[str]:
            return _own(
                shlex.split(self.connection.domainXMLToNative("qemu-argv", xml, 0).replace("\\\n", ""))
            )

        return self._answer(ask)

    def _answer(self, ask: Callable[[], Sequence[str]]) -> Answer:
        """Raises ``LostError`` where the daemon fell over."""
        try:
            return Answer(tuple(ask()))
        except self.api.libvirtError as problem:
            if not self.connection.isAlive():
                self.connect()
                raise LostError from None
            return Answer(refusal=problem.get_error_message() or "")

    def emulator(self) -> str:
        """The path of the QEMU of this machine's architecture."""
        text = self.connection.getDomainCapabilities()
        found = re.search("<path>(.*?)</path>", text)
        return found.group(1) if found else ""

    def version(self) -> str:
        return ".".join(str(self.connection.getLibVersion() // n % 1000) for n in (1000000, 1000, 1))


class Ours:
    """The same questions, answered here."""

    def __init__(self, emulator: Emulator, host: Host) -> None:
        self.emulator = emulator
        self.host = host

    def define(self, xml: str) -> Answer:
        return self._answer(
            lambda: Guest.from_xml(xml).define(self.emulator, self.host).to_xml().splitlines()
        )

    def argv(self, xml: str) -> Answer:
        return self._answer(
            lambda: _own(Guest.from_xml(xml).command(self.emulator, self.host, export=True).tokens)
        )

    def _answer(self, ask: Callable[[], Sequence[str]]) -> Answer:
        try:
            return Answer(tuple(ask()))
        except ShimError as problem:
            return Answer(refusal=problem.message)
        except Exception as problem:
            return Answer(refusal=f"{type(problem).__name__}: {problem}")


def verdict(theirs: Answer, mine: Answer) -> str:
    if theirs.refusal and mine.refusal:
        same = theirs.refusal.splitlines()[0] == mine.refusal.splitlines()[0]
        return f"both refuse, {'same' if same else 'other'} message"
    if theirs.refusal or mine.refusal:
        return "only libvirt refuses" if theirs.refusal else "only qemushim refuses"
    return "same result" if theirs.lines == mine.lines else "other result"


def settled(root: Node) -> str:
    """The document with UUIDs and MACs, which libvirt would draw at random."""
    root = root.copy()
    for node in root.all("genid"):
        node.text = node.text.strip() or nominal_uuid("genid")
    if not root.value("uuid") and root.tag == "domain":
        root.discard("uuid")
        root.add("uuid", text=nominal_uuid(root.value("name") or ""))
    devices = root.child("devices")
    for number, nic in enumerate(devices.all("interface") if devices is not None else ()):
        mac = nic.child("mac")
        if mac is None or "address" not in mac.attrib:
            nic.ensure("mac").set("address", nominal_mac(str(number)))
    return documents.text(root)


@dataclass
class Report:
    """Counts by question and verdict, and the kinds of disagreement with an example of each."""

    directory: Path
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {"define": Counter(), "argv": Counter()})
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    #: documents that ended libvirtd
    lost: list[str] = field(default_factory=list)

    def add(self, question: str, name: str, xml: str, theirs: Answer, mine: Answer) -> None:
        found = verdict(theirs, mine)
        self.counts[question][found] += 1
        if found in _AGREE:
            return
        difference = [
            line
            for line in unified_diff(theirs.lines, mine.lines, "libvirt", "qemushim", n=0, lineterm="")
            if not line.startswith("@@")
        ]
        said = [f"libvirt:  {theirs.refusal or 'accepts'}", f"qemushim: {mine.refusal or 'accepts'}"]
        both = not theirs.refusal and not mine.refusal
        known = "\n".join(difference[2:5] if both else said)
        kind = f"{question}: {found}\n{_NUMBERS.sub('N', known)[:600]}"
        self.kinds[kind] += 1
        if kind not in self.examples:
            self.examples[kind] = name
            stem = self.directory / f"{question}-{Path(name).stem}"
            stem.with_suffix(".xml").write_text(xml, errors="surrogateescape")
            stem.with_suffix(".txt").write_text(
                "\n".join([found, *said, *(difference if both else ())]) + "\n"
            )

    def write(self) -> None:
        lines = [f"{count:>6}  {self.examples[kind]}  {kind}\n" for kind, count in self.kinds.most_common()]
        (self.directory / "kinds.txt").write_text("\n".join(lines))
        (self.directory / "counts.json").write_text(json.dumps(self.counts, indent=1) + "\n")

    def table(self) -> str:
        lines = [f"{'':<28}{'define':>8}{'argv':>8}"]
        for name in VERDICTS:
            lines.append(f"{name:<28}" + "".join(f"{self.counts[q][name]:>8}" for q in self.counts))
        totals = {q: sum(counts.values()) or 1 for q, counts in self.counts.items()}
        for title, good in (
            ("accept or refuse alike", {*VERDICTS[:4]}),
            ("agree in every word", _AGREE),
        ):
            shares = (sum(c for v, c in self.counts[q].items() if v in good) / totals[q] for q in self.counts)
            lines.append(f"{title:<28}" + "".join(f"{share:>8.1%}" for share in shares))
        return "\n".join(lines)


def written(paths: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        try:
            yield path.name, settled(documents.parse(path.read_bytes(), path.name))
        except ShimError:
            yield path.name, path.read_text(errors="replace")


def mutations(
    first: int, count: int, inputs: Sequence[Node], arch: str, chance: float
) -> Iterator[tuple[str, str]]:
    """Drawn documents of one architecture, under the numbers from ``first``."""
    seen = documents.survey(inputs)
    for number in range(first, first + count):
        random = Random(number)
        maker = documents.Maker(random, inputs, seen, chance=0.15)
        root = maker.domain()[0] if random.random() < chance else maker.mutated()
        if (root.value("os/type/@arch") or arch) == arch and not root.value("devices/emulator"):
            yield str(number), settled(root)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path)
    parser.add_argument("--connect", metavar="URI", default="qemu:///system")
    parser.add_argument(
        "--daemon", metavar="COMMAND", default="", help="starts libvirtd again where it fell over"
    )
    parser.add_argument("--qemu", metavar="PATH", help="libvirtd's QEMU (default: what it says itself)")
    parser.add_argument("--mutations", type=int, default=0, metavar="N", help="so many drawn documents")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--drawn", type=float, default=0.2, help="share of them that is made from the fields")
    parser.add_argument("--inputs", type=Path, action="append", help="what is mutated (default: golden/)")
    parser.add_argument("--state", type=Path, default=Path("differential"), help="where examples are kept")
    options = parser.parse_args(arguments)
    options.state.mkdir(parents=True, exist_ok=True)
    libvirt = Libvirt(options.connect, options.daemon)
    emulator = find(options.qemu or libvirt.emulator())
    ours = Ours(emulator, Host.local())
    report = Report(options.state)
    subjects: Iterable[tuple[str, str]] = written(options.files)
    if options.mutations:
        inputs = documents.load(options.inputs or [ROOT / "golden"])
        subjects = mutations(options.first, options.mutations, inputs, emulator.arch, options.drawn)
    for name, xml in _shown(subjects, options.mutations or len(options.files)):
        try:
            report.add("define", name, xml, libvirt.define(xml), ours.define(xml))
            report.add("argv", name, xml, libvirt.argv(xml), ours.argv(xml))
        except LostError:
            report.lost.append(name)
            (options.state / f"lost-{Path(name).stem}.xml").write_text(xml, errors="surrogateescape")
    report.write()
    version = ".".join(map(str, emulator.version))
    print(f"libvirt {libvirt.version()}, QEMU {version}")
    print(report.table())
    if report.lost:
        print(f"libvirtd did not survive {len(report.lost)} more documents")
    return int(any(verdict not in _AGREE for counts in report.counts.values() for verdict in counts))


def _shown(subjects: Iterable[tuple[str, str]], total: int) -> Iterator[tuple[str, str]]:
    """The same, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(subjects, "asking both", total, console=console, disable=not console.is_terminal))


if __name__ == "__main__":
    sys.exit(main())
