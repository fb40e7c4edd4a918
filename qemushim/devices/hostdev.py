"""``<hostdev>``: a device of the host that the guest gets for itself.

https://libvirt.org/formatdomain.html#host-device-assignment
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device, Sgio
from qemushim.devices.block_image import Image
from qemushim.devices.block_nodes import image_options
from qemushim.devices.bootindex import boot_index, boot_loadparm
from qemushim.devices.interface import Interface, hostdev_interfaces
from qemushim.devices.placement import address_properties, rom_properties, virtio_driver, zpci_options
from qemushim.devices.storage import Auth, HostAddress, Server
from qemushim.devices.storage_check import check_auth_secret
from qemushim.devices.storage_define import complete_auth, complete_network_name, complete_server
from qemushim.document.fields import (
    Choice,
    Hex,
    LiveText,
    Long,
    Many,
    One,
    OnOff,
    Present,
    Switch,
    Text,
    Unsigned,
)
from qemushim.document.item import Item, Schema
from qemushim.document.node import Node
from qemushim.document.units import canonical_uuid
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

Properties = dict[str, Value]

TYPES = ("usb", "pci", "scsi", "scsi_host", "mdev")
MODELS = ("vfio-pci", "vfio-ccw", "vfio-ap", "virtio", "virtio-transitional", "virtio-non-transitional")
#: model of a mediated device → the types of addresses that it can have
MDEV_ADDRESSES = {
    "vfio-pci": ("", "none", "pci", "unassigned"),
    "vfio-ccw": ("", "none", "ccw", "unassigned"),
    "vfio-ap": ("", "none", "unassigned"),
}
SUBSYSTEM = "subsystem"


class HostdevAddress(HostAddress):
    """``<address>`` of a source: on a PCI, USB or SCSI bus of the host, or a mediated device's UUID."""

    bus_number = Unsigned("@bus", 0)
    device = Unsigned("@device", 0)
    target = Unsigned("@target", 0)
    unit = Long("@unit", 0)
    uuid = Text("@uuid")

    #: an attribute that only one kind of address has → its fields, in writing order
    layouts: ClassVar[dict[str, tuple[str, ...]]] = {
        "uuid": ("uuid",),
        "unit": ("bus_number", "target", "unit"),
        "device": ("bus_number", "device"),
        "slot": ("domain", "bus", "slot", "function"),
    }

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        kind = next((name for name in cls.layouts if name in node.attrib), "slot")
        return cls.only(*cls.layouts[kind])


class HostdevSource(Item):
    """``<source>``: which device of the host, or which LUN of an iSCSI server."""

    tag = "source"
    protocol = Choice("@protocol", ("adapter", "iscsi", "none", "vhost"))
    name_ = Text("@name")
    wwpn = Text("@wwpn")
    startup_policy = Choice("@startupPolicy", ("mandatory", "requisite", "optional"))
    guest_reset = Choice("@guestReset", ("off", "uninitialized", "on"))
    write_filtering = Switch("@writeFiltering")
    vendor = Hex("vendor/@id", 4)
    product = Hex("product/@id", 4)
    adapter = Text("adapter/@name")
    servers = Many("host", Server)
    auth = One("auth", Auth)
    initiator = Text("initiator/iqn/@name")
    address = One("address", HostdevAddress)
    #: the number in the name of its block node
    index = LiveText("@index")


