"""``<hostdev>``: a device of the host that the guest gets for itself.

https://libvirt.org/formatdomain.html#host-device-assignment
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device, Sgio
from qemushim.devices.block_image import Image
from qemushim.devices.block_nodes import image_options
from qemushim.devices.bootindex import boot_index, boot_loadparm
from qemushim.devices.hostdev_check import CHECKS
from qemushim.devices.interface import Interface, hostdev_interfaces
from qemushim.devices.placement import address_properties, rom_properties, virtio_driver, zpci_options
from qemushim.devices.storage import Auth, HostAddress, Server
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
from qemushim.document.units import canonical_uuid, parse_unsigned
from qemushim.errors import ConfigError, error

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


class UsbNumber(Unsigned[int]):
    """The number of a USB bus or device of the host: decimal, octal or hexadecimal."""

    base = 0

    def __init__(self, path: str) -> None:
        super().__init__(path, 0)


class HostdevAddress(HostAddress):
    """``<address>`` of a source: on a PCI, USB or SCSI bus of the host, or a mediated device's UUID."""

    usb_bus = UsbNumber("@bus")
    device = UsbNumber("@device")
    bus_number = Unsigned("@bus", 0)
    target = Unsigned("@target", 0)
    unit = Long("@unit", 0)
    uuid = Text("@uuid")

    #: an attribute that only one kind of address has → its fields, in writing order
    layouts: ClassVar[dict[str, tuple[str, ...]]] = {
        "uuid": ("uuid",),
        "unit": ("bus_number", "target", "unit"),
        "device": ("usb_bus", "device"),
        "slot": ("domain", "bus", "slot", "function"),
    }

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        kind = next((name for name in cls.layouts if name in node.attrib), "slot")
        return cls.only(*cls.layouts[kind])


