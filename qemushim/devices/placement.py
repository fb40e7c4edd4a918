"""Where a device sits, as properties of its ``-device``: what ``<address>``, ``<rom>`` and ``<acpi>`` become.

https://libvirt.org/formatdomain.html#device-addresses
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.address import Address
from qemushim.devices.base import Device
from qemushim.document.units import parse_integer
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build

Properties = dict[str, Value]

#: how QEMU names the variant of a virtio device that sits on a kind of bus
VIRTIO_SUFFIXES = {"pci": "-pci", "ccw": "-ccw", "virtio-mmio": "-device"}
#: SCSI controllers with one bus of plain SCSI ids; the others take channel, target and LUN
NARROW_SCSI = frozenset({"lsilogic", "ncr53c90", "dc390", "am53c974"})


def model_of(device: Device) -> str:
    """The model, whether it is an attribute of the element or the type of its ``<model>``."""
    return device.node.get("model") or device.node.value("model/@type") or ""


# -- controllers that addresses refer to -----------------------------------------------------------


def find_controller(b: Build, kind: str, index: int) -> Device | None:
    """The controller of a type and index; for USB the one that its companions belong to."""

    def collect() -> dict[tuple[str, int], Device]:
        controllers: dict[tuple[str, int], Device] = {}
        for device in b.domain.lists["controller"]:
            node = device.node
            key = (node.get("type") or "", parse_integer(node.get("index") or "0"))
            known = controllers.get(key)
            if known is None or (known.node.child("master") is not None and node.child("master") is None):
                controllers[key] = device
        return controllers

    return b.once("controllers", collect).get((kind, index))


def controller_alias(b: Build, kind: str, index: int) -> str:
    """QEMU's id of a controller.  Raises ``ConfigError`` where there is none of that type and index."""
    return required_controller(b, kind, index).alias


def required_controller(b: Build, kind: str, index: int) -> Device:
    """The controller that ``find_controller`` finds.  Raises ``ConfigError`` where there is none."""
    found = find_controller(b, kind, index)
    if found is None:
        raise error.internal(
            f"Could not find {kind} controller with index {index} required for device",
            hint=f"add <controller type='{kind}' index='{index}'/>",
        )
    return found


def pci_bus_name(b: Build, index: int) -> str:
    """The QEMU bus that the PCI controller of an index gives."""

    def collect() -> dict[int, str]:
        controllers = (d for d in b.domain.lists["controller"] if d.node.get("type") == "pci")
        return {parse_integer(d.node.get("index") or "0"): _pci_bus(b, d) for d in controllers}

    found = b.once("names of PCI buses", collect).get(index)
    if found is None:
        raise error.internal(
            f"Could not find PCI controller with index {index} required for device",
            hint=f"add <controller type='pci' index='{index}'/>",
        )
    return found


def _pci_bus(b: Build, controller: Device) -> str:
    model = controller.node.get("model")
    if model == "pcie-root":
        return "pcie.0"
    if model != "pci-root":
        return controller.alias
    if b.board.is_pseries:
        # the default PHB is part of the machine; every other one calls its bus after itself
        if parse_integer(controller.node.value("target/@index") or "0"):
            return f"{controller.alias}.0"
        return "pci.0"
    return "pci.0" if b.board.has_pci_multibus else "pci"


# -- the address -----------------------------------------------------------------------------------


def address_properties(device: Device, b: Build) -> Properties:
    """The properties that say where the device sits; none for an address that QEMU is not told."""
    node = device.node.child("address")
    form = _FORMS.get(node.attrib.get("type", "")) if node is not None else None
    return form(device, Address(node), b) if form is not None and node is not None else {}


def _pci(device: Device, address: Address, b: Build) -> Properties:
    place = address.pci
    found: Properties = {"bus": pci_bus_name(b, place.bus)}
    if "multifunction" in address.node.attrib:
        found["multifunction"] = address.multifunction
    found["addr"] = f"0x{place.slot:x}" + (f".0x{place.function:x}" if place.function else "")
    index = device.acpi_index
    if index:
        found["acpi-index"] = index
    return found


def _ccw(device: Device, address: Address, b: Build) -> Properties:
    return {"devno": f"{address.cssid or 0:x}.{address.ssid or 0:x}.{address.devno or 0:04x}"}


