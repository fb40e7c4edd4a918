"""Older spellings, rewritten into today's before anything is read: ``-hda``, ``-usbdevice``, ``-balloon``, ``-set``.

https://www.qemu.org/docs/master/about/removed-features.html
"""

from __future__ import annotations

from collections.abc import Callable

from qemushim.command.option import escape_commas
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.chardevs import legacy_chardev
from qemushim.fromargv.line import Line
from qemushim.fromargv.syntax import UnreadableError, wrong

#: flag → what the drive is besides its file
_DRIVES = {
    "-cdrom": "index=2,media=cdrom",
    "-fda": "if=floppy,index=0",
    "-fdb": "if=floppy,index=1",
    "-hda": "index=0,media=disk",
    "-hdb": "index=1,media=disk",
    "-hdc": "index=2,media=disk",
    "-hdd": "index=3,media=disk",
    "-mtdblock": "if=mtd",
    "-pflash": "if=pflash,format=raw",
    "-sd": "if=sd",
}
#: -usbdevice's word → -device
_USB_DEVICES = {
    "keyboard": "usb-kbd",
    "mouse": "usb-mouse",
    "tablet": "usb-tablet",
    "wacom-tablet": "usb-wacom-tablet",
}


def rewrite(line: Line) -> None:
    """Everything that has a spelling of today."""
    for argument in tuple(line.arguments):
        make = _REWRITES.get(argument.flag)
        if argument.flag in _DRIVES:
            line.derive(
                argument, "-drive", f"file={escape_commas(argument.text or '')},{_DRIVES[argument.flag]}"
            )
        elif make is not None:
            make(line, argument)


def _usb_device(line: Line, argument: Argument) -> None:
    kind, _, rest = (argument.text or "").partition(":")
    if not bool(line.every("-usb")):
        line.chipset.usb = True
    if kind in _USB_DEVICES:
        line.derive(argument, "-device", _USB_DEVICES[kind])
    elif kind == "disk":
        name = f"usbdisk{len(line.arguments)}"
        file = rest.rpartition(":")[2] if rest.startswith((":", "format=")) else rest
        line.derive(argument, "-drive", f"if=none,id={name},file={escape_commas(file)}")
        line.derive(argument, "-device", f"usb-storage,drive={name}")
    elif kind == "host":
        _usb_host(line, argument, rest)
    elif kind in ("serial", "braille"):
        _usb_serial(line, argument, rest)
    else:
        argument.read = False


def _usb_host(line: Line, argument: Argument, rest: str) -> None:
    """``host:BUS.ADDRESS``, ``host:VENDOR:PRODUCT``."""
    vendor, colon, product = rest.partition(":")
    bus, dot, address = rest.partition(".")
    if colon:
        line.derive(argument, "-device", f"usb-host,vendorid=0x{vendor},productid=0x{product}")
    elif dot:
        line.derive(argument, "-device", f"usb-host,hostbus={bus},hostaddr={address}")


def _usb_serial(line: Line, argument: Argument, rest: str) -> None:
    name = f"usbserial{len(line.arguments)}"
    text = rest.partition(":")[2] if rest.startswith(("vendorid", "productid", ":")) else rest
    try:
        line.derive(argument, "-chardev", legacy_chardev(text, name))
    except UnreadableError as reason:
        line.reasons[id(argument)] = str(reason)
        return
    line.derive(argument, "-device", f"usb-serial,chardev={name}")


def _balloon(line: Line, argument: Argument) -> None:
    head, _, rest = (argument.text or "").partition(",")
    if head == "virtio":
        driver = "virtio-balloon-ccw" if line.board.is_ccw else "virtio-balloon-pci"
        line.derive(argument, "-device", driver + (f",{rest}" if rest else ""))
    else:
        argument.read = True


def _pci_device(line: Line, argument: Argument) -> None:
    """``-pcidevice host=BUS:SLOT.FUNCTION``."""
    line.derive(argument, "-device", f"pci-assign,{argument.text}")


def _set(line: Line, argument: Argument) -> None:
    """``-set group.id.property=value``: as if the argument of that id had it."""
    head, equals, value = (argument.text or "").partition("=")
    parts = head.split(".", 2)
    if not equals or len(parts) != 3:
        raise wrong(f"-set {argument.text}: group.id.property=value is needed", argument.place)
    group, name, key = parts
    target = line.known(f"-{group}", name)
    if target is None:
        raise wrong(f"-set {argument.text}: there is no -{group} with id={name}", argument.place)
    target.bag.set(key, value)
    argument.read = True


def _redir(line: Line, argument: Argument) -> None:
    """``-redir PROTOCOL:HOSTPORT:GUEST:PORT``: ``hostfwd=`` of the user network."""
    parts = (argument.text or "").split(":")
    ends = [a for a in line.every("-net", "-nic", "-netdev") if a.bag.was("type") == "user"]
    if len(parts) == 4 and ends:
        protocol, outer, guest, inner = parts
        ends[0].bag.add("hostfwd", f"{protocol}::{outer}-{guest}:{inner}")
        argument.read = True


def _localtime(line: Line, argument: Argument) -> None:
    line.derive(argument, "-rtc", "base=localtime")


def _readconfig(line: Line, argument: Argument) -> None:
    line.reasons[id(argument)] = "files of options are not read; what is in it is not in the document"


_REWRITES: dict[str, Callable[[Line, Argument], None]] = {
    "-balloon": _balloon,
    "-localtime": _localtime,
    "-pcidevice": _pci_device,
    "-readconfig": _readconfig,
    "-redir": _redir,
    "-set": _set,
    "-usbdevice": _usb_device,
}
