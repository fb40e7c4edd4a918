"""Say what a Linux guest calls its network cards and disks: systemd's predictable names, links below /dev/disk.

With a second document, --machine or --qemu twice: what that change does to the names.  A machine of another kind has
other buses: where the addresses of FILE can not be kept they are given anew, and it is said."""

from __future__ import annotations

import argparse

from qemushim.cli.common import (
    add_document,
    add_format,
    add_host,
    as_json,
    emulator_for,
    host_for,
    note,
    read_document,
    schema_of,
)
from qemushim.cli.table import print_table
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.inspect.change import other_machine
from qemushim.inspect.names import Named, Renamed, change_data, compare_names, names, names_data
from qemushim.inspect.survey import Survey, survey

EPILOG = """\
examples:
  qemushim names web.xml                          what they are called
  qemushim names old.xml new.xml                  what an edit does to the names
  qemushim names web.xml --machine pc-q35-6.0     what another machine type does
  qemushim names web.xml --qemu 6.2 --qemu 10.0   what another QEMU does

exit codes: 0, 1 where a name changes or goes (or the guest is refused), 2 for wrong usage"""

#: names of a change that are bad news
_CHANGED = ("renamed", "gone")
#: verdict → its colour on a terminal
_STYLES = {"same": "dim", "renamed": "yellow", "added": "green", "gone": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    parser.add_argument("new", metavar="NEW", nargs="?", help="the document after a change").complete = {  # type: ignore[attr-defined]
        "bash": "_shtab_compgen_files",
        "zsh": "_files",
        "tcsh": "f",
    }
    parser.add_argument(
        "--machine",
        metavar="TYPE",
        action="append",
        default=[],
        help="the machine type after a change; twice: before and after it",
    )
    parser.add_argument(
        "--qemu",
        metavar="VERSION|PATH|SNAPSHOT",
        action="append",
        default=[],
        help="which QEMU (default: the newest of the architecture); twice: before and after a change",
    )
    parser.add_argument(
        "--arch", metavar="ARCH", help="architecture of the guest, where the document names none"
    )
    add_format(parser, ("text", "json"), f"text (default); {schema_of('names', 'names-change')}")
    add_host(parser)
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    if options.new is not None and options.machine:
        options.usage_error("NEW and --machine do not go together")
    if max(len(options.qemu), len(options.machine)) > 2:
        options.usage_error("--qemu and --machine are for before and after, not more")
    qemus = options.qemu or ["latest"]
    guest = read_document(options.file)
    if len(options.machine) == 2:
        guest.domain.node.ensure("os/type").set("machine", options.machine[0])
    old = _survey(guest, options, qemus[0])
    if options.new is None and not options.machine and len(qemus) == 1:
        found = names(old)
        _dump(names_data(found)) if options.format == "json" else _show(found)
        return 0
    if options.new is not None:
        new = _survey(read_document(options.new), options, qemus[-1])
    else:
        new = _changed(guest, old, options, qemus[-1])
    changes = compare_names(old, new)
    _dump(change_data(changes)) if options.format == "json" else _show_changes(changes)
    return int(any(change.verdict in _CHANGED for change in changes))


def _side(guest: Guest, options: argparse.Namespace, qemu: str) -> tuple[Emulator, Host]:
    one = argparse.Namespace(**{**vars(options), "qemu": qemu})
    emulator = emulator_for(guest, one)
    return emulator, host_for(one, emulator)


def _survey(guest: Guest, options: argparse.Namespace, qemu: str) -> Survey:
    return survey(guest, *_side(guest, options, qemu))


def _changed(guest: Guest, old: Survey, options: argparse.Namespace, qemu: str) -> Survey:
    """The same guest, defined already, on another machine type or QEMU."""
    emulator, host = _side(guest, options, qemu)
    machine = options.machine[-1] if options.machine else old.domain.machine_type
    twin, moved = other_machine(guest, old.guest, machine, emulator, host)
    if moved:
        note(f"{machine} has other buses: every address is given anew")
    return survey(twin, emulator, host, update=moved)


def _dump(data: object) -> None:
    print(as_json(data))


def _show(found: list[Named]) -> None:
    cards = [n for n in found if n.kind == "interface"]
    disks = [n for n in found if n.kind == "disk"]
    for heading, names_of, kind in (("NETWORK CARD", "NAME", cards), ("DISK", "LINK", disks)):
        if kind is disks and cards and disks:
            print()
        if kind:
            rows = [(n.device.partition(" ")[2], n.name or "?", n.rule, " ".join(n.others)) for n in kind]
            print_table((heading, names_of, "BECAUSE OF", "ALSO"), rows, whole=(heading,))
    if not found:
        print("this guest has no network cards and no disks")


def _show_changes(changes: list[Renamed]) -> None:
    rows = []
    for change in changes:
        named = change.new or change.old
        assert named is not None
        before = (change.old.name or "?") if change.old is not None else "–"
        after = (change.new.name or "?") if change.new is not None else "–"
        rows.append((change.verdict, named.device, before, after, named.rule))
    headings = ("", "DEVICE", "BEFORE", "AFTER", "BECAUSE OF")
    print_table(headings, rows, style=lambda row: _STYLES[row[0]], whole=("", "DEVICE"))
    cards = [
        c.new for c in changes if c.verdict == "renamed" and c.new is not None and c.new.kind == "interface"
    ]
    if any(not card.name.startswith("eno") for card in cards):
        print("\nTo keep a card's name wherever it sits, give it an index: <acpi index='1'/> makes it eno1.")
