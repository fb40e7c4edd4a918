"""Defaults of controllers, and what can not be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qemushim.devices.disk_check import iothread_numbers
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.board import Board
    from qemushim.context import Define
    from qemushim.devices.controller import Controller

VIRTIO_SCSI = frozenset({"virtio-scsi", "virtio-transitional", "virtio-non-transitional"})
XHCI = frozenset({"nec-xhci", "qemu-xhci"})
XHCI_PORTS = 15
#: companions of an ICH9 USB 2 controller, and the port of it where their own begin
COMPANION_PORTS = {"ich9-uhci1": 0, "ich9-uhci2": 2, "ich9-uhci3": 4}


# -- defaults ----------------------------------------------------------------------------------------------


def complete_controller(c: Controller, d: Define) -> None:
    """The model, and what follows from it.  Raises ``ConfigError`` for what the board can't have."""
    c.node.attrib.setdefault("type", "ide")
    make = _COMPLETE.get(c.type)
    if make is not None:
        make(c, d)
    driver = c.driver
    if driver is not None and driver.queues == 0:
        driver.node.drop("queues")
    if c.hole64 is not None:
        c.hole64 = c.hole64
    if driver is not None and driver.iothread and not (c.type == "scsi" and c.model in VIRTIO_SCSI):
        hint = "leave out iothread, or use a virtio-scsi controller"
        raise error.xml("'iothread' attribute only supported for virtio scsi controllers", c.node, hint)


def _complete_scsi(c: Controller, d: Define) -> None:
    if c.model in (None, "auto"):
        c.model = default_scsi_model(c, d)


def default_scsi_model(c: Controller, d: Define) -> str:
    """The SCSI controller that the board has, else the first that QEMU has."""
    board, emulator = d.board, d.emulator
    if board.is_pseries:
        return "ibmvscsi"
    if board.is_s390 or board.is_loongarch_virt:
        return "virtio-scsi"
    if emulator.flag("lsi"):
        return "lsilogic"
    if emulator.flag("virtio-scsi-pci"):
        return "virtio-scsi"
    if board.has_builtin_esp:
        return "ncr53c90"
    raise error.internal(
        f"Unable to determine model for SCSI controller idx={c.number}", c.node, "give it a model"
    )


def default_usb_model(d: Define, *, addressed: bool) -> str | None:
    """The USB controller of a guest that does not say which; ``None`` where this QEMU has none for it."""
    board, emulator = d.board, d.emulator
    if board.is_ppc64:
        # once the guest exists it keeps the controller that old versions gave it
        wanted = (("qemu-xhci", "qemu-xhci"), ("nec-xhci", "nec-usb-xhci")) if d.update else ()
        return _first(d, *wanted, ("pci-ohci", "pci-ohci"))
    model = _first(d, ("piix3-uhci", "piix3-usb-uhci"))
    if model is None and not board.is_x86:
        model = _first(d, ("pci-ohci", "pci-ohci"))
    if board.is_s390 and not addressed:
        return "none"
    if board.arch == "aarch64":
        return _first(d, ("qemu-xhci", "qemu-xhci"), ("nec-xhci", "nec-usb-xhci")) or model
    if board.arch == "loongarch64" and emulator.flag("qemu-xhci"):
        return "qemu-xhci"
    return model


def _first(d: Define, *choices: tuple[str, str]) -> str | None:
    """The first model whose capability is there."""
    return next((model for model, capability in choices if d.emulator.flag(capability)), None)


def _complete_usb(c: Controller, d: Define) -> None:
    if c.model is None:
        model = default_usb_model(d, addressed=bool(c.address_type))
        if model is not None:
            c.model = model
    if c.model in COMPANION_PORTS and c.master_startport is None:
        c.master_startport = COMPANION_PORTS[c.model]
    if c.model in XHCI and (c.ports or 0) > XHCI_PORTS:
        raise error.unsupported(
            f"'{c.model}' controller only supports up to '{XHCI_PORTS}' ports",
            c.node,
            "add another controller",
        )


def _complete_pci(c: Controller, d: Define) -> None:
    board = d.board
    if c.model == "pci-expander-bus" and not board.is_i440fx:
        raise error.unsupported(
            "pci-expander-bus controllers are only supported on 440fx-based machinetypes",
            c.node,
            "pcie-expander-bus is the one for other machine types",
        )
    if c.model == "pcie-expander-bus" and not (board.is_q35 or board.is_arm_virt):
        raise error.unsupported(
            "pcie-expander-bus controllers are not supported with this machine type",
            c.node,
            "Q35 and ARM virt machines have them",
        )
    is_root = c.model in ("pci-root", "pcie-root")
    if is_root and c.number and not (board.is_pseries and c.model == "pci-root"):
        raise error.xml(
            "pci-root and pcie-root controllers should have index 0", c.node, "a guest has one root"
        )