class Hostdev(Device):
    """One device of the host."""

    tag = "hostdev"
    unused = ()
    mode = Choice("@mode", (SUBSYSTEM, "capabilities"), SUBSYSTEM)
    type = Choice("@type", (*TYPES, "storage", "misc", "net"), "")
    managed = Switch("@managed", False)
    sgio = Sgio("@sgio")
    rawio = Switch("@rawio")
    model = Choice("@model", MODELS)
    display = OnOff("@display")
    ramfb = OnOff("@ramfb")
    driver_name = Choice("driver/@name", ("kvm", "vfio", "xen"))
    driver_model = Text("driver/@model")
    source = One("source", HostdevSource)
    teaming = Choice("teaming/@type", ("persistent", "transient"))
    teaming_persistent = Text("teaming/@persistent")
    readonly = Present("readonly")
    shareable = Present("shareable")

    @property
    def where(self) -> HostdevAddress:
        """Where the host has the device."""
        found = self.node.find("source/address")
        return HostdevAddress(found if found is not None else Node("address", line=self.node.line))

    # -- defaults ----------------------------------------------------------------------------------

    def complete(self, d: Define) -> None:
        node = self.node
        if "mode" not in node.attrib:
            node.set("mode", SUBSYSTEM)
        if "type" not in node.attrib:
            raise error.xml("missing source address type", node, f"type='{TYPES[0]}'")
        if self.mode != SUBSYSTEM:
            return
        source = node.child("source")
        if source is None:
            raise error.xml("Missing <source> element in hostdev device", node)
        node.attrib.setdefault("managed", "no")
        self._check_attributes()
        _COMPLETE[self.type](self, source)
        address = node.child("address")
        if address is not None and address.get("type") == "drive":
            for name in ("controller", "bus", "target", "unit"):
                address.attrib.setdefault(name, "0")

    def _check_attributes(self) -> None:
        """Attributes that only some types have.  Raises ``ConfigError``."""
        if self.type != "scsi":
            self.readonly = self.shareable = False
            if self.sgio is not None:
                raise error.xml("sgio is only supported for scsi host device", self.node)
            if self.rawio is not None:
                raise error.xml("rawio is only supported for scsi host device", self.node)
        if self.type not in ("mdev", "scsi_host") and self.model is not None:
            raise error.xml("'model' attribute in <hostdev> is only supported when type='mdev'", self.node)

    # -- checks ------------------------------------------------------------------------------------

    def check(self, d: Define) -> None:
        if self.mode != SUBSYSTEM:
            raise error.unsupported(f"hostdev mode '{self.mode}' not supported", self.node)
        checks = _CHECKS.get(self.type)
        if checks is not None:
            checks(self, d)
        if self.display and not d.domain.lists["graphics"]:
            raise error.unsupported(
                "graphics device is needed for attribute value 'display=on' in <hostdev>",
                self.node,
                "add <graphics type='vnc'/>",
            )

    # -- options -----------------------------------------------------------------------------------

    def options(self, b: Build) -> Iterator[Option]:
        yield from _OPTIONS[self.type](self, b)


# -- completing by type -----------------------------------------------------------------------------


def _address(source: Node) -> Node:
    address = source.child("address")
    if address is None:
        raise error.xml("'address' element is missing in <source>", source)
    return address


def _complete_pci(device: Hostdev, source: Node) -> None:
    HostdevAddress(_address(source)).fill()


def _complete_usb(device: Hostdev, source: Node) -> None:
    vendor, product, address = source.child("vendor"), source.child("product"), source.child("address")
    if vendor is not None and product is None:
        raise error.xml("missing product", source, "<product id='0x…'/>")
    if vendor is None and product is not None:
        raise error.xml("missing vendor", source, "<vendor id='0x…'/>")
    if vendor is None and address is None:
        raise error.xml("vendor or address is required for usb hostdev", source)
    if address is None:
        return
    for name in ("bus", "device"):
        if address.get(name) is None:
            raise error.xml(f"Missing required attribute '{name}' in element 'address'", address)


def _complete_scsi(device: Hostdev, source: Node) -> None:
    if source.get("protocol") == "iscsi":
        if not source.get("name"):
            raise error.xml("iSCSI hostdev source path cannot be used without name", source)
        complete_network_name(source)
        servers = source.all("host")
        if len(servers) != 1:
            raise error.xml("only one source host address may be specified for the iSCSI hostdev", source)
        complete_server(servers[0], "")
        auth = source.child("auth")
        if auth is not None:
            complete_auth(auth)
        return
    source.drop("protocol", "name")
    adapter = source.child("adapter")
    if adapter is None or not adapter.get("name") or source.child("address") is None:
        raise error.xml("'adapter' and 'address' must be specified for scsi hostdev source", source)
    address = _address(source)
    for name in ("bus", "target", "unit"):
        if address.get(name) is None:
            raise error.xml(
                "'bus', 'target', and 'unit' must be specified for scsi hostdev source address", address
            )


