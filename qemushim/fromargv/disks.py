"""Disks: what the guest sees (``-device``, ``if=`` of a ``-drive``) and the image behind it.

The inverse of ``qemushim.devices.disk_frontend``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from qemushim.devices.address import disk_index
from qemushim.devices.block_limits import LENGTHS, RATES
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.block import Image, image_format_of, read_chain, read_drive_image, say_image
from qemushim.fromargv.line import Line, put
from qemushim.fromargv.places import (
    pci_place,
    place,
    split_driver,
    thread_mapping,
    usb_place,
    virtio_settings,
)
from qemushim.fromargv.syntax import Bag, UnreadableError

#: QEMU's device → bus, kind of device
_DRIVES: dict[str, tuple[str, str]] = {
    "floppy": ("fdc", "floppy"),
    "ide-cd": ("ide", "cdrom"),
    "ide-drive": ("ide", "disk"),
    "ide-hd": ("ide", "disk"),
    "scsi-block": ("scsi", "lun"),
    "scsi-cd": ("scsi", "cdrom"),
    "scsi-disk": ("scsi", "disk"),
    "scsi-hd": ("scsi", "disk"),
    "usb-storage": ("usb", "disk"),
    "vhost-user-blk": ("virtio", "disk"),
    "virtio-blk": ("virtio", "disk"),
}
#: what names of disks begin with, by bus
_PREFIXES = {"fdc": "fd", "ide": "hd", "sata": "sd", "scsi": "sd", "sd": "sd", "usb": "sd", "virtio": "vd"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def is_disk(driver: str) -> bool:
    return split_driver(driver)[0] in _DRIVES


def disk_name(prefix: str, index: int) -> str:
    """``vda`` for 0, ``vdz`` for 25, ``vdaa`` for 26: the inverse of ``disk_index``."""
    letters = ""
    number = index + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = _LETTERS[rest] + letters
    return prefix + letters


def read_disk(line: Line, argument: Argument) -> None:
    """A disk's ``-device``.  Raises ``UnreadableError``."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    base, _, model = split_driver(driver)
    bus, device = _DRIVES[base]
    node = Node("disk", {"type": "file", "device": device})
    if model:
        node.set("model", model)
    node.add("driver")
    used = [argument]
    limits: Node | None = None
    drive = bag.take("drive")
    raw = next((value for key, value in bag.pairs if key == "write-cache"), None)
    writeback = bag.switch("write-cache")
    if base == "vhost-user-blk":
        used.append(_vhost_user(line, bag, node))
    elif drive is not None:
        image, drive_argument, limits = _image(line, drive, node, writeback)
        used.append(drive_argument)
        if writeback is not None and (image is None or image.direct is None is image.no_flush):
            # no cache mode goes with it
            bag.pairs.append(("write-cache", raw))
        if image is not None:
            used += image.arguments
            if drive_argument.flag == "-drive" and drive_argument.bag.was("media") == "cdrom":
                node.set("device", "cdrom")
    elif writeback is not None:
        bag.pairs.append(("write-cache", raw))
    _front(line, bag, node, bus)
    target = node.add("target", {"dev": "", "bus": bus})
    _BUSES[bus](line, bag, node, target)
    if limits is not None:
        node.append(limits)
    bus = target.get("bus") or bus
    _name(line, node, target, bus, argument.id)
    line.finish(bag, _ordered(node), *used)


def _image(
    line: Line, name: str, node: Node, writeback: bool | None
) -> tuple[Image | None, Argument, Node | None]:
    """The image that a device shows, from either kind of argument, said in the document."""
    found = line.find(("-blockdev", "-drive"), name)
    if found.flag == "-blockdev":
        image = read_chain(line, name)
        say_image(node, image, writeback)
        return image, found, None
    bag = line.use(found)
    bag.drop("if", "id", "media", "index", "bus", "unit", "cyls", "heads", "secs", "trans", "boot")
    drive, limits = say_drive(line, bag, node, writeback)
    if bag.pairs:
        raise UnreadableError(f"-drive {name}: {', '.join(bag.keys)}")
    return drive, found, limits


