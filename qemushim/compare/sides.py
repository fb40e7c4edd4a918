"""Two sides of one guest: a document with a QEMU each, defined, built and compared."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.compare.abi import differences, refusals
from qemushim.compare.difference import lines, machine_version
from qemushim.compare.fingerprint import Fingerprint, fingerprint
from qemushim.compare.spelling import canonical, properties
from qemushim.compare.verdict import Change, Comparison, Line, Verdict
from qemushim.compare.visible import HOST_CPUS, HOST_PROPERTIES
from qemushim.emulator.bundled import find
from qemushim.emulator.model import Emulator
from qemushim.errors import EmulatorError, ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.inspect.names import compare_names
from qemushim.inspect.survey import survey

#: what it means that a card is called otherwise
_NAMES = "its configuration is under the old name; an <acpi index=>, or a .link file with its MAC address, keeps a name"
#: options that say what the guest sees: told part by part, not as arguments
_GUEST_OPTIONS = frozenset(
    "-machine -M -cpu -m -smp -numa -uuid -smbios -rtc -localtime -no-acpi -no-hpet -global -boot -watchdog "
    "-soundhw -vga -net -usb -usbdevice -no-fd-bootchk -kernel -initrd -append -bios -pflash".split()
)


@dataclass(frozen=True)
class Side:
    """A document and what is to run it.  ``update``: it is new, and takes today's defaults."""

    guest: Guest
    emulator: Emulator
    host: Host
    update: bool = True
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or f"{self.guest.file or self.guest.name}, QEMU {version_text(self.emulator)}"

    def build(self) -> Built:
        """Define it and make its command line.  Raises what ``Guest.define`` raises."""
        defined = self.guest.define(self.emulator, self.host, update=self.update)
        running = defined.copy()
        try:
            command = running.start(self.emulator, self.host)
        except ShimError as problem:
            problem.file = problem.file or self.guest.file
            raise
        return Built(defined, command, fingerprint(defined, command, running.domain))


@dataclass(frozen=True)
class Built:
    """A side when it is complete."""

    defined: Guest
    command: Command
    seen: Fingerprint


def version_text(emulator: Emulator) -> str:
    """``10.0.2``"""
    return ".".join(map(str, emulator.version))


def origin(guest: Guest, otherwise: Emulator) -> Emulator:
    """The QEMU that a guest was probably made for: the one of its machine type's version.

    ``otherwise``: where the machine type has no version, or none that is known has it.
    """
    version = machine_version(guest.domain.machine_type)
    if not version:
        return otherwise
    try:
        found = find(f"~{version}", otherwise.arch)
    except EmulatorError:
        return otherwise
    return found if found.machine(guest.domain.machine_type, guest.domain.virt) is not None else otherwise


def upgrade(
    guest: Guest, old: tuple[Emulator, Host], new: tuple[Emulator, Host], labels: tuple[str, str] = ("", "")
) -> Comparison:
    """What a guest that was defined with one QEMU meets when another one runs it.

    Raises ``ConfigError`` where it can't be defined with the first.
    """
    before = Side(guest, *old, label=labels[0])
    built = before.build()
    return _compare(before, built, Side(built.defined, *new, update=False, label=labels[1]))


def compare(old: Side, new: Side) -> Comparison:
    """What differs between two sides.  Raises ``ConfigError`` where the old one can't be had."""
    return _compare(old, old.build(), new)


def _compare(old: Side, before: Built, new: Side) -> Comparison:
    try:
        after = new.build()
    except ShimError as problem:
        return refusal(old.title, new.title, problem)
    found = _with_names(lines(before.seen, after.seen), (old, before), (new, after))
    return Comparison(
        old.title,
        new.title,
        found,
        tuple(host_difference(before.command, after.command)),
        tuple(dict.fromkeys(_libvirt(before.defined, after.defined))),
        tuple(_notes(old, new, after.defined)),
    )


def _with_names(
    found: tuple[Line, ...], old: tuple[Side, Built], new: tuple[Side, Built]
) -> tuple[Line, ...]:
    """The network cards that Linux calls otherwise, told with what differs of them."""
    same_board = old[1].defined.domain.machine_type == new[1].defined.domain.machine_type
    cards = new[1].defined.domain.lists["interface"]
    if old[0].emulator.classic or new[0].emulator.classic or not cards:
        return found
    # on the same board, with every device where it was, a QEMU can only hear of an index or not
    unchanged = same_board and not any(line.changes for line in found)
    if unchanged and not any(card.acpi_index for card in cards):
        return found
    sides = [survey(built.defined, side.emulator, side.host, update=False) for side, built in (old, new)]
    renamed = {
        change.new.device: (change.old.name, change.new.name)
        for change in compare_names(*sides)
        if change.old and change.new and change.verdict == "renamed" and change.new.kind == "interface"
    }
    return tuple(_renamed(line, renamed.get(line.part.rpartition(" → ")[2])) for line in found)


def _renamed(line: Line, names: tuple[str, str] | None) -> Line:
    if names is None:
        return line
    old, new = names
    change = Change("name in Linux", old or None, new or None, Verdict.VISIBLE, _NAMES)
    return replace(line, changes=(*line.changes, change))


def refusal(old: str, new: str, problem: ShimError) -> Comparison:
    """The new side can't run it."""
    reason = f"{problem.where}{problem.message}"
    refused = Change("start", None, reason, Verdict.REFUSED, " ".join(problem.hint.split("\n")))
    return Comparison(old, new, (Line("start", (refused,), 0, problem.line),))


def _libvirt(old: Guest, new: Guest) -> Iterator[str]:
    if not old.classic and not new.classic:
        yield from refusals(differences(old.domain, new.domain))


def _notes(old: Side, new: Side, defined: Guest) -> Iterator[str]:
    domain, emulator = defined.domain, new.emulator
    machine = emulator.machine(domain.machine_type, domain.virt)
    if machine is not None and machine.deprecated:
        yield f"machine type {machine.name} is deprecated in QEMU {version_text(emulator)}: a later one may not have it"
    mode = domain.node.value("cpu/@mode")
    if mode in HOST_CPUS and old.emulator is not emulator:
        yield f"CPU mode {mode}: what the guest gets is up to the host and its QEMU, and is not compared here"


# -- the command line, as far as it stays on the host ----------------------------------------------------------------


def host_difference(old: Command, new: Command) -> Iterator[str]:
    """``- option`` and ``+ option`` for what differs whatever the spelling; what the guest sees is left out."""
    before, after = list(_host_lines(old)), list(_host_lines(new))
    for line in difflib.ndiff(before, after):
        if line[:2] in ("- ", "+ "):
            yield line


def _host_lines(command: Command) -> Iterator[str]:
    for name, value in command.environment.items():
        yield f"{name}={value}"
    yield command.binary
    for option in command.options:
        if option.flag == "-device":
            yield from _device_line(option)
        elif option.flag not in _GUEST_OPTIONS:
            yield canonical(option)


def _device_line(option: Option) -> Iterator[str]:
    given = properties(option)
    kept = [
        f"{key}={given[key]}" for key in sorted(given) if key.split(".")[0] in HOST_PROPERTIES and key != "id"
    ]
    if kept:
        yield f"-device {given.get('id', given.get('driver', ''))}: {','.join(kept)}"


__all__ = ["Built", "Side", "compare", "host_difference", "origin", "refusal", "upgrade", "version_text"]