def _complete_scsi_host(device: Hostdev, source: Node) -> None:
    if source.get("protocol") is None:
        raise error.xml("Missing required attribute 'protocol' in element 'source'", source)
    wwpn = source.get("wwpn")
    if wwpn is None:
        raise error.xml("missing vhost-scsi hostdev source wwpn", source)
    digits = wwpn.removeprefix("naa.")
    if digits == wwpn or len(digits) != 16 or not _is_hex(digits):
        raise error.xml("malformed 'wwpn' value", source, "naa. and 16 hexadecimal digits")


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdefABCDEF" for c in text)


def _complete_mdev(device: Hostdev, source: Node) -> None:
    model = device.model
    if model is None:
        raise error.xml("Missing required attribute 'model' in element 'hostdev'", device.node)
    address = _address(source)
    uuid = address.get("uuid")
    if uuid is None:
        raise error.unsupported("Missing 'uuid' attribute for element <address>", address)
    found = canonical_uuid(uuid)
    if found is None:
        raise error.xml("Cannot parse uuid attribute of element <address>", address)
    address.set("uuid", found)
    kind = device.address_type
    if kind not in MDEV_ADDRESSES.get(model, (kind,)):
        raise error.xml(
            f"Unsupported address type '{kind}' with mediated device model '{model}'",
            device.node.child("address"),
        )
    if model == "vfio-pci":
        device.node.attrib.setdefault("display", "off")


_COMPLETE: dict[str, Callable[[Hostdev, Node], None]] = {
    "pci": _complete_pci,
    "usb": _complete_usb,
    "scsi": _complete_scsi,
    "scsi_host": _complete_scsi_host,
    "mdev": _complete_mdev,
}


# -- checks by type ---------------------------------------------------------------------------------


def _check_pci(device: Hostdev, d: Define) -> None:
    if device.driver_name not in (None, "vfio"):
        raise error.unsupported(
            f"pci backend driver type '{device.driver_name}' is not supported", device.node.child("driver")
        )
    source = device.source
    if source is not None and source.write_filtering is not None:
        raise error.unsupported(
            "Write filtering of PCI device configuration space is not supported by qemu", source.node
        )
    kind = device.address_type
    if kind and kind not in ("pci", "unassigned", "none"):
        raise error.unsupported("PCI host devices must use 'pci' or 'unassigned' address type", device.node)
    _check_ramfb(device, d)


def _check_ramfb(device: Hostdev, d: Define) -> None:
    if not device.ramfb:
        return
    if not device.display:
        raise error.unsupported("attribute 'ramfb' requires attribute 'display'", device.node, "display='on'")
    others = [h for h in d.domain.lists["hostdev"] if h.node.get("ramfb") == "on"]
    if len(others) > 1 and others[0] is not device:
        raise error.unsupported("Only one vgpu device can have 'ramfb' enabled", device.node)


def _check_scsi(device: Hostdev, d: Define) -> None:
    auth = device.node.find("source/auth")
    if auth is not None:
        check_auth_secret(auth, "iscsi")
    kind = device.address_type
    if kind and kind != "drive":
        raise error.unsupported("SCSI host device must use 'drive' address type", device.node)


def _check_scsi_host(device: Hostdev, d: Define) -> None:
    if device.boot_order:
        raise error.unsupported(
            "booting from assigned devices is not supported by vhost SCSI devices", device.node.child("boot")
        )


