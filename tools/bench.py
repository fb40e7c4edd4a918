#!/usr/bin/env python3
"""Measure qemushim, side by side with a real libvirtd where one is named.

usage: bench.py [--libvirt URI] [--documents DIR] [--skip NAME] [--rounds N] [--fleet N] [--only TEXT] [--json FILE]

The two sides take turns in one run, so that a busy machine slows both alike.  Shown are medians with the 10th and 90th
percentile, the ratio of the medians, and that of the best values, which other work on the machine blurs least; of many
documents, both are medians over the documents.  Without --libvirt there is our side alone, for the bundled QEMU 10.0;
with it (needs libvirt's Python binding and virsh) both sides describe the daemon's own QEMU.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qemushim import batch
from qemushim.emulator import bundled, snapshot
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from tools import bench_documents as documents

BUNDLED = "10.0"
Work = Callable[[], object]


# -- results ---------------------------------------------------------------------------------------


@dataclass
class Sample:
    """Measured values of one side, in milliseconds (or MiB)."""

    values: list[float]
    #: of several documents: the median of the best value of each
    typical: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def percentile(self, part: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]

    @property
    def best(self) -> float:
        return min(self.values) if self.typical is None else self.typical

    def summary(self) -> dict[str, float]:
        return {
            "median": self.median,
            "p10": self.percentile(0.1),
            "p90": self.percentile(0.9),
            "best": self.best,
            "count": len(self.values),
        }


@dataclass
class Row:
    """One line of the table."""

    name: str
    goal: str
    ours: Sample
    theirs: Sample | None = None
    unit: str = "ms"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours.median / self.theirs.median if self.theirs is not None else None

    @property
    def best_ratio(self) -> float | None:
        return self.ours.best / self.theirs.best if self.theirs is not None else None

    def data(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "goal": self.goal,
            "unit": self.unit,
            "ours": self.ours.summary(),
            "theirs": self.theirs.summary() if self.theirs is not None else None,
            "ratio": self.ratio,
            "best ratio": self.best_ratio,
            "note": self.note,
        }

    def cells(self) -> tuple[str, ...]:
        ratios = (f"{ratio:.2f}" if ratio is not None else "" for ratio in (self.ratio, self.best_ratio))
        return (self.name, _shown(self.ours), _shown(self.theirs), *ratios, self.goal, self.note)


def paired(name: str, goal: str, samples: Sequence[Sample], note: str = "") -> Row:
    """The row of our sample, and of the other side's where there is one."""
    return Row(name, goal, samples[0], samples[1] if len(samples) > 1 else None, note=note)


