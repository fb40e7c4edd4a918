"""Say what a guest notices of a change: another document, another QEMU, another machine type.

Each part of the guest gets a verdict: same, invisible to the guest, guest sees it (with what that means), will not
start.  What differs only on the host's side of the command line is told apart from that."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from qemushim.cli.common import add_format, as_json, note, printable, read_document, schema_of
from qemushim.compare.verdict import Comparison, Verdict

if TYPE_CHECKING:
    from qemushim.compare.layout import Row
    from qemushim.compare.sides import Side
    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host

EPILOG = """\
examples:
  qemushim compare old.xml new.xml                  two documents
  qemushim compare web.xml --qemu 7.2 --qemu 10.0   the guest as 7.2 defined it, run by 10.0
  qemushim compare web.xml --qemu 10.0              the same from the QEMU of its machine type's version
  qemushim compare web.xml --machine pc-i440fx-7.2 --machine pc
  qemushim compare web.xml --qemu 10.0 --json | jq '.lines[] | select(.verdict == "visible") | .part'

exit codes: 0 the guest notices nothing, 3 the guest sees it, 4 it will not start; 1 where there is nothing to compare
with (the first document or a QEMU is refused), 2 for wrong usage"""

#: verdict → exit code
EXIT = {Verdict.SAME: 0, Verdict.INVISIBLE: 0, Verdict.VISIBLE: 3, Verdict.REFUSED: 4}
#: verdict → style on a terminal
STYLES = {Verdict.SAME: "dim", Verdict.INVISIBLE: "cyan", Verdict.VISIBLE: "yellow", Verdict.REFUSED: "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
    parser.add_argument(
        "old", metavar="OLD", help="a domain document, or - for standard input"
    ).complete = files  # type: ignore[attr-defined]
    parser.add_argument(
        "new",
        metavar="NEW",
        nargs="?",
        help="another one; left out: OLD is compared with itself on another QEMU or another machine type",
    ).complete = files  # type: ignore[attr-defined]
    parser.add_argument(
        "--qemu",
        metavar="VERSION|PATH|SNAPSHOT",
        action="append",
        default=[],
        help="which QEMU, once for both sides or once for each (see “qemushim argv --help”)",
    )
    parser.add_argument(
        "--machine",
        metavar="TYPE",
        action="append",
        default=[],
        help="machine type in place of the document's: of the new side, or one for each",
    )
    parser.add_argument("--arch", metavar="ARCH", help="architecture, where the documents name none")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="with two QEMUs: let each define the document anew, rather than run what the first has defined",
    )
    parser.add_argument("--all", action="store_true", help="list the parts that are the same, too")
    parser.add_argument(
        "--argv", action="store_true", help="show what differs on the host's side of the command line"
    )
    add_format(parser, ("text", "json"), f"text (default); {schema_of('compare')}")
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    _check_usage(options)
    comparison = _compare(options)
    if options.format == "json":
        print(as_json(comparison.data()))
    else:
        from qemushim.compare.layout import rows

        show(rows(comparison, everything=options.all, argv=options.argv))
    return EXIT[comparison.verdict]


def _check_usage(options: argparse.Namespace) -> None:
    if max(len(options.qemu), len(options.machine)) > 2:
        options.usage_error("--qemu and --machine go once for each side, twice at most")
    if options.new is None and not options.qemu and not options.machine:
        options.usage_error("compare with what? name NEW, --qemu or --machine")
    if options.old == options.new == "-":
        options.usage_error("only one side can be standard input")


def _compare(options: argparse.Namespace) -> Comparison:
    from qemushim.compare.sides import compare, upgrade

    old = read_document(options.old)
    new = read_document(options.new) if options.new is not None else old.copy()
    machines = [None, *options.machine][-2:] if options.machine else [None, None]
    emulators = _emulators(options, (old, new))
    sides = [_side(*side) for side in zip((old, new), emulators, machines, strict=True)]
    # the same document on two QEMUs is a guest that moves from one to the other
    if options.new is None and not options.machine and not options.fresh:
        pairs = [(side.emulator, side.host) for side in sides]
        return upgrade(old, pairs[0], pairs[1], (sides[0].title, sides[1].title))
    return compare(*sides)


def _emulators(options: argparse.Namespace, guests: tuple[Guest, Guest]) -> list[Emulator]:
    """What ``--qemu`` says of each side."""
    from qemushim.compare.sides import origin
    from qemushim.emulator.bundled import find

    specs = (options.qemu or ["latest"]) * 2
    arches = [options.arch or guest.domain.arch or "x86_64" for guest in guests]
    new = find(specs[1], arches[1], say=note)
    if len(options.qemu) == 1 and options.new is None and not options.machine:
        return [origin(guests[0], new), new]
    return [find(specs[0], arches[0], say=note), new]


def _side(guest: Guest, emulator: Emulator, machine: str | None) -> Side:
    from qemushim.compare.sides import Side, version_text

    if machine is not None:
        node = guest.domain.node.find("os/type")
        if node is not None:
            node.set("machine", machine)
    words = [guest.file, *([machine] if machine else []), f"QEMU {version_text(emulator)}"]
    return Side(guest, emulator, _host_of(emulator), label=", ".join(words))


def _host_of(emulator: Emulator) -> Host:
    """Both sides stand on the same host: the question is what QEMU makes of it."""
    from qemushim.host import Host

    return Host.nominal(emulator.arch)


def show(rows: Iterable[Row]) -> None:
    """Rows as text; on a terminal with colours, and folded where it is narrow."""
    if not sys.stdout.isatty():
        for _, text in rows:
            print(printable(text))
        return
    # takes longer to load than everything else here together
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for verdict, text in rows:
        body = text.lstrip(" ")
        shown = Text(printable(body), style=STYLES[verdict] if verdict is not None else "")
        console.print(Padding(shown, (0, 0, 0, len(text) - len(body))))
