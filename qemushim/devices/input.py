"""``<input>`` and ``<hub>``: keyboards, mice, tablets, and USB hubs.

https://libvirt.org/formatdomain.html#input-devices and #hub-devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import (
    VIRTIO_MODELS,
    Device,
    VirtioDriver,
    virtio_properties,
)
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.document.fields import Choice, One, OnOff, Text
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

TYPES = ("mouse", "tablet", "keyboard", "passthrough", "evdev")
BUSES = ("default", "ps2", "usb", "xen", "parallels", "virtio", "none")
#: what a PS/2 port takes
_PS2 = frozenset({"mouse", "keyboard"})

#: type → QEMU's USB device
USB_INPUTS = {"keyboard": "usb-kbd", "mouse": "usb-mouse", "tablet": "usb-tablet"}
#: type → QEMU's virtio device, without the bus
VIRTIO_INPUTS = {
    "keyboard": "virtio-keyboard",
    "mouse": "virtio-mouse",
    "passthrough": "virtio-input-host",
    "tablet": "virtio-tablet",
}
#: bus → the types that can be on it
_BUS_KINDS = {
    "none": frozenset({"evdev"}),
    "ps2": _PS2,
    "usb": frozenset(USB_INPUTS),
    "virtio": frozenset(VIRTIO_INPUTS),
}
_GRAB_KEYS = ("ctrl-ctrl", "alt-alt", "shift-shift", "meta-meta", "scrolllock", "ctrl-scrolllock")
#: what an input device is for, where its type does not say it
_RULES = {"passthrough": "an input device of the host, handed to the guest"}


class Input(Device):
    """``<input>``"""

    tag = "input"

    type = (
        Choice("@type", TYPES)
        .says("unknown input device type '{}'")
        .needs("missing input device type", "internal error")
    )
    bus = Choice("@bus", BUSES).says("unknown input bus type '{}'")
    model = Choice("@model", VIRTIO_MODELS).says("unknown input model '{}'")
    driver = One("driver", VirtioDriver)
    #: event device of the host: ``evdev`` of a virtio device, ``dev`` of QEMU's own reader
    evdev = Text("source/@evdev")
    dev = Text("source/@dev")
    grab = Choice("source/@grab", ("all",))
    grab_toggle = Choice("source/@grabToggle", _GRAB_KEYS)
    repeat = OnOff("source/@repeat")

    def complete(self, d: Define) -> None:
        if self.bus in (None, "default"):
            self.bus = self._default_bus(d)
        if self.bus == "none":
            self.bus = None

    def _default_bus(self, d: Define) -> str:
        if self.type == "evdev":
            return "none"
        if self.type == "passthrough" or d.board.is_s390:
            return "virtio"
        return "ps2" if d.board.is_x86 and self.type in _PS2 else "usb"

    def check_document(self, d: Define) -> None:
        """The device of the host is named where anything is said of it."""
        kind, source = self.type or "", self.node.child("source")
        attribute = {"evdev": "dev", "passthrough": "evdev"}.get(kind)
        if attribute is not None and source is not None and source.get(attribute) is None:
            message = "Missing evdev path for input device"
            raise error.xml(message, source, f"<source {attribute}='/dev/input/event0'/>")
        if kind == "evdev" and self.bus not in (None, "default", "none", "ps2", "xen"):
            raise error.unsupported("input evdev doesn't support bus element", self.node, "drop bus=")

    def check(self, d: Define) -> None:
        kind, bus = self.type or "", self.bus or "none"
        if self.model is not None and bus != "virtio":
            message = f"only bus 'virtio' is supported for input model '{self.model}'"
            raise error.unsupported(message, self.node, "bus='virtio', or no model=")
        if kind == "passthrough" and bus in ("usb", "none"):
            message = "only bus 'virtio' is supported for 'passthrough' input devices"
            raise error.unsupported(message, self.node, "bus='virtio'")
        kinds = _BUS_KINDS.get(bus)
        if bus == "none" and kind not in _BUS_KINDS["none"]:
            return
        if kinds is None:
            raise error.internal(f"unsupported input bus {bus}", self.node, "one of: ps2, usb, virtio")
        if kind not in kinds:
            refuse = error.internal if bus == "ps2" else error.unsupported
            raise refuse(
                f"{bus} bus does not support {kind} input device",
                self.node,
                f"one of: {', '.join(sorted(kinds))}",
            )
        if bus == "virtio":
            self._check_virtio(d)
        if bus == "usb" and kind == "keyboard" and not d.emulator.has_device("usb-kbd"):
            raise error.unsupported(
                "usb keyboard is not supported by this QEMU binary", self.node, "bus='ps2' or 'virtio'"
            )
        if kind == "evdev" and not d.emulator.has_object("input-linux"):
            message = "input-linux is not supported by this QEMU binary"
            raise error.unsupported(message, self.node, "QEMU 2.6 or newer on Linux")

    def _check_virtio(self, d: Define) -> None:
        kind = self.type or ""
        if (self.model or "virtio") != "virtio":
            raise error.unsupported(
                f"virtio (non-)transitional models are not supported for input type={kind}",
                self.node,
                "drop model=",
            )
        name = VIRTIO_INPUTS[kind]
        if not any(d.emulator.has_device(f"{name}-{bus}") for bus in ("pci", "device", "ccw")):
            raise error.unsupported(f"{name} is not supported by this QEMU binary", self.node, "another bus")

    def options(self, b: Build) -> Iterator[Option]:
        kind = self.type or ""
        if kind == "evdev":
            yield b.object(self._reader(), self.node, "QEMU reads an input device of the host")
            return
        if self.bus == "usb":
            properties: dict[str, Value] = {"driver": USB_INPUTS[kind], "id": self.alias}
        elif self.bus == "virtio":
            driver = virtio_driver(VIRTIO_INPUTS[kind], self, b)
            properties = {"driver": driver, **virtio_properties(self), "id": self.alias, "evdev": self.evdev}
        else:
            return
        yield from zpci_options(self, b)
        yield b.device(
            {**properties, **address_properties(self, b)},
            self.node,
            _RULES.get(kind, f"a {kind} for the guest"),
        )

    def _reader(self) -> dict[str, Value]:
        return {
            "qom-type": "input-linux",
            "id": self.alias,
            "evdev": self.dev,
            "repeat": self.repeat,
            "grab_all": True if self.grab == "all" else None,
            "grab-toggle": self.grab_toggle,
        }


class Hub(Device):
    """``<hub>``: a USB hub."""

    tag = "hub"

    type = (
        Choice("@type", ("usb",))
        .says("unknown hub device type '{}'")
        .needs("missing hub device type", "internal error")
    )

    def check(self, d: Define) -> None:
        if not d.emulator.has_device("usb-hub"):
            raise error.unsupported("usb-hub not supported by QEMU binary", self.node, "remove it")

    def options(self, b: Build) -> Iterator[Option]:
        properties: dict[str, Value] = {"driver": "usb-hub", "id": self.alias, **address_properties(self, b)}
        yield b.device(properties, self.node, "more ports for USB devices")
