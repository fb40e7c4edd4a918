"""``<controller>``: what gives a bus to other devices.  https://libvirt.org/formatdomain.html#controllers"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device, virtio_properties
from qemushim.devices.controller_check import COMPANION_PORTS, XHCI, check_controller, complete_controller
from qemushim.devices.disk import DiskIothread
from qemushim.devices.disk_frontend import iothread_mapping
from qemushim.devices.placement import address_properties, controller_alias, virtio_driver, zpci_options
from qemushim.document.fields import (
    Choice,
    Field,
    Hex,
    LongPositive,
    Many,
    Natural,
    One,
    OnOff,
    Text,
    Unsigned,
)
from qemushim.document.item import Item, Schema, Tail
from qemushim.document.node import Node
from qemushim.document.sizes import Size
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: type → its models
MODELS: dict[str, tuple[str, ...]] = {
    "ccid": (),
    "fdc": (),
    "ide": ("ich6", "piix3", "piix4"),
    "isa": (),
    "pci": (
        *(
            "dmi-to-pci-bridge",
            "pci-bridge",
            "pci-expander-bus",
            "pci-root",
            "pcie-expander-bus",
            "pcie-root",
        ),
        *("pcie-root-port", "pcie-switch-downstream-port", "pcie-switch-upstream-port", "pcie-to-pci-bridge"),
    ),
    "sata": (),
    "scsi": (
        *("am53c974", "auto", "buslogic", "dc390", "ibmvscsi", "lsilogic", "lsisas1068", "lsisas1078"),
        *("ncr53c90", "virtio-non-transitional", "virtio-scsi", "virtio-transitional", "vmpvscsi"),
    ),
    "usb": (
        *("ehci", "ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3", "nec-xhci", "none", "pci-ohci"),
        *("piix3-uhci", "piix4-uhci", "qemu-xhci", "qusb1", "qusb2", "vt82c686b-uhci"),
    ),
    "virtio-serial": ("virtio", "virtio-non-transitional", "virtio-transitional"),
    "xenbus": (),
}


class _Model(Choice["str | None"]):
    """A model of one type of controller."""

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.unsupported(f"Unknown model type '{raw}'", place, self.advice())


class _Driver(Item):
    """``<driver>`` of virtio controllers."""

    tag = "driver"
    queues = Unsigned["int | None"]("@queues")
    cmd_per_lun = Unsigned["int | None"]("@cmd_per_lun")
    max_sectors = Unsigned["int | None"]("@max_sectors")
    ioeventfd = OnOff["bool | None"]("@ioeventfd")
    iothread = Unsigned["int | None"]("@iothread")
    iommu = OnOff["bool | None"]("@iommu")
    ats = OnOff["bool | None"]("@ats")
    packed = OnOff["bool | None"]("@packed")
    page_per_vq = OnOff["bool | None"]("@page_per_vq")
    iothreads = Many("iothreads/iothread", DiskIothread)


class _NumaNode(Unsigned["int | None"]):
    """A NUMA cell of the guest; an empty text names none."""

    exact = True

    def __init__(self) -> None:
        super().__init__("node")
        self.says("invalid NUMA node in target", "XML error")

    def bounded(self, number: int) -> int:
        if number >> 31:
            raise ValueError(number)
        return number


class _Target(Item):
    """What QEMU must be told of a PCI controller; visible to the guest."""

    tag = "target"
    chassis_nr = Unsigned["int | None"]("@chassisNr")
    chassis = Unsigned["int | None"]("@chassis")
    port = Hex["int | None"]("@port", 1)
    bus_nr = Unsigned["int | None"]("@busNr")
    index = Unsigned["int | None"]("@index")
    hotplug = OnOff["bool | None"]("@hotplug")
    #: KiB of address space kept for devices plugged in later
    mem_reserve = LongPositive["int | None"]("@memReserve")
    node_ = _NumaNode()


class Controller(Device):
    """``<controller>``"""

    tag = "controller"
    type = Choice("@type", MODELS, "ide")
    #: the number by which addresses name the controller
    index = Natural["int | None"]("@index")
    model = Text("@model")
    ports = Natural["int | None"]("@ports")
    vectors = Natural["int | None"]("@vectors")
    max_grant_frames = Natural["int | None"]("@maxGrantFrames")
    max_event_channels = Natural["int | None"]("@maxEventChannels")
    model_name = Text("model/@name")
    target = One("target", _Target)
    driver = One("driver", _Driver)
    _ = Tail()
    #: KiB
    hole64 = Size["int | None"]("pcihole64")

    #: type → fields that controllers of other types do not have
    own_fields: ClassVar[dict[str, tuple[str, ...]]] = {
        "pci": ("model_name", "target", "hole64"),
        "usb": ("ports",),
        "virtio-serial": ("ports", "vectors"),
        "xenbus": ("max_grant_frames", "max_event_channels"),
    }
    _schemas: ClassVar[dict[str, Schema]] = {}

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        kind = node.attrib.get("type", "ide")
        found = cls._schemas.get(kind)
        if found is None:
            others = {name for names in cls.own_fields.values() for name in names}
            others -= set(cls.own_fields.get(kind, ()))
            model: Field[Any] = _Model("@model", MODELS.get(kind, ()))
            fields = {**cls.fields, "model": model}
            found = cls._schemas[kind] = Schema.of(fields[name] for name in fields if name not in others)
        return found

    @property
    def number(self) -> int:
        """The index; 0 where it has none yet."""
        return self.index or 0

    @property
    def is_companion(self) -> bool:
        """Whether it serves slow USB devices on the ports of another controller."""
        return self.node.get("model") in COMPANION_PORTS or self.node.child("master") is not None

    # -- phases ----------------------------------------------------------------------------------------------

    def check_document(self, d: Define) -> None:
        _ = self.ports  # read of every type of controller, and kept of few
        targets = self.node.all("target") if self.type == "pci" else []
        if len(targets) > 1:
            message = "Multiple <target> elements in controller definition not allowed"
            raise error.xml(message, targets[1], "keep one")

    def complete(self, d: Define) -> None:
        complete_controller(self, d)

    def check(self, d: Define) -> None:
        check_controller(self, d)

    def options(self, b: Build) -> Iterator[Option]:
        make = _MAKERS.get(self.type)
        return make(self, b) if make is not None else iter(())

    def device(self, b: Build, driver: str, properties: dict[str, Value]) -> Iterator[Option]:
        """The ``-device``, with its place at the end."""
        yield from zpci_options(self, b)
        place = address_properties(self, b)
        own = self.node.attrib
        rule = _RULES.get(own.get("model", "")) or _RULES.get(own["type"])
        rule = rule or f"{self.type} controller {self.number}"
        yield b.device({"driver": driver, **properties, **place}, self.node, rule)


#: model or type → what such a controller is for
_RULES = {
    "ccid": "a reader for smartcards",
    "dmi-to-pci-bridge": "a bridge to conventional PCI that nothing can be plugged into while the guest runs",
    "fdc": "the floppy disk controller of the board",
    "ide": "a controller of two IDE channels, two drives each",
    "pci-bridge": "a bridge to 31 more slots of conventional PCI",
    "pci-expander-bus": "one more root bus of conventional PCI, which can belong to a NUMA node",
    "pci-root": "one more host bridge",
    "pcie-expander-bus": "one more PCI Express root bus, which can belong to a NUMA node",
    "pcie-root-port": "a port of the root bus that takes one device, also while the guest runs",
    "pcie-switch-downstream-port": "a port of a switch that takes one device, also while the guest runs",
    "pcie-switch-upstream-port": "the upper side of a switch of PCI Express ports",
    "pcie-to-pci-bridge": "a bridge from PCI Express to 31 slots of conventional PCI",
    "sata": "an AHCI controller of six SATA ports",
    "scsi": "a SCSI controller, the bus that SCSI disks sit on",
    "usb": "a USB controller, the bus that USB devices sit on",
    "virtio-serial": "a controller whose ports are channels and consoles",
}

# -- PCI ---------------------------------------------------------------------------------------------------


def _port_properties(c: Controller, target: _Target) -> dict[str, Value]:
    found: dict[str, Value] = {"port": target.port or 0, "chassis": target.chassis or 0, "id": c.alias}
    given = target.node.attrib
    if "hotplug" in given:
        found["hotplug"] = target.hotplug
    if "memReserve" in given:
        found["mem-reserve"] = _bytes(target.mem_reserve)
    return found


def _bridge_properties(c: Controller, target: _Target) -> dict[str, Value]:
    reserve = _bytes(target.mem_reserve)
    return {"chassis_nr": target.chassis_nr or 0, "mem-reserve": reserve, "id": c.alias}


def _expander_properties(c: Controller, target: _Target) -> dict[str, Value]:
    return {"bus_nr": target.bus_nr or 0, "id": c.alias, "numa_node": target.node_}


def _host_bridge_properties(c: Controller, target: _Target) -> dict[str, Value]:
    reserve = _bytes(target.mem_reserve)
    return {"index": target.index or 0, "mem-reserve": reserve, "id": c.alias, "numa_node": target.node_}


def _plain_properties(c: Controller, target: _Target) -> dict[str, Value]:
    return {"id": c.alias}


def _bytes(kib: int | None) -> int | None:
    return kib * 1024 if kib else None


#: model → the properties behind ``driver``
_PCI: dict[str, Callable[[Controller, _Target], dict[str, Value]]] = {
    "dmi-to-pci-bridge": _plain_properties,
    "pci-bridge": _bridge_properties,
    "pci-expander-bus": _expander_properties,
    "pci-root": _host_bridge_properties,
    "pcie-expander-bus": _expander_properties,
    "pcie-root-port": _port_properties,
    "pcie-switch-downstream-port": _port_properties,
    "pcie-switch-upstream-port": _plain_properties,
    "pcie-to-pci-bridge": _plain_properties,
}


def _pci_options(c: Controller, b: Build) -> Iterator[Option]:
    node, model = c.node.child("target"), c.node.attrib.get("model", "")
    target = _Target(node if node is not None else Node("target"))
    if model == "pci-root" and not (b.board.is_pseries and target.index):
        if target.hotplug is not None and not b.board.is_pseries:
            state = "on" if target.hotplug else "off"
            text = f"PIIX4_PM.acpi-root-pci-hotplug={state}"
            yield Option("-global", text, c.node, "whether devices can be plugged into the root bus")
        return
    make = _PCI.get(model)
    if make is not None:
        yield from c.device(b, c.model_name or "", make(c, target))


def pci_hole64_options(b: Build) -> Iterator[Option]:
    """``-global …pci-hole64-size``: the address space above 4 GiB that the root PCI bus offers to devices."""
    bridges = {"pci-root": "i440FX-pcihost", "pcie-root": "q35-pcihost"}
    for controller in b.domain.all(Controller):
        bridge = bridges.get(controller.node.get("model") or "")
        size = controller.hole64 if bridge is not None and controller.type == "pci" else None
        if size is not None:
            text = f"{bridge}.pci-hole64-size={size}K"
            yield Option("-global", text, controller.node, "address space for 64-bit PCI devices")


# -- USB ---------------------------------------------------------------------------------------------------

#: model → QEMU's device, and libvirt's capability
USB_DRIVERS = {
    "ehci": ("usb-ehci", "usb-ehci"),
    "ich9-ehci1": ("ich9-usb-ehci1", "ich9-usb-ehci1"),
    "ich9-uhci1": ("ich9-usb-uhci1", "ich9-usb-ehci1"),
    "ich9-uhci2": ("ich9-usb-uhci2", "ich9-usb-ehci1"),
    "ich9-uhci3": ("ich9-usb-uhci3", "ich9-usb-ehci1"),
    "nec-xhci": ("nec-usb-xhci", "nec-usb-xhci"),
    "pci-ohci": ("pci-ohci", "pci-ohci"),
    "piix3-uhci": ("piix3-usb-uhci", "piix3-usb-uhci"),
    "piix4-uhci": ("piix4-usb-uhci", "piix4-usb-uhci"),
    "qemu-xhci": ("qemu-xhci", "qemu-xhci"),
    "vt82c686b-uhci": ("vt82c686b-usb-uhci", "vt82c686b-usb-uhci"),
}


def _usb_options(c: Controller, b: Build) -> Iterator[Option]:
    model = c.model
    if model == "none" or (model is None and b.board.is_s390):
        return
    if model is None:
        raise error.unsupported("no model provided for USB controller", c.node, "give it a model")
    driver, capability = USB_DRIVERS.get(model, ("", ""))
    if not b.emulator.flag(capability):
        known = ", ".join(name for name, (_, flag) in USB_DRIVERS.items() if b.emulator.flag(flag))
        hint = f"this QEMU has {known}" if known else ""
        raise error.unsupported(
            f"USB controller model '{model}' not supported in this QEMU binary", c.node, hint
        )
    if c.ports is not None and model not in XHCI:
        raise error.unsupported(
            f"usb controller type '{model}' doesn't support 'ports' with this QEMU binary",
            c.node,
            "model='qemu-xhci'",
        )
    properties: dict[str, Value] = {"p2": c.ports, "p3": c.ports}
    if c.is_companion:
        if not any(
            o.type == "usb" and o.number == c.number and not o.is_companion for o in b.domain.all(Controller)
        ):
            raise error.internal("masterbus not found", c.node, f"add its <controller index='{c.number}'>")
        properties["masterbus"] = f"{controller_alias(b, 'usb', c.number)}.0"
        properties["firstport"] = c.master_startport or 0
    else:
        properties["id"] = c.alias
    yield from c.device(b, driver, properties)


# -- the others --------------------------------------------------------------------------------------------

#: model → QEMU's device
SCSI_DRIVERS = {
    "am53c974": "am53c974",
    "dc390": "dc-390",
    "ibmvscsi": "spapr-vscsi",
    "lsilogic": "lsi",
    "lsisas1068": "mptsas1068",
    "lsisas1078": "megasas",
    "vmpvscsi": "pvscsi",
}


def _scsi_options(c: Controller, b: Build) -> Iterator[Option]:
    driver = SCSI_DRIVERS.get(c.model or "")
    if driver is not None:
        yield from c.device(b, driver, {"id": c.alias})
    elif (c.model or "").startswith("virtio"):
        yield from c.device(b, virtio_driver("virtio-scsi", c, b), _virtio_scsi_properties(c))


def _virtio_scsi_properties(c: Controller) -> dict[str, Value]:
    driver = c.driver or _Driver(Node("driver"))
    return {
        **virtio_properties(c),
        "iothread": f"iothread{driver.iothread}" if driver.iothread else None,
        "id": c.alias,
        "num_queues": driver.queues or None,
        "iothread-vq-mapping": iothread_mapping(driver.iothreads),
        "cmd_per_lun": driver.cmd_per_lun or None,
        "max_sectors": driver.max_sectors or None,
        "ioeventfd": driver.ioeventfd,
    }


def _virtio_serial_options(c: Controller, b: Build) -> Iterator[Option]:
    properties = {**virtio_properties(c), "id": c.alias, "max_ports": c.ports, "vectors": c.vectors}
    yield from c.device(b, virtio_driver("virtio-serial", c, b), properties)


def _sata_options(c: Controller, b: Build) -> Iterator[Option]:
    if c.number or not b.board.is_q35:
        yield from c.device(b, "ahci", {"id": c.alias})


def _ccid_options(c: Controller, b: Build) -> Iterator[Option]:
    yield from c.device(b, "usb-ccid", {"id": c.alias})


#: type → its options; IDE and floppy controllers are part of the board
_MAKERS: dict[str, Callable[[Controller, Build], Iterator[Option]]] = {
    "ccid": _ccid_options,
    "pci": _pci_options,
    "sata": _sata_options,
    "scsi": _scsi_options,
    "usb": _usb_options,
    "virtio-serial": _virtio_serial_options,
}