def _shown(sample: Sample | None) -> str:
    if sample is None:
        return ""
    low, high = sample.percentile(0.1), sample.percentile(0.9)
    return f"{sample.median:.2f} ({low:.2f}–{high:.2f})"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    head = ("what", "qemushim, median (p10–p90)", "the other", "ratio", "of best", "goal", "note")
    lines = [head, *(row.cells() for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |\n" for line in lines
    )


def took(work: Work) -> float:
    """Milliseconds on the clock."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def in_turn(rounds: int, *works: Work, warm: bool = False) -> list[Sample]:
    """The works one after the other, so many rounds; the first round is not counted.

    ``warm``: each is run once more before it is measured, because the other side's turn has left the processor's caches
    full of the other side's data.
    """
    for work in works:
        work()
    measured: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, values in zip(works, measured, strict=True):
            if warm:
                work()
            values.append(took(work))
    return [Sample(values) for values in measured]


# -- the two sides ---------------------------------------------------------------------------------


class Daemon:
    """A real libvirtd."""

    def __init__(self, uri: str) -> None:
        import libvirt

        libvirt.registerErrorHandler(lambda *_: None, None)
        self.uri = uri
        self.refused: type[Exception] = libvirt.libvirtError
        self.connection = libvirt.open(uri)
        self.virt = "kvm" if os.access("/dev/kvm", os.W_OK) else "qemu"
        try:
            text = self.connection.getDomainCapabilities(None, "x86_64", None, self.virt)
        except self.refused:
            self.virt = "qemu"
            text = self.connection.getDomainCapabilities(None, "x86_64", None, self.virt)
        self.binary = ElementTree.fromstring(text).findtext("path") or ""

    def native(self, text: str) -> str:
        try:
            return str(self.connection.domainXMLToNative("qemu-argv", text))
        except self.refused as problem:
            if not self.connection.isAlive():
                # documents of ours have brought the real one down
                name = ElementTree.fromstring(text).findtext("name")
                raise SystemExit(f"{self.uri} went away over guest {name} (--skip?): {problem}") from None
            raise


@dataclass
class Bench:
    """What the rows measure with."""

    options: argparse.Namespace
    daemon: Daemon | None
    emulator: Emulator
    host: Host
    folder: str

    @property
    def environment(self) -> dict[str, str]:
        """Of programs that are started: their bytecode is kept, as it is of an installed package."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "PYTHONPYCACHEPREFIX": os.path.join(self.folder, "bytecode")}

    @property
    def rounds(self) -> int:
        return int(self.options.rounds)

    @property
    def virt(self) -> str:
        return self.daemon.virt if self.daemon is not None else "kvm"

    def native(self, text: str) -> list[str]:
        """Our side of ``virConnectDomainXMLToNative``."""
        return Guest.from_xml(text).command(self.emulator, self.host, export=self.daemon is not None).argv

    def accepts(self, text: str) -> bool:
        """Whether both sides make a command line of a document."""
        try:
            self.native(text)
        except ShimError:
            return False
        if self.daemon is not None:
            try:
                self.daemon.native(text)
            except self.daemon.refused:
                return False
        return True

    def both(self, text: str, rounds: int) -> list[Sample]:
        daemon = self.daemon
        works: list[Work] = [lambda: self.native(text)]
        if daemon is not None:
            works.append(lambda: daemon.native(text))
        return in_turn(rounds, *works, warm=True)


def make_bench(options: argparse.Namespace, folder: str) -> Bench:
    if not options.libvirt:
        return Bench(options, None, bundled.find(BUNDLED, "x86_64"), Host.nominal(), folder)
    daemon = Daemon(options.libvirt)
    return Bench(options, daemon, Emulator.probe(daemon.binary), Host.local(), folder)


# -- rows ------------------------------------------------------------------------------------------


def warm(bench: Bench) -> Iterator[Row]:
    """Parse, define and command of a document in one warm process."""
    folder = bench.options.documents
    files = [path for path in sorted(folder.glob("*.xml")) if "." not in path.stem]
    inputs = [path.read_text() for path in files if path.stem not in bench.options.skip]
    sets = (
        ("document: golden inputs", "≤ 0.5", inputs),
        ("document: installed guests, host CPU model", "≤ 0.1", documents.installed(bench.virt)),
        ("document: the example", "", [documents.EXAMPLE.read_text()]),
    )
    for name, goal, texts in sets:
        accepted = [text for text in texts if bench.accepts(text)]
        sides = [bench.both(text, bench.rounds) for text in accepted]
        if sides:
            samples = [
                Sample([s.median for s in side], statistics.median(s.best for s in side))
                for side in zip(*sides, strict=True)
            ]
            yield paired(name, goal, samples, note=f"{len(accepted)} of {len(texts)} documents")


def growth(bench: Bench) -> Iterator[Row]:
    """Documents with more and more disks."""
    for name, (make, counts) in documents.GROWTH.items():
        for count in counts:
            text = make(count, bench.virt)
            if not bench.accepts(text):
                continue
            samples = bench.both(text, max(5, bench.rounds // 4))
            share = samples[0].median / count
            yield paired(f"growth: {count} {name}", "≤ 0.5 at most disks", samples, f"{share:.3f} ms a disk")


#: runs a program and prints its peak memory in KiB; a child counts the memory of the process that starts it as its
#: own, so that has to be a small one
_LAUNCHER = """\
import os, sys
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", 1, 0)])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _run(words: Sequence[str], environment: dict[str, str]) -> str:
    """Run a program; its output."""
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _peak(words: Sequence[str], environment: dict[str, str]) -> float:
    """The peak memory of a program in MiB."""
    return int(_run((sys.executable, "-S", "-c", _LAUNCHER, *words), environment)) / 1024


def cold(bench: Bench) -> Iterator[Row]:
    """The command line tool, from start to end."""
    file = Path(bench.folder, "guest.xml")
    file.write_text(documents.installed(bench.virt)[0])
    ours = (sys.executable, "-m", "qemushim", "argv", str(file), "--qemu", BUNDLED)
    works: list[Work] = [lambda: _run(ours, bench.environment)]
    if bench.daemon is not None and shutil.which("virsh"):
        theirs = ("virsh", "-c", bench.daemon.uri, "domxml-to-native", "qemu-argv", str(file))
        works.append(lambda: _run(theirs, bench.environment))
    yield paired("command line tool, cold", "≤ 1.5", in_turn(bench.rounds, *works))
    peak = Sample([_peak(ours, bench.environment) for _ in range(5)])
    yield Row("command line tool, peak memory", "≤ 40 MiB", peak, unit="MiB", note="MiB")


def imports(bench: Bench) -> Iterator[Row]:
    """Imports in an interpreter of their own; the start of the interpreter is taken off."""
    programs = ("pass", "import qemushim", "import qemushim.guest", "import lxml.etree")
    started, package, core, lxml = in_turn(
        bench.rounds, *(lambda p=p: _run((sys.executable, "-c", p), bench.environment) for p in programs)
    )
    floor = started.median

    def above(sample: Sample) -> Sample:
        return Sample([max(value - floor, 0.0) for value in sample.values])

    yield Row("interpreter start", "", started)
    yield Row("import qemushim", "≤ 2", above(package), above(lxml), note="the other: import lxml.etree")
    yield Row("import qemushim.guest", "", above(core), above(lxml), note="the other: import lxml.etree")


def loading(bench: Bench) -> Iterator[Row]:
    """A snapshot that comes with the package."""
    path = ROOT / "qemushim" / "emulator" / "snapshots" / "10.0.0-x86_64.snapshot"
    data = path.read_bytes()
    [sample] = in_turn(bench.rounds, lambda: snapshot.load(data))
    yield Row("loading a snapshot", "≤ 5 ms", sample)


def probing(bench: Bench) -> Iterator[Row]:
    """Asking a real binary.  Each round takes a path that neither side has seen."""
    daemon = bench.daemon
    if daemon is None:
        return
    from qemushim.emulator.probe import probe

    rounds = max(3, bench.rounds // 10)
    ours, theirs = [], []
    for number in range(rounds + 1):
        path = os.path.join(bench.folder, f"qemu-{number}")
        shutil.copy2(os.path.realpath(daemon.binary), path)
        ask = (path, "x86_64", None, daemon.virt)
        ours.append(took(lambda path=path: probe(path)))  # type: ignore[misc]
        theirs.append(took(lambda ask=ask: daemon.connection.getDomainCapabilities(*ask)))  # type: ignore[misc]
        os.unlink(path)
    yield Row("probe of a binary, cold", "≤ 0.5", Sample(ours[1:]), Sample(theirs[1:]))


# -- a fleet ---------------------------------------------------------------------------------------


def _resident() -> float:
    """The memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


#: what the processes of a fleet have from the one that they are made from
_fleet: Bench | None = None


def _ours(text: str) -> tuple[int, float]:
    """One document on our side: the number of arguments, and the memory of the process."""
    assert _fleet is not None
    return len(_fleet.native(text)), _resident()


@cache
def _own_daemon(_process: int, uri: str) -> Daemon:
    """A connection for each process."""
    return Daemon(uri)


def _theirs(text: str) -> tuple[int, float]:
    """One document on the other side."""
    assert _fleet is not None
    return len(_own_daemon(os.getpid(), _fleet.options.libvirt).native(text).split()), 0.0


class _Side:
    """Two processes that work through a fleet, part by part."""

    def __init__(self, work: Callable[[str], tuple[int, float]]) -> None:
        self.work = work
        self.processes = ProcessPoolExecutor(
            2, mp_context=multiprocessing.get_context("fork"), initializer=gc.freeze
        )
        self.took = 0.0
        #: MiB of a process, after each document
        self.memory: list[float] = []

    def do(self, texts: Sequence[str]) -> None:
        self.took += took(
            lambda: self.memory.extend(m for _, m in batch.each(self.work, texts, executor=self.processes))
        )

    def note(self) -> str:
        early = max(self.memory[: len(self.memory) // FLEET_PARTS])
        return f"memory {early:.1f} → {max(self.memory):.1f} MiB a process"


#: the sides take turns, a tenth of the fleet each time
FLEET_PARTS = 10


def fleet(bench: Bench) -> Iterator[Row]:
    """Many documents, two processes on each side."""
    global _fleet
    _fleet = bench
    size = bench.options.fleet
    works = (_ours, _theirs) if bench.daemon is not None else (_ours,)
    for what, make in (("installed guests", documents.fleet_guest), ("bare guests", documents.bare_guest)):
        sides = [_Side(work) for work in works]
        for part in range(FLEET_PARTS):
            texts = [make(number, bench.virt) for number in range(part, size, FLEET_PARTS)]
            for side in sides:
                side.do(texts)
        for side in sides:
            side.processes.shutdown()
        samples = [Sample([side.took]) for side in sides]
        yield paired(f"a fleet of {size} {what}, two processes", "≤ 0.25", samples, sides[0].note())


# -- the whole -------------------------------------------------------------------------------------

ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "document": warm,
    "growth": growth,
    "cold": cold,
    "import": imports,
    "snapshot": loading,
    "probe": probing,
    "fleet": fleet,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--libvirt", metavar="URI", default="", help="a libvirtd to measure against (qemu:///system)"
    )
    parser.add_argument(
        "--documents", type=Path, default=ROOT / "golden", metavar="DIR", help="default: golden/"
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="NAME", help="leave out a document, by its file's name"
    )
    parser.add_argument(
        "--rounds", type=int, default=40, metavar="N", help="times that each is measured (default: 40)"
    )
    parser.add_argument(
        "--fleet", type=int, default=10_000, metavar="N", help="guests of the fleet (default: 10000)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help=f"only rows of: {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    options = parser.parse_args()
    rows: list[Row] = []
    # QEMU runs as a user of its own where libvirt asks it, and has to reach its copy
    with tempfile.TemporaryDirectory(prefix="qemushim-bench-") as folder:
        os.chmod(folder, 0o755)
        bench = make_bench(options, folder)
        for name, measure in ROWS.items():
            if options.only in name:
                print(f"measuring: {name}", file=sys.stderr)
                rows += measure(bench)
    if options.json:
        machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
        about = {**machine, "load": os.getloadavg(), "libvirt": options.libvirt, "rounds": options.rounds}
        options.json.write_text(
            json.dumps({"machine": about, "rows": [r.data() for r in rows]}, indent=1) + "\n"
        )
    print(table(rows), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