_COMPLETE: dict[str, Callable[[Controller, Define], None]] = {
    "pci": _complete_pci,
    "scsi": _complete_scsi,
    "usb": _complete_usb,
}


# -- checks ------------------------------------------------------------------------------------------------


def check_controller(c: Controller, d: Define) -> None:
    """Raise ``ConfigError`` where the board or this QEMU can't have the controller."""
    _check_queues(c)
    make = _CHECK.get(c.type)
    if make is not None:
        make(c, d)


def _check_queues(c: Controller) -> None:
    """What only virtio-scsi can be told of its queues."""
    driver = c.driver
    if driver is None or (c.type == "scsi" and c.model in VIRTIO_SCSI):
        return
    for option in ("queues", "cmd_per_lun", "max_sectors", "ioeventfd"):
        if getattr(driver, option) is not None:
            raise error.unsupported(
                f"'{option}' is only supported by virtio-scsi controller", c.node, "model='virtio-scsi'"
            )


def _check_foreign(c: Controller, d: Define) -> None:
    """A controller that QEMU does not have can not be placed."""
    if d.board.has_pci:
        raise error.internal(
            "Cannot automatically add a new PCI bus for a device with connect flags 00", c.node, "remove it"
        )


def _check_ide(c: Controller, d: Define) -> None:
    if not d.board.has_builtin_ide:
        raise error.unsupported(
            "IDE controllers are unsupported for this QEMU binary or machine type",
            c.node,
            "use SATA, SCSI or virtio disks",
        )
    if c.number:
        raise error.unsupported(
            "Only a single IDE controller is supported for this machine type",
            c.node,
            "it has places for four disks; put more on SATA, SCSI or virtio",
        )


def _check_sata(c: Controller, d: Define) -> None:
    if not (c.number == 0 and d.board.is_q35) and not d.emulator.flag("ich9-ahci"):
        raise error.unsupported(
            "SATA is not supported with this QEMU binary", c.node, "bus='virtio' or 'scsi' for its disks"
        )


#: SCSI model → libvirt's capability and name of it
_SCSI = {
    "ibmvscsi": ("", ""),
    "lsilogic": ("lsi", "the LSI 53C895A SCSI controller"),
    "lsisas1068": ("mptsas1068", "the LSI SAS1068 (MPT Fusion) controller"),
    "lsisas1078": ("megasas", "the LSI SAS1078 (MegaRAID) controller"),
    "virtio-non-transitional": ("virtio-scsi-pci", "virtio scsi controller"),
    "virtio-scsi": ("virtio-scsi-pci", "virtio scsi controller"),
    "virtio-transitional": ("virtio-scsi-pci", "virtio scsi controller"),
    "vmpvscsi": ("pvscsi", "the PVSCSI controller"),
}


_VIRTIO_SCSI_CARDS = ("virtio-scsi-pci", "virtio-scsi-ccw")


def _check_scsi(c: Controller, d: Define) -> None:
    if c.model == "buslogic":
        raise error.unsupported(f"Unsupported controller model: {c.model}", c.node, "QEMU does not have it")
    capability, name = _SCSI.get(c.model or "", ("", ""))
    if capability and not d.emulator.flag(capability):
        raise error.unsupported(f"This QEMU doesn't support {name}", c.node, "use another model")
    driver = c.driver
    if driver is None or c.model not in VIRTIO_SCSI:
        return
    threads = [driver.iothread] if driver.iothread else [thread.id for thread in driver.iothreads]
    _check_iothreads(c, d, threads)
    mapping = any(d.emulator.device_property(card, "iothread-vq-mapping") for card in _VIRTIO_SCSI_CARDS)
    if driver.iothreads and not mapping:
        raise error.unsupported(
            "IOThread to virtqueue mapping is not supported by this QEMU binary",
            c.node,
            "QEMU 10.0 and newer do",
        )


def _check_iothreads(c: Controller, d: Define, threads: list[int]) -> None:
    if not threads:
        return
    if c.address_type not in ("", "pci", "ccw"):
        raise error.unsupported(
            "IOThreads only available for virtio pci and virtio ccw controllers", c.node, "drop iothread="
        )
    known = iothread_numbers(d)
    for thread in threads:
        if thread not in known:
            raise error.unsupported(
                f"controller iothread '{thread}' not defined in iothreadid", c.node, "raise <iothreads>"
            )