def say_drive(line: Line, bag: Bag, node: Node, writeback: bool | None) -> tuple[Image | None, Node | None]:
    """The image and the host's side of a ``-drive``; limits come back, for they are written last."""
    snapshot = bag.switch("snapshot")
    path = bag.peek("file") or ""
    given = bag.peek("format")
    image, cache = read_drive_image(line, bag)
    cache = _OLD_CACHES.get(cache or "", cache)
    driver = node.ensure("driver")
    if image is not None:
        if given is None and image.kind == "file" and node.get("device") != "cdrom":
            image.format = image_format_of(path) or "raw"
            line.note(
                "read",
                f"{path}: QEMU looks at the image for its format; {image.format} is taken, by its name",
            )
        say_image(node, image, writeback)
        put(driver, "@cache", cache)
        if snapshot:
            node.add("transient")
    else:
        put(driver, "@name", None if given is None else "qemu")
        put(driver, "@type", given)
        put(driver, "@cache", cache)
    for key, attribute in (("werror", "error_policy"), ("rerror", "rerror_policy")):
        put(driver, f"@{attribute}", _POLICIES.get(bag.peek(key) or "", bag.peek(key)))
        bag.drop(key)
    serial = bag.take("serial")
    if serial is not None:
        put(node, "serial", serial)
    return image, _limits(bag)


#: what cache= was before QEMU 0.9.2
_OLD_CACHES = {"off": "none", "on": "writeback"}
_POLICIES = {"enospc": "enospace"}
#: older names of limits → today's
_OLD_LIMITS = {
    name: f"{what}{how}"
    for what, short in (("bps", "bps"), ("iops", "iops"))
    for name, how in (
        (short, "-total"),
        (f"{short}_rd", "-read"),
        (f"{short}_wr", "-write"),
        (f"{short}_max", "-total-max"),
        (f"{short}_rd_max", "-read-max"),
        (f"{short}_wr_max", "-write-max"),
    )
}


def _limits(bag: Bag) -> Node | None:
    """``throttling.…`` and its older names."""
    found = Node("iotune")
    for element, name in (*RATES.items(), *LENGTHS.items()):
        olds = [old for old, new in _OLD_LIMITS.items() if new == name]
        number = bag.number(f"throttling.{name}", *olds)
        if number:
            found.add(element, text=str(number))
    group = bag.take("throttling.group", "group")
    if group is not None:
        found.add("group_name", text=group)
    return found if found.children else None


def _vhost_user(line: Line, bag: Bag, node: Node) -> Argument:
    from qemushim.fromargv.chardevs import unix_source

    chardev = line.find(("-chardev",), bag.take("chardev"))
    node.set("type", "vhostuser")
    put(node, "driver/@name", "qemu")
    put(node, "driver/@type", "raw")
    node.append(unix_source(line, chardev))
    return chardev


# -- what the guest sees ----------------------------------------------------------------------------


def _front(line: Line, bag: Bag, node: Node, bus: str) -> None:
    driver = node.ensure("driver")
    if bus == "virtio":
        virtio_settings(bag, node)
        thread = bag.take("iothread")
        put(driver, "@iothread", None if thread is None else line.iothread(thread))
        put(driver, "@ioeventfd", bag.switch("ioeventfd"))
        put(driver, "@event_idx", bag.switch("event_idx"))
        put(driver, "@queues", bag.take("num-queues"))
        put(driver, "@queue_size", bag.take("queue-size"))
        thread_mapping(line, bag, driver)
        if bag.peek("scsi") in ("on", "true"):
            bag.drop("scsi")
            node.set("device", "lun")
    if bag.switch("share-rw"):
        node.ensure("shareable")
    for attribute in ("logical_block_size", "physical_block_size", "discard_granularity"):
        amount = bag.size(attribute)
        put(node, f"blockio/@{attribute}", amount)
    for attribute, key in (
        ("cyls", "cyls"),
        ("heads", "heads"),
        ("secs", "secs"),
        ("trans", "bios-chs-trans"),
    ):
        put(node, f"geometry/@{attribute}", bag.take(key))
    wwn = bag.number("wwn")
    put(node, "wwn", None if wwn is None else f"{wwn:016x}")
    put(node, "vendor", bag.take("vendor"))
    put(node, "product", bag.take("product", "model"))
    serial = bag.take("serial")
    if serial is not None:
        put(node, "serial", serial.replace("\\ ", " "))
    _policies(bag, driver)
    if not driver.attrib and not driver.children:
        node.discard("driver")


def _policies(bag: Bag, driver: Node) -> None:
    werror, rerror = bag.take("werror"), bag.take("rerror")
    put(driver, "@error_policy", None if werror is None else _POLICIES.get(werror, werror))
    if rerror != werror:
        put(driver, "@rerror_policy", rerror)


# -- where it sits ----------------------------------------------------------------------------------


def _virtio(line: Line, bag: Bag, node: Node, target: Node) -> None:
    place(line, bag, node)


