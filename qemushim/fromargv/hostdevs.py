"""Devices of the host: PCI, USB, SCSI and mediated ones.  The inverse of ``qemushim.devices.hostdev``."""

from __future__ import annotations

from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.block import Image, read_chain, read_drive_image
from qemushim.fromargv.disks import scsi_place
from qemushim.fromargv.line import Line, put
from qemushim.fromargv.places import place, split_driver, usb_place
from qemushim.fromargv.secrets import opened_file
from qemushim.fromargv.storage import host_address
from qemushim.fromargv.syntax import Bag, UnreadableError


def _hostdev(kind: str, managed: str = "no") -> Node:
    return Node("hostdev", {"mode": "subsystem", "type": kind, "managed": managed})


def read_vfio(line: Line, argument: Argument) -> None:
    """``vfio-pci`` and its like."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    sysfs, host = bag.take("sysfsdev"), bag.take("host")
    display = bag.take("display")
    ramfb = bag.switch("ramfb")
    pair = bag.take("failover_pair_id")
    address = None
    if sysfs is not None and "/mdev/" not in sysfs and "/pci/devices/" in sysfs:
        host, sysfs = sysfs.rstrip("/").rpartition("/")[2], None
    if host is not None and sysfs is None:
        node = _hostdev("pci", "yes")
        node.add("driver", {"name": "vfio"})
        address = host_address(host)
    elif sysfs is not None:
        node = _hostdev("mdev")
        node.set("model", "vfio-pci" if driver == "vfio-pci-nohotplug" else driver)
        address = Node("address", {"uuid": sysfs.rstrip("/").rpartition("/")[2]})
    else:
        raise UnreadableError(f"{driver} without host= or sysfsdev=")
    node.add("source").append(address)
    put(node, "@display", display if display in ("on", "off") else None)
    put(node, "@ramfb", ramfb)
    if pair is not None:
        node.add("teaming", {"type": "transient", "persistent": pair})
    place(line, bag, node) if driver != "vfio-ap" else None
    line.finish(bag, node, argument)


def read_usb_host(line: Line, argument: Argument) -> None:
    """``usb-host``."""
    bag = argument.bag
    bag.drop("driver")
    node = _hostdev("usb")
    source = node.add("source")
    path = bag.take("hostdevice")
    bus, device = bag.take("hostbus"), bag.take("hostaddr")
    if path is not None:
        bus, device = _bus_and_device(opened_file(line, path))
    vendor, product = bag.number("vendorid"), bag.number("productid")
    if vendor is not None and product is not None:
        source.add("vendor", {"id": f"{vendor:#06x}"})
        source.add("product", {"id": f"{product:#06x}"})
    if bus is not None and device is not None:
        # decimal, however many zeros stand before it
        source.add("address", {"bus": str(int(bus, 10)), "device": str(int(device, 10))})
    if not source.children:
        if bag.has("hostport"):
            raise UnreadableError("usb-host by the port of the host")
        source.attrib["startupPolicy"] = "optional"
        line.note("lost", "usb-host: which device of the host it is, is not on the command line", argument)
    one, every = bag.switch("guest-reset"), bag.switch("guest-resets-all")
    if one is not None:
        put(source, "@guestReset", "off" if not one else "on" if every else "uninitialized")
    usb_place(line, bag, node)
    line.finish(bag, node, argument)


def _bus_and_device(path: str) -> tuple[str, str]:
    parts = path.rstrip("/").split("/")
    if len(parts) < 2 or not (parts[-1].isdigit() and parts[-2].isdigit()):
        raise UnreadableError(f"hostdevice={path}")
    return str(int(parts[-2])), str(int(parts[-1]))


def read_vhost_scsi(line: Line, argument: Argument) -> None:
    """``vhost-scsi``: a SCSI target of the host's kernel."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    bag.drop("vhostfd")
    _, _, model = split_driver(driver)
    node = _hostdev("scsi_host")
    put(node, "@model", model or None)
    node.add("source", {"protocol": "vhost", "wwpn": bag.take("wwpn") or ""})
    place(line, bag, node)
    line.finish(bag, node, argument)


def read_scsi_generic(line: Line, argument: Argument) -> None:
    """``scsi-generic``: a SCSI device of the host, or of an iSCSI server."""
    bag = argument.bag
    bag.drop("driver")
    name = bag.take("drive")
    used = [argument]
    found = line.find(("-blockdev", "-drive"), name)
    used.append(found)
    if found.flag == "-blockdev":
        image: Image | None = read_chain(line, found.id)
    else:
        inner = line.use(found)
        inner.drop("if", "id", "media")
        image, _ = read_drive_image(line, inner)
        if inner.pairs:
            raise UnreadableError(f"-drive {name}: {', '.join(inner.keys)}")
    if image is None:
        raise UnreadableError(f"-drive {name} without a file")
    node = _hostdev("scsi")
    if image.kind == "network":
        node.append(image.source)
    else:
        _adapter(line, node, image.source.get("dev") or "")
    node.append(scsi_place(line, bag))
    if image.readonly:
        node.add("readonly")
    line.finish(bag, node, *used)


def _adapter(line: Line, node: Node, device: str) -> None:
    """Which SCSI device of the host it is: the command line has ``/dev/sgN`` alone."""
    where = line.known_host.scsi_devices.get(device)
    if where is None:
        number = len(line.devices.all("hostdev"))
        where = (0, 0, 0, number)
        line.note("lost", f"{device}: its SCSI address on the host is not on the command line")
    host, channel, target, unit = where
    source = node.add("source")
    source.add("adapter", {"name": f"scsi_host{host}"})
    source.add("address", {"bus": str(channel), "target": str(target), "unit": str(unit)})


def read_pci_assign(line: Line, argument: Argument) -> None:
    """``pci-assign``, the way before VFIO."""
    bag: Bag = argument.bag
    bag.drop("driver", "configfd")
    node = _hostdev("pci", "yes")
    node.add("source").append(host_address(bag.take("host") or ""))
    place(line, bag, node)
    line.note("changed", "pci-assign is gone from QEMU and libvirt: VFIO takes its place", argument)
    line.finish(bag, node, argument)