#: where options of <target> and the like may stand, and libvirt's name of each
_PCI_OPTIONS: tuple[tuple[str, str, frozenset[str]], ...] = (
    ("target/@index", "targetIndex", frozenset({"pci-root"})),
    ("pcihole64", "pcihole64", frozenset({"pci-root", "pcie-root"})),
    ("target/@busNr", "busNr", frozenset({"pci-expander-bus", "pcie-expander-bus"})),
    ("target/node", "numaNode", frozenset({"pci-expander-bus", "pcie-expander-bus", "pci-root"})),
    ("target/@chassisNr", "chassisNr", frozenset({"pci-bridge"})),
    ("target/@chassis", "chassis", frozenset({"pcie-root-port", "pcie-switch-downstream-port"})),
    ("target/@port", "port", frozenset({"pcie-root-port", "pcie-switch-downstream-port"})),
    ("target/@hotplug", "hotplug", frozenset({"pci-root", "pcie-root-port", "pcie-switch-downstream-port"})),
    ("target/@memReserve", "memReserve", frozenset({"pcie-root-port", "pci-bridge", "pcie-to-pci-bridge"})),
)
_NO_OPTIONS = frozenset({"model", "target", "address", "alias"})
#: model → options of which nothing has to be checked: those of the models that libvirt itself adds
_USUAL_OPTIONS = {
    "pci-bridge": _NO_OPTIONS | {"target/@chassisNr"},
    "pcie-root-port": _NO_OPTIONS | {"target/@chassis", "target/@port"},
}
_PSERIES_ROOT_ONLY = frozenset({"target/@index", "target/node", "model/@name"})
_LAST_TARGET = 30


def _check_pci(c: Controller, d: Define) -> None:
    model = c.node.attrib.get("model", "")
    if model in ("pci-root", "pcie-root") and c.address_type:
        raise error.unsupported(
            "pci-root and pcie-root controllers should not have an address", c.node, "drop <address>"
        )
    given = _given_options(c)
    if given <= _USUAL_OPTIONS.get(model, _NO_OPTIONS):
        return
    target = c.target
    if target is not None:
        for number, name, most in ((target.chassis_nr, "chassisNr", 255), (target.bus_nr, "busNr", 254)):
            if number is not None and not 1 <= number <= most:
                message = f"PCI controller {name} '{number}' out of range - must be 1-{most}"
                raise error.unsupported(message, c.node, "leave it out: a free one is found")
    if target is not None and target.node_ is not None and c.number == 0:
        raise error.unsupported(
            "The PCI controller with index=0 can't be associated with a NUMA node",
            c.node,
            "add a pcie-expander-bus for the node",
        )
    if target is not None and target.index is not None and model == "pci-root" and d.board.is_pseries:
        if target.index > _LAST_TARGET:
            wrong = f"PCI controller target index '{target.index}' out of range - must be 0-{_LAST_TARGET}"
            raise error.unsupported(wrong, c.node, "a target index in that range")
        if (c.number == 0) != (target.index == 0):
            raise error.unsupported(
                "Only the PCI controller with index 0 can have target index 0, and vice versa",
                c.node,
                "index='0' for controller 0 alone",
            )
    _check_pci_options(c, given, d.board)


def _given_options(c: Controller) -> set[str]:
    """The paths of the options that an element has."""
    given = {child.tag for child in c.node.children}
    if "target" in given:
        target = c.node.ensure("target")
        given.update([f"target/@{name}" for name in target.attrib])
        given.update([f"target/{child.tag}" for child in target.children])
    return given


def _check_pci_options(c: Controller, given: set[str], board: Board) -> None:
    """Options that the model does not have."""
    model = c.model or ""
    for path, name, models in _PCI_OPTIONS:
        if path not in given:
            continue
        wrong = model not in models
        if model == "pci-root" and path in _PSERIES_ROOT_ONLY:
            wrong = not board.is_pseries
        if model == "pci-root" and path == "pcihole64":
            wrong = board.is_pseries
        if wrong:
            raise error.unsupported(
                f"Option '{name}' is not valid for PCI controller with index '{c.number}', "
                f"model '{model}' and modelName '{c.model_name or 'none'}'",
                c.node,
                f"leave out {path}",
            )


_CHECK: dict[str, Callable[[Controller, Define], None]] = {
    "ide": _check_ide,
    "pci": _check_pci,
    "sata": _check_sata,
    "scsi": _check_scsi,
    "isa": _check_foreign,
    "xenbus": _check_foreign,
}