def _usb(line: Line, bag: Bag, node: Node, target: Node) -> None:
    if bag.switch("removable"):
        put(target, "@removable", "on")
    usb_place(line, bag, node)


def _scsi(line: Line, bag: Bag, node: Node, target: Node) -> None:
    removable = bag.switch("removable")
    put(target, "@removable", removable)
    put(target, "@rotation_rate", bag.take("rotation_rate"))
    bag.drop("device_id")
    node.append(scsi_place(line, bag))


def scsi_place(line: Line, bag: Bag) -> Node:
    """``bus=scsi0.0,channel=,scsi-id=,lun=`` of a disk or a device of the host."""
    bus = bag.take("bus")
    index = line.buses.of(bus, "scsi") if bus is not None else 0
    if index is None:
        raise UnreadableError(f"there is no SCSI bus {bus}")
    if bus is None and not line.buses.taken.get("scsi"):
        raise UnreadableError("there is no SCSI controller")
    channel, target, lun = bag.take("channel"), bag.take("scsi-id"), bag.take("lun")
    if target is None:
        # QEMU takes the next free one
        target = str(line.buses.next_port(f"scsi{index}"))
    address = {"type": "drive", "controller": str(index), "bus": channel or "0"}
    if index in line.buses.narrow:
        return Node("address", {**address, "target": "0", "unit": target})
    return Node("address", {**address, "target": target, "unit": lun or "0"})


