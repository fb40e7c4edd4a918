"""Say which guests survive another QEMU: all of a directory, of some files, or of a libvirt connection.

Each guest is taken from the QEMU of its machine type's version (or --from) to the one that --qemu names, and gets a
verdict: same, invisible to the guest, guest sees it, will not start.  “qemushim compare” says more of a single one.
Nothing is started; a connection is read only."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from qemushim.cli.common import (
    add_format,
    as_json,
    check_writable,
    complain,
    schema_of,
    write_file,
)
from qemushim.cli.compare import EXIT, STYLES
from qemushim.cli.documents import documents, how_many
from qemushim.cli.progress import asking
from qemushim.cli.table import print_table
from qemushim.compare.audit import ORDER
from qemushim.compare.verdict import Verdict
from qemushim.errors import ConfigError, EmulatorError

if TYPE_CHECKING:
    from qemushim.compare.audit import Finding

EPILOG = """\
examples:
  qemushim audit /etc/libvirt/qemu --qemu 10.0
  qemushim audit qemu:///system --qemu /usr/bin/qemu-system-x86_64 --html report.html
  qemushim audit guests/*.xml --from 7.2 --qemu 10.0 --json | jq '.guests[] | select(.verdict == "refused") | .name'

exit codes: the worst of 0 no guest notices anything, 3 some see it, 1 some could not be compared (or there are none), 4
some will not start; 2 for wrong usage"""

#: verdict → exit code, worst first; ``None``: not compared
_EXIT = tuple((verdict, 1 if verdict is None else EXIT[verdict]) for verdict in ORDER)
_HEADINGS = ("VERDICT", "GUEST", "MACHINE TYPE", "QEMU", "WHAT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "places", metavar="DIR|FILE|URI", nargs="+", help="where the domain documents are"
    ).complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # type: ignore[attr-defined]
    parser.add_argument(
        "--qemu",
        metavar="VERSION|PATH|SNAPSHOT",
        action="append",
        dest="qemus",
        default=[],
        help="the new QEMU (default: the newest known); twice: the old one and the new one",
    )
    parser.add_argument(
        "--from",
        dest="old",
        metavar="VERSION|PATH|SNAPSHOT",
        default="",
        help="the old QEMU, as --qemu given twice (default: for each guest the one of its machine type's version)",
    )
    parser.add_argument(
        "--arch", metavar="ARCH", default="x86_64", help="where a document names none (default: x86_64)"
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="processes to use (default: one a processor)")
    parser.add_argument(
        "--html", metavar="FILE", help="write a report for people, a page that needs nothing else"
    )
    add_format(parser, ("text", "json"), f"text: a table (default); {schema_of('audit')}")
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    from qemushim.cli import REFUSED
    from qemushim.compare.audit import Task, audit_each, counts

    if options.jobs is not None and options.jobs < 1:
        options.usage_error("--jobs takes a number from 1")
    if len(options.qemus) > (1 if options.old else 2):
        options.usage_error("--qemu is for the old and the new one, not more")
    options.qemu = (options.qemus or ["latest"])[-1]
    options.old = options.old or (options.qemus[0] if len(options.qemus) > 1 else "")
    _check_emulators(options)
    if options.html is not None:
        check_writable(options.html)
    # one guest after the other is read, compared and told of: there may be very many
    tasks = (
        Task(name, text, options.qemu, options.old, options.arch)
        for place in options.places
        for name, text in documents(place)
    )
    data = options.format == "json"
    findings: list[Finding] = []
    with asking(sum(map(how_many, options.places)), "comparing guests") as done:
        for finding in audit_each(tasks, workers=options.jobs):
            if data:
                _write_item(finding, first=not findings)
            # the parts that are the same are most of a finding
            findings.append(finding.slim())
            done(finding.file)
    if not findings:
        complain(ConfigError(f"no domain document in {', '.join(options.places)}"))
        return REFUSED
    if options.html is not None:
        _write_page(findings, options)
    if data:
        sys.stdout.write(f'\n],\n"counts": {as_json(counts(findings))}\n}}\n')
    else:
        show(findings)
    return next(exit_code for verdict, exit_code in _EXIT if any(f.verdict is verdict for f in findings))


def _write_item(finding: Finding, *, first: bool) -> None:
    start = '{\n"guests": [\n' if first else ",\n"
    sys.stdout.write(f"{start}{as_json(finding.data())}")


def _check_emulators(options: argparse.Namespace) -> None:
    """Tell at once, not once a guest, where a name means nothing (a version may be there for one architecture only)."""
    from qemushim.emulator.bundled import available, find

    arches = {options.arch, *(known.arch for known in available())}
    for spec in filter(None, (options.qemu, options.old)):
        problems = []
        for arch in sorted(arches, key=lambda arch: arch != options.arch):
            try:
                find(spec, arch)
                break
            except EmulatorError as problem:
                problems.append(problem)
        else:
            raise problems[0]


def _write_page(findings: list[Finding], options: argparse.Namespace) -> None:
    from qemushim.compare.page import page

    title = f"{', '.join(options.places)} on QEMU {options.qemu}"
    write_file(options.html, page(findings, title), "the report")


def show(findings: list[Finding]) -> None:
    """A table, worst first, and a line of counts; on a terminal with colours."""
    ordered = sorted(findings, key=lambda finding: ORDER.index(finding.verdict))
    styles = {_text(verdict): "magenta" if verdict is None else STYLES[verdict] for verdict in ORDER}
    print_table(
        _HEADINGS, [_cells(f) for f in ordered], style=lambda row: styles[row[0]], whole=("VERDICT", "QEMU")
    )
    counts = ((verdict, sum(f.verdict is verdict for f in findings)) for verdict in ORDER)
    print("\n" + ", ".join(f"{_text(verdict)}: {number}" for verdict, number in counts if number))


def _text(verdict: Verdict | None) -> str:
    return "not compared" if verdict is None else verdict.text


def _cells(finding: Finding) -> tuple[str, str, str, str, str]:
    return (
        _text(finding.verdict),
        finding.name or finding.file,
        finding.machine,
        f"{finding.old} → {finding.new}",
        finding.summary,
    )
