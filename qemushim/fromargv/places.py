"""Buses and addresses: controllers by the names of their buses, and where the other devices sit.

The inverse of ``qemushim.devices.placement`` and ``qemushim.devices.controller``.
"""

from __future__ import annotations

from qemushim.address.pcioptions import MODEL_NAMES
from qemushim.devices.controller import SCSI_DRIVERS, USB_DRIVERS
from qemushim.devices.placement import NARROW_SCSI, VIRTIO_SUFFIXES
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line, put
from qemushim.fromargv.syntax import Bag, UnreadableError, wrong

#: QEMU's PCI bridge or port → model of the controller
_PCI = {**{name: model for model, name in MODEL_NAMES.items()}, "ioh3420": "pcie-root-port"}
#: and that of pseries machines
_HOST_BRIDGE = "spapr-pci-host-bridge"
_USB = {driver: model for model, (driver, _) in USB_DRIVERS.items()}
_SCSI = {driver: model for model, driver in SCSI_DRIVERS.items()} | {
    **dict.fromkeys(("lsi53c895a", "lsi53c810"), "lsilogic"),
}
#: names of QEMU's buses that the board itself has
ROOT_BUSES = frozenset({"pci.0", "pcie.0", "pci"})


def split_driver(driver: str) -> tuple[str, str, str]:
    """``virtio-net-pci-transitional`` → ``virtio-net``, ``pci``, ``virtio-transitional``; ``""`` where it has none."""
    name, model = driver, ""
    for variant in ("-non-transitional", "-transitional"):
        if name.endswith(variant):
            name, model = name.removesuffix(variant), f"virtio{variant}"
            break
    if name.startswith(("virtio-", "vhost-")):
        for kind, suffix in VIRTIO_SUFFIXES.items():
            if name.endswith(suffix):
                return name.removesuffix(suffix), kind, model
    return name, "", model


# -- controllers ------------------------------------------------------------------------------------


def name_buses(line: Line) -> None:
    """Give every controller its index, before any device is read that refers to one."""
    buses = line.buses
    if line.board.is_q35 or line.board.is_i440fx:
        buses.taken["pci"] = {0}
    buses.taken.setdefault("pci", {0})
    if line.board.is_q35:
        buses.taken["sata"] = {0}
    buses.models[0] = "pcie-root" if line.board.has_pcie_root else "pci-root"
    for name in ROOT_BUSES:
        buses.names[name] = ("pci", 0)
    for name in ("usb-bus.0", "usb.0"):
        buses.names[name] = ("usb", 0)
    if line.board.has_builtin_esp:
        buses.names["scsi.0"] = ("scsi", 0)
        buses.taken["scsi"] = {0}
        buses.narrow.add(0)
    for argument in line.all("-device"):
        kind = controller_type(argument.bag.peek("driver") or "")
        if kind:
            _name_bus(line, argument, kind)


def controller_type(driver: str) -> str:
    """The type of controller that a device is, ``""`` for none."""
    base, _, _ = split_driver(driver)
    if driver in _PCI or driver == _HOST_BRIDGE:
        return "pci"
    if driver in _USB or driver in _SCSI:
        return "usb" if driver in _USB else "scsi"
    return {
        "virtio-scsi": "scsi",
        "virtio-serial": "virtio-serial",
        "ahci": "sata",
        "ich9-ahci": "sata",
        "usb-ccid": "ccid",
    }.get(base, "")


def _name_bus(line: Line, argument: Argument, kind: str) -> None:
    buses, name = line.buses, argument.id
    bag = argument.bag
    driver = bag.peek("driver") or ""
    if kind == "usb" and bag.has("masterbus"):
        return
    if kind == "pci":
        index = buses.give("pci", name, "pcie." if name.startswith("pcie.") else "pci.", least=1)
        buses.models[index] = _PCI.get(driver, "pci-root")
        if name:
            buses.names[name] = ("pci", index)
            buses.names[f"{name}.0"] = ("pci", index)
    else:
        index = buses.give(kind, name, kind)
        if kind == "scsi" and _SCSI.get(driver) in NARROW_SCSI:
            buses.narrow.add(index)
        if name:
            for number in range(6 if kind == "sata" else 1):
                buses.names[f"{name}.{number}"] = (kind, index)
        else:
            # QEMU calls a bus after its kind where the device has no id
            buses.names.setdefault(f"{kind.replace('virtio-', 'virtio-serial')}.0", (kind, index))
            buses.names.setdefault(_ANONYMOUS.get(kind, kind) + f".{index}", (kind, index))
    line.buses.indexes[id(argument)] = index


