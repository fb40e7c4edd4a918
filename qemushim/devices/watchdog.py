"""``<watchdog>`` and ``<panic>``: what tells the host that the guest hangs, or gave up.

https://libvirt.org/formatdomain.html#watchdog-devices and #panic-device
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device
from qemushim.devices.placement import address_properties, zpci_options
from qemushim.document.fields import Choice
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

ACTIONS = ("reset", "shutdown", "poweroff", "pause", "none", "dump", "inject-nmi")
#: where a watchdog may sit: model → address types, and libvirt's words about others
_PLACES = {
    "diag288": (("", "none"), "{} model of watchdog is virtual and cannot go on any bus."),
    "i6300esb": (("", "pci"), "{} model of watchdog can go only on PCI bus"),
    "ib700": (("", "isa"), "{} model of watchdog can go only on ISA bus"),
    "itco": (("", "none"), "{} model of watchdog is part of the machine and cannot have any address set."),
}


class Watchdog(Device):
    """``<watchdog>``: a timer that the guest must reset; ``action`` is taken where it does not."""

    tag = "watchdog"

    model = Choice("@model", ("i6300esb", "ib700", "diag288", "itco"), required=True)
    action = Choice("@action", ACTIONS)

    def complete(self, d: Define) -> None:
        self.action = self.action or "reset"

    def check(self, d: Define) -> None:
        model = self.model or ""
        first = d.domain.all(Watchdog)[0]
        if self.action != first.action:
            message = "watchdogs with different actions are not supported with this QEMU binary"
            raise error.unsupported(message, self.node, f"action='{first.action}'")
        alike = [one for one in d.domain.all(Watchdog) if one.model == model]
        if model in ("ib700", "itco", "diag288") and alike[0] is not self:
            message = f"domain can only have one watchdog with model '{model}'"
            raise error.unsupported(message, self.node, "keep one, or model='i6300esb'")
        if model == "ib700" and not (d.board.is_i440fx or d.board.is_isapc):
            message = f"{model} model of watchdog cannot be used with this machine type"
            raise error.unsupported(message, self.node, "model='i6300esb' or 'itco'")
        types, words = _PLACES[model]
        if self.address_type not in types:
            raise error.unsupported(words.format(model), self.node.child("address"), "drop <address>")
        if model == "diag288" and not d.board.is_s390:
            raise error.unsupported(
                f"{model} model of watchdog is allowed for s390 and s390x only", self.node, "model='i6300esb'"
            )
        if model == "ib700" and not (d.board.is_i440fx or d.board.is_isapc):
            raise error.unsupported(
                "ib700 model of watchdog cannot be used with this machine type", self.node, "model='i6300esb'"
            )
        if model == "itco" and not d.board.is_q35:
            raise error.unsupported(
                f"{model} model of watchdog is only part of q35 machine",
                self.node,
                "model='i6300esb', or machine='q35'",
            )

    def options(self, b: Build) -> Iterator[Option]:
        if self.model == "itco":
            return
        yield from zpci_options(self, b)
        properties: dict[str, Value] = {"driver": self.model, "id": self.alias, **address_properties(self, b)}
        yield b.device(properties, self.node, "a timer that the guest must reset")

    @classmethod
    def all_options(cls, b: Build) -> Iterator[Option]:
        """Watchdogs, then the one action they share."""
        watchdogs = b.domain.all(Watchdog)
        for watchdog in watchdogs:
            yield from watchdog.options(b)
        for watchdog in watchdogs:
            if watchdog.model == "itco":
                yield b.option(
                    "-global", "ICH9-LPC.noreboot=off", watchdog.node, "let the chipset's own watchdog act"
                )
                break
        if watchdogs:
            last = watchdogs[-1]
            rule = "what a watchdog does to a guest that hangs"
            yield b.option("-watchdog-action", action_of(last), last.node, rule)


def action_of(watchdog: Watchdog) -> str:
    """QEMU's word for what is done: what libvirt dumps for, QEMU only stops at."""
    action = watchdog.action or "reset"
    return "pause" if action == "dump" else action


#: models that the machine itself has, where nothing is to be placed
_BUILTIN_PANIC = frozenset({"hyperv", "pseries", "s390"})


class Panic(Device):
    """``<panic>``: how a guest says that its kernel gave up."""

    tag = "panic"

    model = Choice("@model", ("default", "isa", "pseries", "hyperv", "s390", "pvpanic")).says(
        "unknown panic model '{}'"
    )

    def complete(self, d: Define) -> None:
        if self.model in (None, "default"):
            self.model = default_panic_model(d)

    def check(self, d: Define) -> None:
        model = self.model
        if model is None:
            raise error.unsupported(
                "no panic model provided, and no default for the architecture and machine type",
                self.node,
                "give it a model=",
            )
        self._check_board(model, d)
        place = self.node.child("address")
        if model in _BUILTIN_PANIC and self.address_type not in ("", "none"):
            raise error.unsupported(
                f"setting the panic device address is not supported for model '{model}'",
                place,
                "drop <address>",
            )
        if model == "isa":
            if not d.emulator.has_device("pvpanic"):
                raise error.unsupported(
                    "the QEMU binary does not support the ISA panic device", self.node, "another model="
                )
            if self.address_type not in ("", "isa"):
                raise error.unsupported(
                    "panic is supported only with ISA address type", place, "<address type='isa'/>, or none"
                )
        if model == "pvpanic":
            if not d.emulator.has_device("pvpanic-pci"):
                raise error.unsupported(
                    "the QEMU binary does not support the PCI pvpanic device",
                    self.node,
                    "model='isa', or QEMU 6.0 or newer",
                )
            if self.address_type not in ("", "pci"):
                raise error.unsupported(
                    "pvpanic is supported only with PCI address type", place, "<address type='pci'/>, or none"
                )

    def _check_board(self, model: str, d: Define) -> None:
        guests = {
            "hyperv": (d.board.is_x86, "i686 and x86_64"),
            "pseries": (d.board.is_pseries, "pSeries"),
            "s390": (d.board.is_s390, "S390"),
        }
        possible, words = guests.get(model, (True, ""))
        if not possible:
            raise error.unsupported(
                f"only {words} guests support panic device of model '{model}'", self.node, "another model="
            )

    def options(self, b: Build) -> Iterator[Option]:
        if self.model == "isa":
            address = self.address
            port = address.iobase if address is not None and address.type == "isa" else None
            yield b.device({"driver": "pvpanic", "ioport": port}, self.node, "the guest reports a panic")
        elif self.model == "pvpanic":
            properties: dict[str, Value] = {"driver": "pvpanic-pci", **address_properties(self, b)}
            yield b.device(properties, self.node, "the guest reports a panic")


def default_panic_model(d: Define) -> str | None:
    """The model that the machine has of itself, or that fits it; ``None``: there is no usual one."""
    board = d.board
    if board.is_pseries:
        return "pseries"
    if board.is_s390:
        return "s390"
    if board.is_x86:
        return "isa"
    return "pvpanic" if board.is_arm_virt else None