def _check_mdev(device: Hostdev, d: Define) -> None:
    if device.boot_order and device.model != "vfio-ccw":
        raise error.unsupported(
            f"booting from assigned devices is not supported by mediated devices of model {device.model}",
            device.node.child("boot"),
        )
    rivals = [h for h in d.domain.lists["hostdev"] if h.node.get("model") == "vfio-ap"]
    if device.model == "vfio-ap" and len(rivals) > 1:
        raise error.unsupported("Only one hostdev of model vfio-ap is supported", device.node)
    _check_ramfb(device, d)


_CHECKS: dict[str, Callable[[Hostdev, Define], None]] = {
    "pci": _check_pci,
    "scsi": _check_scsi,
    "scsi_host": _check_scsi_host,
    "mdev": _check_mdev,
}


def check_hostdevs_together(d: Define) -> None:
    """No device of the host is given twice, and no two sit at one place.  Raises ``ConfigError``."""
    seen: set[tuple[object, ...]] = set()
    hostdevs: list[Hostdev] = d.domain.lists["hostdev"]  # type: ignore[assignment]
    for device in hostdevs:
        identity = _identity(device)
        if identity in seen:
            raise error.xml("Hostdev already exists in the domain configuration", device.node)
        seen.add(identity)
    _check_scsi_addresses(hostdevs)


def _identity(device: Hostdev) -> tuple[object, ...]:
    """What makes two elements speak of one device of the host."""
    source, where = device.source, device.where
    if device.type == "pci":
        return "pci", where.domain, where.bus, where.slot, where.function
    if device.type == "mdev":
        return "mdev", where.uuid
    if source is None:
        return ("", id(device))
    if device.type == "usb":
        return "usb", where.bus_number, where.device, source.vendor, source.product
    if device.type == "scsi_host":
        return "scsi_host", source.wwpn
    if source.protocol == "iscsi":
        return "iscsi", source.name_, tuple((s.name, s.port) for s in source.servers)
    return "scsi", source.adapter, where.bus_number, where.target, where.unit


def _check_scsi_addresses(hostdevs: list[Hostdev]) -> None:
    """No two SCSI devices of the host sit at one address.  Raises ``ConfigError``."""
    taken: set[tuple[int, int, int, int]] = set()
    for device in hostdevs:
        address = device.address if device.node.get("type") == "scsi" else None
        if address is None or address.type != "drive":
            continue
        place = address.drive
        if place in taken:
            raise error.unsupported(
                f"SCSI host address controller='{place.controller}' bus='{place.bus}' "
                f"target='{place.target}' unit='{place.unit}' in use by another SCSI host device",
                address.node,
                "give each its own unit",
            )
        taken.add(place)


# -- options by type --------------------------------------------------------------------------------


def _usb_options(device: Hostdev, b: Build) -> Iterator[Option]:
    where, source = device.where, device.source
    assert source is not None
    properties: Properties = {"driver": "usb-host"}
    if where.bus_number or where.device:
        if b.emulator.device_property("usb-host", "hostdevice"):
            properties["hostdevice"] = f"/dev/bus/usb/{where.bus_number:03d}/{where.device:03d}"
        else:
            properties["hostbus"] = where.bus_number
            properties["hostaddr"] = where.device
    elif source.startup_policy not in ("optional", "requisite"):
        raise error.internal("USB host device is missing bus/device information", device.node)
    reset = {"off": (False, None), "uninitialized": (True, False), "on": (True, True)}
    first, every = reset[source.guest_reset] if source.guest_reset else (None, None)
    properties["id"] = device.alias
    properties["bootindex"] = boot_index(device, b)
    properties["guest-reset"] = first
    properties["guest-resets-all"] = every
    properties.update(address_properties(device, b))
    yield b.device(properties, device.node, "a USB device of the host")


def _hostdev_pci_options(device: Hostdev, b: Build) -> Iterator[Option]:
    if device.address_type == "unassigned":
        # the host's drivers let go of it, but the guest does not get it
        return
    yield from pci_options(device, str(device.where), b, display=device.display, ramfb=device.ramfb)


