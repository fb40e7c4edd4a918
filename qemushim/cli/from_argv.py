"""Read a QEMU command line and print the domain document that says the same.

COMMAND is one word with the whole command in it, the name of a file that holds it, or - for standard input: as pasted
from a shell or a script, as a list in JSON, or as /proc/PID/cmdline has it.  What no element of a domain can say goes
to <qemu:commandline> or <qemu:override>.  What is otherwise under libvirt is told on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from qemushim.cli.common import (
    add_format,
    add_host,
    as_json,
    complain,
    names_binary,
    note,
    printable,
    problem_data,
    read_bytes,
    schema_of,
)
from qemushim.errors import ConfigError, ShimError

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.fromargv import Reading, Words
    from qemushim.host import Host
    from qemushim.running import Running

EPILOG = """\
examples:
  qemushim from-argv 'qemu-system-x86_64 -enable-kvm -m 4G -drive file=disk.qcow2,if=virtio -nic user,model=virtio'
  qemushim from-argv start-vm.sh > vm.xml
  qemushim from-argv --pid 4711                    a QEMU that runs on this machine
  qemushim from-argv -- qemu-system-x86_64 -m 4G   words, as the shell has split them
  qemushim argv vm.xml | qemushim from-argv -      the way back

exit codes: 0, 1 where the text is no command of QEMU's or libvirt would refuse the document, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "qemushim from-argv [options] COMMAND | FILE | - | -- WORD… or qemushim from-argv [options] --pid PID"
    )
    parser.add_argument("command", metavar="COMMAND", nargs="*", help="the command, a file with it, or -")
    parser.add_argument("--pid", type=int, metavar="PID", help="a QEMU that runs on this machine")
    parser.add_argument(
        "--directory",
        metavar="DIR",
        help="what relative paths of the command are relative to (default with --pid: where the process runs)",
    )
    parser.add_argument("--name", help="what the domain is called (default: what -name says)")
    parser.add_argument(
        "--qemu",
        metavar="VERSION|PATH|SNAPSHOT",
        help="which QEMU the document is for (see “qemushim emulators”; default: the one that runs, with --pid, else "
        "the newest)",
    )
    add_host(parser)
    add_format(
        parser,
        ("xml", "json"),
        f"xml: the document, notes on standard error (default); {schema_of('from-argv')}",
    )
    parser.add_argument("--quiet", action="store_true", help="no notes on standard error")
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    from qemushim.fromargv import Known, read_command
    from qemushim.fromargv.arguments import arguments_of

    running = _running(options)
    file, words = ("", running.words) if running is not None else _words(options)
    binary = arguments_of(words, file).binary
    emulator = _emulator(options, binary, words, running.binary if running is not None else "")
    host = _host(options, emulator)
    known = running.known if running is not None else Known()
    directory = options.directory or (running.directory if running is not None else "")
    reading = read_command(
        words, emulator, host, file=file, known=known, name=options.name or "", directory=directory
    )
    if options.format == "json":
        print(as_json(_data(reading, emulator)))
    else:
        print(reading.to_xml().rstrip("\n"))
        if not options.quiet:
            _say(reading)
    return 0 if reading.refusal is None else 1


def _running(options: argparse.Namespace) -> Running | None:
    """The process that ``--pid`` names."""
    if (options.pid is None) == (not options.command):
        options.usage_error("give a COMMAND, or --pid PID")
    if options.pid is None:
        return None
    from qemushim.running import read_process

    return read_process(options.pid)


def _words(options: argparse.Namespace) -> tuple[str, Words]:
    """What errors call the command, and its words."""
    from qemushim.fromargv import Word, Words, words_of

    given: list[str] = options.command
    if len(given) > 1:
        return "", Words([Word(word) for word in given])
    text = given[0]
    if text == "-" or os.path.isfile(text):
        name, data = read_bytes(text)
        return name, words_of(data, name)
    if not text.split():
        raise ConfigError("the command is empty")
    if len(text.split()) == 1 and ("/" in text or "." in text) and "qemu" not in os.path.basename(text):
        raise ConfigError("cannot read the command: No such file", file=text)
    return "<command>", words_of(text, "<command>")


def _emulator(options: argparse.Namespace, binary: str, words: Words, runs: str) -> Emulator:
    """The QEMU that the document is for: named, the one that runs, or the newest."""
    from qemushim.emulator.bundled import find
    from qemushim.fromargv.arguments import arch_of
    from qemushim.fromargv.machine import machine_of, machine_version

    machine = machine_of(words)
    arch = arch_of(binary, machine)
    if options.qemu is not None:
        return find(options.qemu, arch, say=note)
    if runs and os.access(runs, os.X_OK):
        return find(runs, arch, say=note)
    version = machine_version(machine)
    newest = find("latest", arch, say=note)
    if version is not None and version > newest.version[:2]:
        note(
            f"the machine type is one of QEMU {version[0]}.{version[1]}, which is newer than any that is known here"
        )
    return newest


def _host(options: argparse.Namespace, emulator: Emulator) -> Host:
    from qemushim.host import Host

    here = options.pid is not None or (options.qemu is not None and names_binary(options))
    if options.host == "local" or (options.host is None and here):
        return Host.local()
    return Host.nominal(emulator.arch)


def _say(reading: Reading) -> None:
    for found in reading.notes:
        where = f"argument {found.place.index}: " if found.place.index else ""
        print(printable(f"{found.kind}: {where}{found.message}"), file=sys.stderr)
    if reading.refusal is not None:
        note("libvirt would refuse this document:")
        complain(reading.refusal)


def _data(reading: Reading, emulator: Emulator) -> dict[str, Any]:
    refusal: ShimError | None = reading.refusal
    return {
        "schema": "qemushim.from-argv/1",
        "xml": reading.to_xml(),
        "qemu": ".".join(map(str, emulator.version)),
        "notes": [
            {"kind": n.kind, "message": n.message, "argument": n.place.index, "line": n.place.line}
            for n in reading.notes
        ],
        "kept": list(reading.kept),
        "devices": [{"element": tag, "words": list(words)} for tag, words in reading.sources],
        "argv": list(reading.argv),
        "refused": problem_data(refusal) if refusal is not None else None,
    }