def _ide(line: Line, bag: Bag, node: Node, target: Node) -> None:
    put(target, "@rotation_rate", bag.take("rotation_rate"))
    bus, unit = bag.take("bus"), bag.number("unit")
    if line.buses.of(bus, "sata") is not None or line.board.is_q35 or not line.board.has_builtin_ide:
        target.set("bus", "sata")
        index = line.buses.of(bus, "sata") or 0
        number = (bus or "").rpartition(".")[2]
        port = int(number) if number.isdigit() else line.buses.next_port("sata")
        line.buses.ports.add(("sata", port))
        node.append(_drive(index, 0, port))
        return
    channel = (bus or "ide.0").rpartition(".")[2]
    if bus is None and unit is None:
        free = line.buses.next_port("ide")
        channel, unit = str(free // 2), free % 2
    place_number = int(channel) if channel.isdigit() else 0
    line.buses.ports.add(("ide", place_number * 2 + (unit or 0)))
    node.append(_drive(0, place_number, unit or 0))


def _drive(controller: int, bus: int, unit: int) -> Node:
    return Node(
        "address",
        {"type": "drive", "controller": str(controller), "bus": str(bus), "target": "0", "unit": str(unit)},
    )


def _floppy(line: Line, bag: Bag, node: Node, target: Node) -> None:
    unit = bag.number("unit") or 0
    bag.drop("bus", "drive-type")
    order = line.chipset.floppy_boot.get("AB"[unit & 1])
    put(node, "boot/@order", order)
    node.append(_drive(0, 0, unit))


_BUSES: dict[str, Callable[[Line, Bag, Node, Node], None]] = {
    "fdc": _floppy,
    "ide": _ide,
    "sata": _ide,
    "scsi": _scsi,
    "usb": _usb,
    "virtio": _virtio,
}


# -- its name ---------------------------------------------------------------------------------------


def _name(line: Line, node: Node, target: Node, bus: str, alias: str) -> None:
    """``vda`` and so on: by the id that libvirt gave it, by its place, else the next of its bus."""
    prefix = _PREFIXES[bus]
    last = line.buses.last_disk.get(bus, -1)
    wanted = last + 1
    start = f"{bus}-disk"
    if alias.startswith(start) and alias[len(start) :].isdigit() and len(alias) < len(start) + 5:
        wanted = int(alias[len(start) :])
        last = -1
    elif bus in ("ide", "fdc", "sata"):
        address = node.ensure("address")
        wanted = int(address.get("bus") or 0) * 2 + int(address.get("unit") or 0)
        if bus == "sata":
            wanted += 6 * int(address.get("controller") or 0)
    wanted = max(wanted, last + 1)
    while disk_name(prefix, wanted) in line.buses.disk_names:
        wanted += 1
    name = disk_name(prefix, wanted)
    assert disk_index(name) == wanted
    line.buses.disk_names.add(name)
    line.buses.last_disk[bus] = wanted
    target.set("dev", name)


_ORDER = (
    *(
        "driver",
        "auth",
        "source",
        "backingStore",
        "geometry",
        "blockio",
        "target",
        "iotune",
        "throttlefilters",
    ),
    *("readonly", "shareable", "transient", "serial", "wwn", "vendor", "product", "boot", "alias", "address"),
)


def _ordered(node: Node) -> Node:
    node.children.sort(key=lambda child: _ORDER.index(child.tag) if child.tag in _ORDER else len(_ORDER))
    return node


def read_floppies(line: Line) -> None:
    """``-global isa-fdc.driveA=``: a drive of the board's floppy controller, before QEMU 5.1."""
    for argument in line.all("-global"):
        found = re.fullmatch(r"isa-fdc\.drive([AB])=(.+)", argument.text or "")
        if found is not None:
            line.read_one(argument, partial(_read_floppy, unit="AB".index(found[1]), name=found[2]))


def _read_floppy(line: Line, argument: Argument, bag: Bag, *, unit: int, name: str) -> None:
    node = Node("disk", {"type": "file", "device": "floppy"})
    node.add("driver")
    _, drive, _ = _image(line, name, node, None)
    target = node.add("target", {"dev": "", "bus": "fdc"})
    node.append(_drive(0, 0, unit))
    _name(line, node, target, "fdc", "")
    line.add(_ordered(node), argument, drive)


# -- drives without a device ------------------------------------------------------------------------

#: if= of a drive → bus
_INTERFACES = {"floppy": "fdc", "ide": "ide", "scsi": "scsi", "sd": "sd", "virtio": "virtio"}


def read_drives(line: Line) -> None:
    """``-drive if=…`` (and ``-hda``, ``-cdrom`` …), which QEMU gives devices itself."""
    default = "virtio" if line.board.is_arm_virt or line.board.is_riscv_virt else "ide"
    if line.board.is_ccw:
        default = "virtio"
    if line.board.is_pseries:
        default = "scsi"
    for argument in line.all("-drive"):
        interface = argument.bag.peek("if") or default
        if interface not in _INTERFACES:
            continue
        line.read_one(argument, partial(_read_drive, bus=_INTERFACES[interface]))


def _read_drive(line: Line, argument: Argument, bag: Bag, bus: str) -> None:
    bag.drop("if", "id")
    media = bag.take("media")
    device = "floppy" if bus == "fdc" else "cdrom" if media == "cdrom" else "disk"
    if bus == "ide" and line.board.is_q35:
        bus = "sata"
    if device == "cdrom" and bus == "virtio":
        device = "disk"
        bag.pairs.append(("readonly", "on"))
    node = Node("disk", {"type": "file", "device": device})
    node.add("driver")
    index = _drive_index(line, bag, bus)
    _, limits = say_drive(line, bag, node, None)
    for attribute, key in (("cyls", "cyls"), ("heads", "heads"), ("secs", "secs"), ("trans", "trans")):
        put(node, f"geometry/@{attribute}", bag.take(key))
    put(node, "boot/@order", bag.take("bootindex"))
    if bag.peek("boot") is not None:
        bag.drop("boot")
    if bus == "fdc":
        put(node, "boot/@order", line.chipset.floppy_boot.get("AB"[index & 1]))
    target = node.add("target", {"dev": "", "bus": bus})
    if bus == "virtio":
        addr = bag.take("addr")
        fake = Bag(bag.what, bag.place, [("addr", addr)] if addr is not None else [])
        if line.board.has_pci and not line.board.is_ccw:
            pci_place(line, fake, node)
    elif bus == "scsi":
        line.buses.scsi_drives += 1
        controller, unit = divmod(index, 7)
        node.append(_drive(controller, 0, unit))
    elif bus != "sd":
        divided = divmod(index, 2) if bus == "ide" else (0, index)
        node.append(_drive(0, *divided))
    if limits is not None:
        node.append(limits)
    _name(line, node, target, bus, "")
    if not node.ensure("driver").attrib and not node.ensure("driver").children:
        node.discard("driver")
    if bag.pairs:
        raise UnreadableError(f"-drive: {', '.join(bag.keys)}")
    line.add(_ordered(node), argument)


def _drive_index(line: Line, bag: Bag, bus: str) -> int:
    """``index=``, ``bus=`` and ``unit=``, or the next that is free."""
    index, channel, unit = bag.number("index"), bag.number("bus"), bag.number("unit")
    if index is None and (channel is not None or unit is not None):
        index = (channel or 0) * (2 if bus == "ide" else 7 if bus == "scsi" else 1) + (unit or 0)
    if index is None:
        index = line.buses.next_port(bus)
    line.buses.ports.add((bus, index))
    return index