def _usb(device: Device, address: Address, b: Build) -> Properties:
    return {"bus": f"{controller_alias(b, 'usb', address.drive_bus)}.0", "port": address.usb_port or None}


def _drive(device: Device, address: Address, b: Build) -> Properties:
    kind = device.node.value("target/@bus") if device.tag == "disk" else "scsi"
    place = address.drive
    if kind == "fdc":
        return {"unit": place.unit}
    if kind == "ide":
        alias = "ide" if b.board.has_builtin_ide else controller_alias(b, "ide", place.controller)
        return {"bus": f"{alias}.{place.bus}", "unit": place.unit}
    if kind == "sata":
        builtin = b.board.is_q35 and place.controller == 0
        return {"bus": f"{'ide' if builtin else controller_alias(b, 'sata', place.controller)}.{place.unit}"}
    controller = required_controller(b, "scsi", place.controller)
    if controller.node.get("model") in NARROW_SCSI:
        return {"bus": f"{controller.alias}.{place.bus}", "scsi-id": place.unit}
    return {"bus": f"{controller.alias}.0", "channel": place.bus, "scsi-id": place.target, "lun": place.unit}


def _virtio_serial(device: Device, address: Address, b: Build) -> Properties:
    bus = f"{controller_alias(b, 'virtio-serial', address.controller)}.{address.drive_bus}"
    return {"bus": bus, "nr": address.serial_port}


def _spapr_vio(device: Device, address: Address, b: Build) -> Properties:
    return {"reg": address.reg}


def _isa(device: Device, address: Address, b: Build) -> Properties:
    return {"iobase": address.iobase or 0, "irq": address.irq or None}


def _dimm(device: Device, address: Address, b: Build) -> Properties:
    return {"slot": address.dimm_slot, "addr": address.base or None}


_FORMS: dict[str, Callable[[Device, Address, Build], Properties]] = {
    "ccw": _ccw,
    "dimm": _dimm,
    "drive": _drive,
    "isa": _isa,
    "pci": _pci,
    "spapr-vio": _spapr_vio,
    "usb": _usb,
    "virtio-serial": _virtio_serial,
}


# -- what goes with it -----------------------------------------------------------------------------


def virtio_driver(base: str, device: Device, b: Build) -> str:
    """The QEMU device for a virtio kind (``virtio-net``) on the bus that the device sits on.

    Raises ``ConfigError`` where it sits on none that virtio has.
    """
    kind = device.address_type
    suffix = VIRTIO_SUFFIXES.get(kind)
    if suffix is None:
        wrong = f"Unexpected address type for '{base}'"
        if not kind:
            wrong = "Unexpected enum value 0 for virDomainDeviceAddressType"
        raise error.internal(wrong, device.node, "give it a pci or ccw address")
    # QEMU's few targets without the strict pairs have one device that is as good as transitional
    if b.emulator.flag("virtio-pci-non-transitional"):
        model = model_of(device)
        if model.startswith("virtio-") and model.endswith("transitional"):
            return base + suffix + model.removeprefix("virtio")
    return base + suffix


#: kinds whose zPCI ids libvirt keeps to itself: QEMU gives them some of its own
_WITHOUT_ZPCI = frozenset({"iommu", "memory", "panic", "pstore", "serial", "tpm"})


def zpci_options(device: Device, b: Build) -> Iterator[Option]:
    """The zPCI device that goes before a PCI device of an s390 guest."""
    if not b.emulator.flag("zpci") or device.node.find("address/zpci") is None:
        return
    address = device.address
    if address is None or address.type != "pci" or address.zpci_uid is None or device.tag in _WITHOUT_ZPCI:
        return
    uid, fid = address.zpci_uid, address.zpci_fid
    properties: Properties = {
        "driver": "zpci",
        "uid": uid,
        "fid": fid or 0,
        "target": device.alias,
        "id": f"zpci{uid}",
    }
    yield b.device(properties, device.node, "a PCI device of an s390 guest needs its zPCI ids")


def rom_properties(device: Device) -> Properties:
    """``<rom>`` of a network card or an assigned PCI device: put behind the address."""
    if device.address_type != "pci":
        return {}
    if device.rom_enabled is False:
        return {"romfile": ""}
    bar = device.rom_bar
    return {
        key: value
        for key, value in (("rombar", None if bar is None else int(bar)), ("romfile", device.rom_file))
        if value is not None
    }