def pci_options(
    device: Device, host: str, b: Build, *, display: bool | None = None, ramfb: bool | None = None
) -> Iterator[Option]:
    """A PCI device of the host through VFIO; ``host`` is its address there."""
    teaming = device.node.child("teaming")
    pair = teaming.get("persistent") if teaming is not None and teaming.get("type") == "transient" else None
    properties: Properties = {
        "driver": "vfio-pci-nohotplug" if ramfb else "vfio-pci",
        "host": host,
        "id": device.alias,
        "bootindex": boot_index(device, b),
        "failover_pair_id": pair,
        "display": _on_off(display),
        "ramfb": ramfb or None,
        **address_properties(device, b),
        **rom_properties(device),
    }
    yield from zpci_options(device, b)
    yield b.device(properties, device.node, "a PCI device of the host")


def _on_off(state: bool | None) -> str | None:
    return None if state is None else "on" if state else "off"


def _scsi_options(device: Hostdev, b: Build) -> Iterator[Option]:
    image: Image = b.notes["hostdev images"][id(device.node)]
    yield from image_options(image, b)
    properties: Properties = {
        "driver": "scsi-generic",
        "drive": image.storage_node,
        "id": device.alias,
        "bootindex": boot_index(device, b),
        "loadparm": boot_loadparm(device, b),
        **address_properties(device, b),
    }
    yield b.device(properties, device.node, "a SCSI device of the host or of an iSCSI server")


def _scsi_host_options(device: Hostdev, b: Build) -> Iterator[Option]:
    source = device.source
    number = b.host.descriptors.vhost_scsi
    descriptor = None if b.alone else b.pass_fd(number, "vhost-scsi", "/dev/vhost-scsi", device.alias)
    properties: Properties = {
        "driver": virtio_driver("vhost-scsi", device, b),
        "wwpn": source.wwpn if source is not None else None,
        "vhostfd": None if descriptor is None else str(descriptor),
        "id": device.alias,
        **address_properties(device, b),
    }
    yield b.device(properties, device.node, "a SCSI target of the host's kernel")


def _mdev_options(device: Hostdev, b: Build) -> Iterator[Option]:
    model, ramfb = device.model or "", device.ramfb
    properties: Properties = {
        "driver": "vfio-pci-nohotplug" if ramfb else model,
        "id": device.alias,
        "sysfsdev": f"/sys/bus/mdev/devices/{device.where.uuid}",
        "display": _on_off(device.display),
        "ramfb": ramfb or None,
        "bootindex": boot_index(device, b),
        "loadparm": boot_loadparm(device, b),
        **address_properties(device, b),
    }
    yield b.device(properties, device.node, "a mediated device: a part of a device of the host")


_OPTIONS: dict[str, Callable[[Hostdev, Build], Iterator[Option]]] = {
    "usb": _usb_options,
    "pci": _hostdev_pci_options,
    "scsi": _scsi_options,
    "scsi_host": _scsi_host_options,
    "mdev": _mdev_options,
}


def hostdev_options(b: Build) -> Iterator[Option]:
    """Host devices: first the network cards that interfaces name, last those that a network gives."""
    interfaces = hostdev_interfaces(b)
    for interface in interfaces:
        if _names_device(interface):
            yield from card_options(interface, b)
    for device in b.domain.lists["hostdev"]:
        yield from device.options(b)
    for interface in interfaces:
        if not _names_device(interface):
            yield from card_options(interface, b)


def _names_device(interface: Interface) -> bool:
    return interface.type == "hostdev" and interface.node.find("source/address") is not None


def card_options(interface: Interface, b: Build) -> Iterator[Option]:
    """An interface that is a network card of the host."""
    address = interface.node.find("source/address")
    if interface.type == "hostdev" and address is not None:
        host = str(HostAddress(address))
    else:
        host = str(interface.network_facts(b.host).get("pci", ""))
    yield from pci_options(interface, host, b)