class UsbId(Hex["int | None"]):
    """A vendor or a product of USB devices."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 4)
        self.required = True

    def read(self, raw: str) -> int:
        number: int = super().read(raw)
        if number == 0 and self.path.startswith("vendor"):
            raise ValueError(raw)
        return number

    def wrong(self, raw: str, place: Node) -> ConfigError:
        with suppress(ValueError):
            if parse_unsigned(raw, self.base) == 0:
                self.expected = "Zero is not permitted"
                message = f"Invalid value for attribute 'id' in element '{place.tag}': Zero is not permitted"
                return error.xml(message, place, "id='0x1d6b'")
        return super().wrong(raw, place)


class HostdevSource(Item):
    """``<source>``: which device of the host, or which LUN of an iSCSI server."""

    tag = "source"
    protocol = Choice("@protocol", ("adapter", "iscsi", "none", "vhost"))
    name_ = Text("@name")
    wwpn = Text("@wwpn")
    startup_policy = Choice("@startupPolicy", ("mandatory", "requisite", "optional")).later()
    guest_reset = Choice("@guestReset", ("off", "uninitialized", "on")).later()
    write_filtering = Switch("@writeFiltering")
    vendor = UsbId("vendor/@id")
    product = UsbId("product/@id")
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
    type = Choice("@type", (*TYPES, "storage", "misc", "net"), "", required=True)
    managed = Text("@managed")
    sgio = Sgio("@sgio")
    rawio = Switch("@rawio")
    model = Choice("@model", MODELS).later()
    display = OnOff("@display")
    ramfb = OnOff("@ramfb")
    driver_name = Choice("driver/@name", ("kvm", "vfio", "xen"))
    driver_model = Text("driver/@model")
    source = One("source", HostdevSource)
    teaming = Text("teaming/@type")
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
        allowed = TYPES if self.mode == SUBSYSTEM else ("storage", "misc", "net")
        if self.type not in allowed:
            message = f"Invalid value for attribute 'type' in element 'hostdev': '{self.type}'."
            raise error.xml(message, node, f"one of: {', '.join(allowed)}")
        if self.mode != SUBSYSTEM:
            return
        source = node.child("source")
        if source is None:
            raise error.xml(
                "Missing <source> element in hostdev device", node, "<source> says which device of the host"
            )
        # any word but yes is no
        node.set("managed", "yes" if node.get("managed") == "yes" else "no")
        self._check_attributes(source)
        _COMPLETE[self.type](self, source)
        address = node.child("address")
        if address is not None and address.get("type") == "drive":
            for name in ("controller", "bus", "target", "unit"):
                address.attrib.setdefault(name, "0")

    def _check_attributes(self, source: Node) -> None:
        """Attributes that only some types have.  Raises ``ConfigError``."""
        if self.type != "usb" and "startupPolicy" in source.attrib:
            message = "Setting startupPolicy is only allowed for USB devices"
            raise error.unsupported(message, source, "drop startupPolicy=")
        found = HostdevSource(source)
        _ = found.startup_policy, found.guest_reset
        self._check_team()
        if self.type != "scsi":
            self.node.children = [c for c in self.node.children if c.tag not in ("readonly", "shareable")]
            if self.sgio is not None:
                raise error.xml("sgio is only supported for scsi host device", self.node, "drop sgio=")
            if self.rawio is not None:
                raise error.xml("rawio is only supported for scsi host device", self.node, "drop rawio=")
        if self.type not in ("mdev", "scsi_host"):
            message = "'model' attribute in <hostdev> is only supported when type='pci'"
            if "model" in self.node.attrib:
                raise error.xml(message, self.node, "drop model=")

    def _check_team(self) -> None:
        node = self.node.child("teaming")
        if node is None:
            return
        if self.teaming not in ("persistent", "transient"):
            raise error.unsupported("unknown teaming type '(null)'", node, "type='transient'")
        if self.teaming != "transient":
            message = "teaming hostdev devices must have type='transient'"
            raise error.unsupported(message, node, "type='transient'")
        if not self.teaming_persistent:
            message = "missing required persistent attribute in hostdev teaming element"
            raise error.unsupported(message, node, "persistent='ua-…', the alias of the other card")

    # -- checks ------------------------------------------------------------------------------------

    def check(self, d: Define) -> None:
        if self.mode != SUBSYSTEM:
            message = f"hostdev mode '{self.mode}' is not supported in {d.domain.virt}"
            raise error.unsupported(message, self.node, "mode='subsystem'")
        checks = CHECKS.get(self.type)
        if checks is not None:
            checks(self, d)
        if self.type == "mdev" and self.display and not d.domain.lists["graphics"]:
            raise error.unsupported(
                "graphics device is needed for attribute value 'display=on' in <hostdev>",
                self.node,
                "add <graphics type='vnc'/>",
            )

    # -- options -----------------------------------------------------------------------------------

    def options(self, b: Build) -> Iterator[Option]:
        yield from _OPTIONS[self.type](self, b)


# -- completing by type -----------------------------------------------------------------------------


def _complete_pci(device: Hostdev, source: Node) -> None:
    HostdevAddress(source.ensure("address")).fill()


def _complete_usb(device: Hostdev, source: Node) -> None:
    vendor, product, address = source.child("vendor"), source.child("product"), source.child("address")
    if vendor is not None and product is None:
        raise error.internal("missing product", source, "<product id='0x…'/>")
    if vendor is None and product is not None:
        raise error.internal("missing vendor", source, "<vendor id='0x…'/>")
    if address is None:
        return
    for name in ("bus", "device"):
        if address.get(name) is None:
            raise error.xml(
                f"Missing required attribute '{name}' in element 'address'",
                address,
                "bus='1' device='4', as lsusb tells them",
            )


def _complete_scsi(device: Hostdev, source: Node) -> None:
    if source.get("protocol") == "iscsi":
        if source.get("name") is None:
            message = "missing iSCSI hostdev source path name"
            raise error.xml(message, source, "name='iqn.2019-05.org.example:store/1'")
        complete_network_name(source)
        servers = source.all("host")
        if not servers:
            message = "missing the host address for the iSCSI hostdev"
            raise error.xml(message, source, "<host name='store.example.org'/>")
        if len(servers) != 1:
            raise error.xml(
                "only one source host address may be specified for the iSCSI hostdev",
                source,
                "keep one <host>",
            )
        complete_server(servers[0], "")
        auth = source.child("auth")
        if auth is not None:
            complete_auth(auth)
        return
    source.drop("protocol", "name")
    adapter = source.child("adapter")
    address = source.child("address")
    if address is None:
        message = "'address' must be specified for scsi hostdev source"
        raise error.xml(message, source, "<address bus='0' target='0' unit='0'/>")
    for name in ("bus", "target", "unit"):
        if address.get(name) is None:
            message = f"Missing required attribute '{name}' in element 'address'"
            raise error.xml(message, address, f"{name}='0'")
    if adapter is None or not adapter.get("name"):
        message = "'adapter' name must be specified for scsi hostdev source"
        raise error.xml(message, source, "<adapter name='scsi_host0'/>")


def _complete_scsi_host(device: Hostdev, source: Node) -> None:
    if source.get("protocol") is None:
        raise error.xml(
            "Missing required attribute 'protocol' in element 'source'", source, "protocol='vhost'"
        )
    wwpn = source.get("wwpn")
    if wwpn is None:
        raise error.xml("missing vhost-scsi hostdev source wwpn", source, "wwpn='naa.5123456789abcde0'")
    digits = wwpn.removeprefix("naa.")
    if digits == wwpn or len(digits) != 16 or not _is_hex(digits):
        raise error.xml("malformed 'wwpn' value", source, "naa. and 16 hexadecimal digits")


def _is_hex(text: str) -> bool:
    return all(c in "0123456789abcdefABCDEF" for c in text)


def _complete_mdev(device: Hostdev, source: Node) -> None:
    model = device.model
    if model is None:
        raise error.xml(
            "Missing required attribute 'model' in element 'hostdev'", device.node, "model='vfio-pci'"
        )
    address = source.child("address")
    if address is None:
        message = "Missing <address> element"
        raise error.unsupported(message, source, "<address uuid='…'/>")
    uuid = address.get("uuid")
    if uuid is None:
        raise error.unsupported(
            "Missing 'uuid' attribute for element <address>", address, "<address uuid='…'/>"
        )
    found = canonical_uuid(uuid)
    if found is None:
        message = "Cannot parse uuid attribute of element <address>"
        raise error.internal(message, address, "the UUID of a mediated device")
    address.set("uuid", found)
    kind = device.address_type
    if kind not in MDEV_ADDRESSES.get(model, (kind,)):
        raise error.xml(
            f"Unsupported address type '{kind}' with mediated device model '{model}'",
            device.node.child("address"),
            "leave <address> out",
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


# -- options by type --------------------------------------------------------------------------------


def _usb_options(device: Hostdev, b: Build) -> Iterator[Option]:
    where, source = device.where, device.source
    assert source is not None
    properties: Properties = {"driver": "usb-host"}
    if where.usb_bus or where.device:
        if b.emulator.device_property("usb-host", "hostdevice"):
            properties["hostdevice"] = f"/dev/bus/usb/{where.usb_bus:03d}/{where.device:03d}"
        else:
            properties["hostbus"] = where.usb_bus
            properties["hostaddr"] = where.device
    elif source.startup_policy not in ("optional", "requisite"):
        raise error.internal(
            "USB host device is missing bus/device information",
            device.node,
            "<address bus='1' device='4'/>, or startupPolicy='optional'",
        )
    reset = {"off": (False, None), "uninitialized": (True, False), "on": (True, True)}
    first, every = reset[source.guest_reset] if source.guest_reset else (None, None)
    properties["id"] = device.alias
    properties["bootindex"] = boot_index(device, b)
    properties["guest-reset"] = first
    properties["guest-resets-all"] = every
    properties.update(address_properties(device, b))
    yield b.device(properties, device.node, "a USB device of the host")


def _hostdev_pci_options(device: Hostdev, b: Build) -> Iterator[Option]:
    if device.driver_name not in (None, "vfio"):
        message = f"pci backend driver type '{device.driver_name}' is not supported"
        raise error.unsupported(message, device.node.child("driver"), "name='vfio'")
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
