"""Say what QEMU binaries can do: version, accelerators, machine types, CPU models.

A binary is started without a guest, asked over QMP (one before 1.3: by its help text), and stopped; what it says is
remembered in the user's cache until it, KVM, the processor or the kernel changes.  A version that comes with the
package is told of in the same way."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import add_format, as_json, complain, note, schema_of
from qemushim.cli.progress import asking
from qemushim.emulator.model import Emulator
from qemushim.errors import EmulatorError

EPILOG = """\
examples:
  qemushim probe                                         every QEMU of this machine
  qemushim probe /usr/bin/qemu-system-x86_64 --save my.snapshot
  qemushim probe 10.0 --json | jq -r '.[].accelerators[].machines[].name'

exit codes: 0, 1 where one does not answer, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "binaries",
        metavar="BINARY",
        nargs="*",
        help="a QEMU binary, or anything else that --qemu takes (default: every qemu-system-… on PATH)",
    ).complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # type: ignore[attr-defined]
    parser.add_argument(
        "--arch", metavar="ARCH", default="x86_64", help="architecture of versions (default: x86_64)"
    )
    parser.add_argument(
        "--save", metavar="FILE", help="write a snapshot of the emulator, for --qemu on any machine"
    )
    parser.add_argument("--refresh", action="store_true", help="ask again, even where nothing has changed")
    add_format(parser, ("text", "json"), f"text: a report (default); {schema_of('probe')}")
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    from qemushim.cli import REFUSED
    from qemushim.cli.report import as_data, as_text

    found, problems = _ask(options)
    for problem in problems:
        complain(problem)
    if options.save is not None and found:
        _save(found[0], options.save)
    if options.format == "json":
        print(as_json([as_data(emulator) for emulator in found]))
    else:
        sys.stdout.write("\n".join(map(as_text, found)))
    return REFUSED if problems else 0


def _ask(options: argparse.Namespace) -> tuple[list[Emulator], list[EmulatorError]]:
    from qemushim.cli.binaries import installed
    from qemushim.emulator.bundled import find_all, is_program

    names = options.binaries or installed()
    if options.save is not None and len(names) > 1:
        options.usage_error("--save is for one binary at a time")
    if not names:
        hint = "install one, or name a version: qemushim probe latest"
        return [], [EmulatorError("no QEMU is installed on this machine", hint=hint)]
    with asking(sum(map(is_program, names))) as done:
        answers = find_all(names, options.arch, refresh=options.refresh, say=note, done=done)
    found = [answer for answer in answers if isinstance(answer, Emulator)]
    return found, [answer for answer in answers if isinstance(answer, EmulatorError)]


def _save(emulator: Emulator, path: str) -> None:
    from qemushim.emulator import snapshot

    try:
        with open(path, "wb") as file:
            file.write(snapshot.dump(emulator))
    except OSError as problem:
        raise EmulatorError(f"cannot write '{path}': {problem.strerror}") from None