_ANONYMOUS = {"virtio-serial": "virtio-serial-bus", "sata": "ide"}


def read_controller(line: Line, argument: Argument) -> None:
    """``-device`` of a controller."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    kind = controller_type(driver)
    index = line.buses.indexes.get(id(argument), 0)
    node = Node("controller", {"type": kind, "index": str(index)})
    _READERS[kind](line, bag, node, driver)
    if kind == "ccid":
        usb_place(line, bag, node)
    else:
        place(line, bag, node)
    line.finish(bag, node, argument)


def _pci(line: Line, bag: Bag, node: Node, driver: str) -> None:
    model = _PCI.get(driver, "pci-root")
    node.set("model", model)
    if driver not in (MODEL_NAMES.get(model), _HOST_BRIDGE):
        put(node, "model/@name", driver)
    for attribute, key in (
        ("chassisNr", "chassis_nr"),
        ("chassis", "chassis"),
        ("busNr", "bus_nr"),
        ("index", "index"),
    ):
        put(node, f"target/@{attribute}", bag.take(key))
    port = bag.number("port")
    put(node, "target/@port", None if port is None else hex(port))
    put(node, "target/@hotplug", bag.switch("hotplug"))
    reserve = bag.size("mem-reserve")
    put(node, "target/@memReserve", None if reserve is None else reserve // 1024)
    put(node, "target/node", bag.take("numa_node"))
    if model == "pcie-root-port" and not node.value("target/@chassis"):
        # QEMU leaves them all at 0 and refuses two alike: the index is libvirt's choice
        put(node, "target/@chassis", node.get("index"))
    if bag.peek("shpc") == "off":
        bag.drop("shpc")


def _usb(line: Line, bag: Bag, node: Node, driver: str) -> None:
    node.set("model", _USB[driver])
    ports = bag.take("p2"), bag.take("p3")
    if ports[0] is not None:
        node.set("ports", ports[0])
        if ports[1] not in (None, ports[0]):
            line.note("lost", f"{driver}: p3={ports[1]}: libvirt gives p2 and p3 one number of ports")
    master = bag.take("masterbus")
    if master is not None:
        index = line.buses.of(master, "usb")
        if index is None:
            raise UnreadableError(f"there is no USB bus {master}")
        node.set("index", index)
        put(node, "master/@startport", bag.take("firstport") or "0")


def _scsi(line: Line, bag: Bag, node: Node, driver: str) -> None:
    base, _, model = split_driver(driver)
    if base != "virtio-scsi":
        node.set("model", _SCSI[driver])
        return
    node.set("model", model or "virtio-scsi")
    virtio_settings(bag, node)
    thread = bag.take("iothread")
    if thread is not None:
        put(node, "driver/@iothread", line.iothread(thread))
    for attribute, key in (
        ("queues", "num_queues"),
        ("cmd_per_lun", "cmd_per_lun"),
        ("max_sectors", "max_sectors"),
    ):
        put(node, f"driver/@{attribute}", bag.take(key))
    put(node, "driver/@ioeventfd", bag.switch("ioeventfd"))
    thread_mapping(line, bag, node.ensure("driver"))
    if not node.ensure("driver").attrib and not node.ensure("driver").children:
        node.discard("driver")


def _virtio_serial(line: Line, bag: Bag, node: Node, driver: str) -> None:
    _, _, model = split_driver(driver)
    if model:
        node.set("model", model)
    virtio_settings(bag, node)
    put(node, "@ports", bag.take("max_ports"))
    put(node, "@vectors", bag.take("vectors"))


def _plain(line: Line, bag: Bag, node: Node, driver: str) -> None:
    """Nothing to say but where it sits."""


_READERS = {
    "ccid": _plain,
    "pci": _pci,
    "sata": _plain,
    "scsi": _scsi,
    "usb": _usb,
    "virtio-serial": _virtio_serial,
}


def thread_mapping(line: Line, bag: Bag, driver: Node) -> None:
    """``iothread-vq-mapping``: which I/O thread serves which queues."""
    entries: dict[str, dict[str, str]] = {}
    for key, value in bag.below("iothread-vq-mapping"):
        number, _, rest = key.partition(".")
        entries.setdefault(number, {})[rest] = str(value)
    if not entries:
        return
    threads = driver.ensure("iothreads")
    for entry in entries.values():
        thread = threads.add("iothread", {"id": line.iothread(entry.get("iothread", ""))})
        for name, queue in entry.items():
            if name.startswith("vqs."):
                thread.add("queue", {"id": queue})


# -- what any device says ---------------------------------------------------------------------------

_VIRTIO_OPTIONS = (
    ("iommu_platform", "iommu"),
    ("ats", "ats"),
    ("packed", "packed"),
    ("page-per-vq", "page_per_vq"),
)


def virtio_settings(bag: Bag, node: Node) -> None:
    """``<driver iommu= ats= packed= page_per_vq=>``."""
    for key, attribute in _VIRTIO_OPTIONS:
        put(node, f"driver/@{attribute}", bag.switch(key))


def place(line: Line, bag: Bag, node: Node) -> None:
    """Where a device sits that is on PCI, CCW, or a bus of its board."""
    devno = bag.take("devno")
    if devno is not None:
        cssid, ssid, number = (int(part, 16) for part in devno.split("."))
        node.add(
            "address",
            {"type": "ccw", "cssid": f"{cssid:#x}", "ssid": f"{ssid:#x}", "devno": f"{number:#06x}"},
        )
        return
    reg = bag.number("reg")
    if reg is not None:
        node.add("address", {"type": "spapr-vio", "reg": f"{reg:#010x}"})
        return
    _, kind, _ = split_driver(bag.was("driver") or "")
    if kind == "virtio-mmio":
        node.add("address", {"type": "virtio-mmio"})
        bag.drop("bus")
        return
    pci_place(line, bag, node)


def pci_place(line: Line, bag: Bag, node: Node) -> None:
    """A PCI address; where none is given the device waits for one (see ``slots``)."""
    bus, text = bag.take("bus"), bag.take("addr")
    index = line.buses.of(bus, "pci") if bus is not None else 0
    if index is None:
        raise UnreadableError(f"there is no PCI bus {bus}")
    many = bag.switch("multifunction")
    if text is None:
        if line.board.is_ccw or not line.board.has_pci:
            return
        line.buses.unplaced.append((node, index, many))
        return
    slot, function = pci_slot(text, bag)
    address = {
        "type": "pci",
        "domain": "0x0000",
        "bus": f"{index:#04x}",
        "slot": f"{slot:#04x}",
        "function": f"{function:#x}",
    }
    if many is not None:
        address["multifunction"] = "on" if many else "off"
    zpci = line.buses.zpci.get(bag.was("id") or "")
    found = node.add("address", address)
    if zpci is not None:
        found.add("zpci", zpci)


def pci_slot(text: str, bag: Bag) -> tuple[int, int]:
    """``0x2.0x1``, ``2.1``, ``5``: slot and function, in hexadecimal digits."""
    slot, _, function = text.partition(".")
    try:
        found = int(slot, 16), int(function or "0", 16)
    except ValueError:
        raise wrong(f"{bag.what}: addr={text}: a slot such as 0x5 or 0x2.0x1 is needed", bag.place) from None
    if not (0 <= found[0] < 32 and 0 <= found[1] < 8):
        raise wrong(f"{bag.what}: addr={text}: slots are 0 to 0x1f, functions 0 to 7", bag.place)
    return found


def usb_place(line: Line, bag: Bag, node: Node) -> None:
    """A port of a USB controller."""
    bus, port = bag.take("bus"), bag.take("port")
    board = line.board
    if not (line.buses.taken.get("usb") or board.is_x86 or board.is_pseries or not line.chipset.usb):
        raise UnreadableError("libvirt does not know the USB controller of this board")
    line.buses.usb_devices += 1
    if bus is None and port is None:
        return
    index = line.buses.of(bus, "usb") if bus is not None else 0
    if index is None:
        raise UnreadableError(f"there is no USB bus {bus}")
    address = node.add("address", {"type": "usb", "bus": str(index)})
    if port is not None:
        address.set("port", port)


def serial_place(line: Line, bag: Bag, node: Node) -> None:
    """A port of a virtio-serial controller."""
    bus, number = bag.take("bus"), bag.number("nr")
    index, channel = 0, "0"
    if bus is not None:
        found = line.buses.of(bus, "virtio-serial")
        if found is None:
            raise UnreadableError(f"there is no virtio-serial bus {bus}")
        index = found
    if bus is None and number is None:
        return
    address = {"type": "virtio-serial", "controller": str(index), "bus": channel}
    if number is not None:
        address["port"] = str(number)
    node.add("address", address)


def read_zpci(line: Line) -> None:
    """``-device zpci``: the ids that the PCI devices of an s390 guest have."""
    for argument in line.all("-device"):
        bag = argument.bag
        if bag.peek("driver") != "zpci":
            continue
        line.use(argument)
        uid, fid = bag.number("uid") or 0, bag.number("fid") or 0
        line.buses.zpci[bag.take("target") or ""] = {"uid": f"{uid:#06x}", "fid": f"{fid:#010x}"}
