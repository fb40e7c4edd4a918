"""Devices and controllers that a guest has without being asked for.

https://libvirt.org/formatdomain.html#controllers
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from qemushim.devices import BY_TAG
from qemushim.devices.audio import default_audio
from qemushim.devices.base import Device
from qemushim.devices.controller import Controller
from qemushim.devices.input import Input
from qemushim.devices.memballoon import Memballoon
from qemushim.devices.video import Video
from qemushim.document.units import parse_unsigned
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.board import Board
    from qemushim.context import Define
    from qemushim.document.node import Node
    from qemushim.machine.domain import Domain

#: from so many vCPUs on, interrupts reach them only through an IOMMU
_APIC_CPUS = 255
#: more controllers of a type than any guest has room for
_LAST_CONTROLLER = 1023


class Equipment(NamedTuple):
    """What every guest on a kind of board has."""

    #: a USB controller; its model where that is not decided by what QEMU has
    usb: bool = False
    usb_model: str = ""
    #: model of PCI controller 0
    root: str = ""
    memballoon: bool = True


_NOTHING = Equipment(memballoon=False)


def equipment_of(board: Board, *, zpci: bool = False) -> Equipment:
    """What a board has.  ``zpci``: QEMU can give PCI to an s390 guest."""
    if board.is_x86:
        return _x86(board)
    if board.is_arm:
        return _arm(board)
    arch = board.arch
    if board.is_ppc64 or arch in ("alpha", "ppc", "ppcemb", "sh4", "sh4eb"):
        return Equipment(usb=True, root="pci-root")
    if arch.startswith("riscv"):
        return Equipment(root="pcie-root" if board.is_riscv_virt else "")
    if board.is_s390:
        return Equipment(root="pci-root" if zpci else "")
    if arch == "sparc64":
        return Equipment(usb=True, root="pci-root")
    if arch.startswith("mips"):
        return Equipment(usb=True, root="pci-root" if board.is_malta else "")
    if arch == "loongarch64":
        return Equipment(root="pcie-root", memballoon=False)
    return _NOTHING


def _x86(board: Board) -> Equipment:
    if board.is_isapc:
        return Equipment()
    if board.is_q35:
        return Equipment(usb=True, root="pcie-root")
    return Equipment(usb=True, root="pci-root" if board.is_i440fx else "")


def _arm(board: Board) -> Equipment:
    if board.is_arm_virt:
        return Equipment(root="pcie-root", memballoon=False)
    if board.machine == "versatilepb":
        return Equipment(usb=True, usb_model="pci-ohci", root="pci-root", memballoon=False)
    if board.machine.startswith("realview"):
        return Equipment(usb=True, usb_model="pci-ohci", memballoon=False)
    return _NOTHING


# -- before the defaults of devices ------------------------------------------------------------------------


def check_usb(d: Define) -> None:
    """USB controllers that can not be together, and USB devices of a guest that has none.

    Raises ``ConfigError``.
    """
    disabled = other = master = False
    for controller in d.domain.all(Controller):
        if controller.type != "usb":
            continue
        none = controller.model == "none"
        if (none and (disabled or other)) or (not none and disabled):
            raise error.plain(
                "Can't add another USB controller: USB is disabled for this domain",
                controller.node,
                "drop the controller of model='none', or the others",
            )
        disabled, other = disabled or none, other or not none
        master = master or not controller.is_companion
    if other and not master:
        raise error.plain(
            "No master USB controller specified", hint="add its <controller model='ich9-ehci1'>"
        )
    if disabled:
        _check_no_usb_devices(d.domain)


def _check_no_usb_devices(domain: Domain) -> None:
    for device in domain.lists["input"]:
        if device.node.get("bus") == "usb":
            raise error.unsupported(
                "Can't add USB input device. USB bus is disabled",
                device.node,
                "bus='virtio', or a USB controller",
            )
    for hub in domain.lists["hub"]:
        if hub.node.get("type") == "usb":
            raise error.unsupported(
                "Can't add USB hub: USB is disabled for this domain", hub.node, "a USB controller"
            )


def add_implicit_devices(d: Define) -> None:
    """Input, USB controller, SATA, PCI root, balloon, panic, watchdog, audio."""
    domain, board = d.domain, d.board
    equipment = equipment_of(board, zpci=board.is_ccw and d.emulator.flag("zpci"))
    _add_i8042(d)
    if equipment.usb and _controller(domain, "usb", 0) is None:
        _add_usb(d, equipment)
    if board.is_q35 and _controller(domain, "sata", 0) is None:
        _add_controller(domain, "sata", 0)
    if equipment.root:
        _add_root(domain, equipment.root)
    if equipment.memballoon and not domain.lists["memballoon"]:
        domain.add(Memballoon, {"model": "virtio"})
    if board.is_ppc64 and domain.lists["graphics"]:
        _add_usb_inputs(domain)
    _add_panic(d)
    if board.is_q35:
        _add_itco(domain)
        _add_iommu(d)
    default_audio(d)


def _add_i8042(d: Define) -> None:
    """Mouse and keyboard behind the controller that PCs are born with."""
    board = d.board
    if not (board.is_i440fx or board.is_q35 or board.is_xenfv or board.is_isapc) or not d.emulator.flag(
        "i8042"
    ):
        return
    if d.domain.node.value("features/ps2/@state") == "off":
        return
    for kind in ("mouse", "keyboard"):
        _add_input(d.domain, kind, "ps2")


def _add_input(domain: Domain, kind: str, bus: str) -> None:
    known = {(device.node.get("type"), device.node.get("bus")) for device in domain.lists["input"]}
    if (kind, bus) not in known:
        domain.add(Input, {"type": kind, "bus": bus})


def _add_usb_inputs(domain: Domain) -> None:
    """Keyboard and mouse for a screen whose board has none of its own."""
    _add_input(domain, "keyboard", "usb")
    tablets = [
        d for d in domain.lists["input"] if (d.node.get("type"), d.node.get("bus")) == ("tablet", "usb")
    ]
    if not tablets:
        _add_input(domain, "mouse", "usb")


def _controller(domain: Domain, kind: str, index: int) -> Controller | None:
    return next((c for c in domain.all(Controller) if c.type == kind and c.number == index), None)


def _add_controller(domain: Domain, kind: str, index: int, model: str = "") -> Controller:
    attributes = {"type": kind, "index": str(index)}
    return domain.add(Controller, {**attributes, "model": model} if model else attributes)


def _add_usb(d: Define, equipment: Equipment) -> None:
    """USB controller 0.  Q35 has the best that QEMU has, and does without where it has none of them."""
    if not d.board.is_q35:
        _add_controller(d.domain, "usb", 0, equipment.usb_model)
    elif d.emulator.flag("qemu-xhci"):
        _add_controller(d.domain, "usb", 0, "qemu-xhci")
    elif d.emulator.flag("nec-usb-xhci"):
        _add_controller(d.domain, "usb", 0, "nec-xhci")
    elif d.emulator.flag("ich9-usb-ehci1"):
        for model in ("ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3"):
            _add_controller(d.domain, "usb", 0, model)


def _add_root(domain: Domain, model: str) -> None:
    root = _controller(domain, "pci", 0)
    if root is None:
        _add_controller(domain, "pci", 0, model)
    elif root.model != model:
        raise error.xml(
            f"The PCI controller with index='0' must be model='{model}' for this machine type, "
            f"but model='{root.model or '(null)'}' was found instead",
            root.node,
            "leave the controller out: it is there by itself",
        )


def _add_panic(d: Define) -> None:
    """Boards whose firmware tells the host of a crash."""
    model = "pseries" if d.board.is_pseries else "s390" if d.board.is_s390 else ""
    if model and not any(panic.node.get("model") in (None, model) for panic in d.domain.lists["panic"]):
        d.domain.add(BY_TAG["panic"], {"model": model})


def _add_itco(domain: Domain) -> None:
    """The watchdog that is part of the ICH9."""
    watchdogs = domain.lists["watchdog"]
    if not any(watchdog.node.get("model") == "itco" for watchdog in watchdogs):
        action = watchdogs[0].node.get("action") if watchdogs else None
        domain.add(BY_TAG["watchdog"], {"model": "itco", "action": action or "reset"})


def _add_iommu(d: Define) -> None:
    """Many vCPUs need interrupt remapping."""
    cpus = parse_unsigned(d.domain.node.value("vcpu") or "1")
    wanted = ("intel-iommu", "intel-iommu.intremap", "intel-iommu.eim")
    if cpus <= _APIC_CPUS or d.domain.lists["iommu"] or not all(map(d.emulator.flag, wanted)):
        return
    iommu = d.domain.add(BY_TAG["iommu"], {"model": "intel"})
    iommu.node.add("driver", {"intremap": "on", "eim": "on"})


# -- behind the defaults of devices ------------------------------------------------------------------------


def _is_part(controller: Controller) -> bool:
    """Whether it is one of the four that make up a USB 2 controller under one index."""
    return controller.is_companion or (controller.node.get("model") or "").startswith("ich9-")


def check_duplicates(d: Define) -> None:
    """Controllers and panic devices given twice.  Raises ``ConfigError``."""
    seen: set[tuple[str, int]] = set()
    for controller in d.domain.all(Controller):
        key = (controller.type, controller.number)
        if key in seen and controller.type == "usb" and not _is_part(controller):
            message = f"Duplicate USB controllers with index {controller.number}"
            raise error.xml(message, controller.node, "give each an index of its own")
        if key in seen and controller.type != "usb":
            message = f"Multiple '{controller.type}' controllers with index '{controller.number}'"
            raise error.xml(message, controller.node, "give each an index of its own")
        seen.add(key)
    models: set[str] = set()
    for panic in d.domain.lists["panic"]:
        model = panic.node.get("model") or ""
        if model in models:
            raise error.xml(
                f"Multiple panic devices with model '{model}'", panic.node, "one of a model is enough"
            )
        models.add(model)


def add_hostdev_controllers(d: Define) -> None:
    """SCSI host devices bring their controllers along, before controllers without an index are given theirs.

    A host device that names no controller is going to sit on the first.
    """
    hostdevs = [device for device in d.domain.lists["hostdev"] if device.node.get("type") == "scsi"]
    named = [_named_controller(hostdev, "drive") or 0 for hostdev in hostdevs]
    numbered = {
        c.number: c for c in d.domain.all(Controller) if c.type == "scsi" and c.node.get("index") is not None
    }
    for index, model in _missing_scsi(named, numbered):
        _add_controller(d.domain, "scsi", index, model)


def _missing_scsi(named: list[int], known: dict[int, Controller]) -> list[tuple[int, str]]:
    """The controllers that SCSI host devices need beside the known ones: of the model that one of them sits on."""
    owner = next((known[index] for index in named if index in known), None)
    model = (owner.model or "") if owner is not None else ""
    return [(index, model) for index in range(max(named, default=-1) + 1) if index not in known]


def add_implicit_controllers(d: Define) -> None:
    """Controllers for the addresses that disks, channels, smartcards and SCSI host devices name."""
    known = {(c.type, c.number) for c in d.domain.all(Controller)}

    def add(kind: str, indexes: Iterable[int], model: str = "") -> None:
        for index in indexes:
            if (kind, index) not in known:
                known.add((kind, index))
                _add_controller(d.domain, kind, index, model).complete(d)

    for bus, highest in _disk_controllers(d.domain).items():
        if highest > 0 and bus in _SINGLE:
            message = f"Only 1 {_SINGLE[bus]} controller is supported"
            raise error.internal(message, _farthest(d.domain, bus), "put more disks on SATA, SCSI or virtio")
        given = set(map(id, d.domain.lists["controller"]))
        add(bus, range(highest + 1))
        asks = _farthest(d.domain, bus)
        for controller in d.domain.lists["controller"]:
            # what is wrong with a controller that was added is said of the disk that asked for it
            if id(controller) not in given and asks is not None:
                controller.node.line = asks.line
    for tag in ("channel", "console"):
        ports = (port for port in d.domain.lists[tag] if port.node.value("target/@type") == "virtio")
        add("virtio-serial", (_named_controller(port, "virtio-serial") or 0 for port in ports))
    add("ccid", _smartcard_controllers(d.domain))
    hostdevs = [device for device in d.domain.lists["hostdev"] if device.node.get("type") == "scsi"]
    named = [
        index for index in (_named_controller(hostdev, "drive") for hostdev in hostdevs) if index is not None
    ]
    numbered = {c.number: c for c in d.domain.all(Controller) if c.type == "scsi"}
    for index, model in _missing_scsi(named, numbered):
        add("scsi", [index], model)
    for controller in d.domain.all(Controller):
        if controller.type == "scsi" and controller.model is None:
            controller.complete(d)


#: buses of which a machine has one controller
_SINGLE = {"fdc": "fdc", "ide": "IDE"}


def _farthest(domain: Domain, bus: str) -> Node | None:
    """The disk that asks for the highest controller of a bus."""
    disks = [disk for disk in domain.lists["disk"] if disk.node.value("target/@bus") == bus]
    return max(disks, key=lambda disk: _named_controller(disk, "drive") or 0).node if disks else None


def _disk_controllers(domain: Domain) -> dict[str, int]:
    """Bus → the highest controller that a disk on it names, in the order in which controllers are added."""
    highest = {"scsi": -1, "fdc": -1, "ide": -1, "sata": -1}
    for disk in domain.lists["disk"]:
        bus = disk.node.value("target/@bus") or ""
        if bus in highest:
            named = _named_controller(disk, "drive")
            highest[bus] = max(highest[bus], -1 if named is None else named)
    return highest


def _named_controller(device: Device, kind: str) -> int | None:
    """The controller in an address of some type; ``None`` for a device that has no such address."""
    node = device.node.child("address")
    if node is None or node.get("type") != kind:
        return None
    index = parse_unsigned(node.get("controller") or "0")
    if index > _LAST_CONTROLLER:
        # every controller up to it would be added
        raise error.xml(
            f"controller index '{index}' is too high, maximum is {_LAST_CONTROLLER}",
            node,
            "controllers are numbered from 0 without gaps",
        )
    return index


def _smartcard_controllers(domain: Domain) -> list[int]:
    """The CCID controllers that smartcards name; those that name none get the next slot of the first."""
    cards = domain.lists["smartcard"]
    slots = [parse_unsigned(c.node.value("address/@slot") or "0") for c in cards if c.address_type == "ccid"]
    last = max(slots, default=-1)
    controllers = []
    for card in cards:
        if not card.address_type:
            last += 1
            card.set_address("ccid", controller=0, slot=last)
        controllers.append(_named_controller(card, "ccid") or 0)
    return controllers


def add_implicit_video(d: Define) -> None:
    """One video device for a guest with graphics; the first becomes primary."""
    videos = d.domain.lists["video"]
    if d.domain.lists["graphics"] and not videos:
        d.domain.add(Video).complete(d)
    if videos and videos[0].node.value("model/@type") != "none":
        videos[0].node.ensure("model").set("primary", "yes")
