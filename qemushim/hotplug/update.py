"""A device of a guest that runs is changed: another medium, another password, a cable pulled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qemushim.command.option import Value
from qemushim.context import Define
from qemushim.devices.base import Device
from qemushim.devices.disk import Disk
from qemushim.devices.graphics import Graphics
from qemushim.devices.interface import Interface
from qemushim.devices.prepare import prepare_device, recall_device
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.errors import error
from qemushim.guest import Guest, located
from qemushim.hotplug.build import PlugBuild, commands_of, removal_build
from qemushim.hotplug.join import complete_new
from qemushim.hotplug.live import LiveGuest, settle
from qemushim.hotplug.plan import FAILURES, Conversation, Plan, QmpCommand, say, take_back
from qemushim.hotplug.settings import drive_path, link_command, password_commands

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host

#: drives whose medium can be changed
REMOVABLE = ("cdrom", "floppy")


def plan_update(guest: Guest, device: str | bytes, emulator: Emulator, host: Host, *, file: str = "") -> Plan:
    """Change a device of a running guest into what ``device``, its XML, says.

    Raises ``ConfigError`` where there is no such device, or it can not be changed that way.
    """
    live = LiveGuest.of(guest)
    with located(file or live.file):
        node = parse(device, file)
        return Plan(lambda: _update(live.copy(), node.copy(), emulator, host))


def _update(live: LiveGuest, node: Node, emulator: Emulator, host: Host) -> Conversation:
    change = _CHANGES.get(node.tag)
    if change is None:
        raise error.not_supported(
            f"live update of device '{node.tag}' is not supported",
            node,
            "change the definition, and start the guest anew",
        )
    d = Define(live.domain, live.own_emulator(emulator), live.own_host(host), update=False, live=True)
    return (yield from change(live, node, d))


def _completed(live: LiveGuest, node: Node, d: Define) -> Device:
    """The changed device, with its defaults, beside the guest."""
    return complete_new(node, Define(live.copy().domain, d.emulator, d.host, update=False, live=True))


def _same(one: Node | None, other: Node | None) -> bool:
    """Whether two elements say the same, in whatever order."""
    if one is None or other is None:
        return one is other
    if one.tag != other.tag or one.attrib != other.attrib or one.text.strip() != other.text.strip():
        return False
    if len(one.children) != len(other.children):
        return False
    rest = list(other.children)
    for child in one.children:
        twin = next((known for known in rest if _same(child, known)), None)
        if twin is None:
            return False
        rest = [known for known in rest if known is not twin]
    return True


# -- drives --------------------------------------------------------------------------------------------------


def drive_of(node: Node, live: LiveGuest) -> Disk | None:
    """The drive of a guest that the element of a disk means, if it is one whose medium can be changed."""
    if node.get("device") not in REMOVABLE:
        return None
    name, bus = node.value("target/@dev"), node.value("target/@bus")
    for disk in live.domain.all(Disk):
        if disk.target == name and bus in (None, disk.bus) and disk.device in REMOVABLE:
            return disk
    return None


#: what of a disk can be changed while it is there, and what is made up when it starts
_MEDIUM = ("source", "backingStore", "alias", "driver", "mirror", "encryption", "auth")


def _change_disk(live: LiveGuest, node: Node, d: Define) -> Conversation:
    name = node.value("target/@dev") or ""
    disk = next((disk for disk in live.domain.all(Disk) if disk.target == name), None)
    if disk is None:
        raise error.plain(
            f"device not found: disk '{name}' not found",
            node.child("target"),
            "change the definition, and start the guest anew",
        )
    new = _completed(live, node.copy(), d)
    assert isinstance(new, Disk)
    _check_same_drive(disk, new)
    if _same_medium(disk, new):
        return live
    if disk.device not in REMOVABLE:
        raise error.unsupported(
            f"disk device='{disk.device}': the source of '{name}' cannot be changed",
            node,
            "change the definition, and start the guest anew",
        )
    return (yield from change_medium(live, disk, node, d))


def _check_same_drive(disk: Disk, new: Disk) -> None:
    """Raise ``ConfigError`` where more than the medium is another."""
    kept = {child.tag for child in (*disk.node.children, *new.node.children)}.difference(_MEDIUM)
    for tag in sorted(kept):
        if new.node.child(tag) is not None and not _same(disk.node.child(tag), new.node.child(tag)):
            raise error.not_supported(
                f"cannot modify field '{tag}' (or it's parts) of the disk",
                new.node.child(tag),
                "change the definition, and start the guest anew",
            )
    if disk.device != new.device:
        raise error.not_supported(
            "cannot modify field 'device' (or it's parts) of the disk",
            new.node,
            "change the definition, and start the guest anew",
        )


def _same_medium(disk: Disk, new: Disk) -> bool:
    if disk.type != new.type:
        return False
    ours, theirs = (_bare(one.node.child("source")) for one in (disk, new))
    return _same(ours, theirs)


def _bare(source: Node | None) -> Node | None:
    """A source without what was decided while it was opened."""
    if source is None or not (source.attrib or source.children):
        return None
    bare = source.copy()
    bare.drop("index")
    return bare


def change_medium(live: LiveGuest, disk: Disk, node: Node, d: Define) -> Conversation:
    """Open the tray, take out what is in it, put in what the element says, close it.

    https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (``blockdev-insert-medium``)
    """
    new = _completed(live, node.copy(), d)
    assert isinstance(new, Disk)
    new.alias = disk.alias
    _check_same_drive(disk, new)
    old_b = removal_build(live.domain, d.emulator, d.host)
    old = _medium(disk, old_b) if not disk.is_empty and recall_device(disk, old_b) else []
    replace_medium(disk, new)
    b = PlugBuild(live.domain, d.emulator, d.host, first_fd_set=live.fd_sets or 0)
    fresh = []
    if not disk.is_empty:
        settle(disk, b)
        live.nodes = max(live.nodes, prepare_device(disk, b, live.nodes))
        fresh = _medium(disk, b)
    done: list[QmpCommand] = []
    try:
        yield from say([*fresh, *_exchange(disk, _top(old), _top(fresh))], done)
    except FAILURES:
        yield from take_back(done)
        raise
    yield from take_back(old)
    disk.tray = None
    return live


def _exchange(disk: Disk, old: str, new: str) -> Iterator[QmpCommand]:
    """Out with one node (``""``: none, or not known), in with another."""
    if disk.tray != "open":
        yield _on_drive(disk, "blockdev-open-tray", {"force": False}, "blockdev-close-tray")
    back = {"node-name": old} if old else {}
    yield _on_drive(disk, "blockdev-remove-medium", {}, "blockdev-insert-medium" if old else "", back)
    if new:
        yield _on_drive(disk, "blockdev-insert-medium", {"node-name": new}, "blockdev-remove-medium")
    yield _on_drive(disk, "blockdev-close-tray", {}, "blockdev-open-tray")


def _on_drive(
    disk: Disk,
    execute: str,
    arguments: Mapping[str, Value],
    undo: str = "",
    back: Mapping[str, Value] | None = None,
) -> QmpCommand:
    drive = {"id": drive_path(disk)}
    undos = (QmpCommand(undo, {**drive, **(back or {})}, optional=True, source=disk.node),) if undo else ()
    return QmpCommand(execute, {**drive, **arguments}, undo=undos, source=disk.node, rule="another medium")


def _top(made: Sequence[QmpCommand]) -> str:
    """The node that a drive shows: the last that is made."""
    return str(made[-1].arguments["node-name"]) if made else ""


def _medium(disk: Disk, b: PlugBuild) -> list[QmpCommand]:
    """What is behind a drive, without the drive."""
    return [command for command in commands_of(disk.options(b), b) if command.execute != "device_add"]


def replace_medium(disk: Disk, new: Disk) -> None:
    """Write the new medium into the document; the drive stays what it is."""
    disk.type = new.type
    for tag in ("source", "backingStore", "encryption", "auth"):
        disk.node.discard(tag)
        disk.node.children += new.node.all(tag)
    driver = new.node.child("driver")
    if driver is not None and driver.get("type") is not None:
        disk.node.ensure("driver").set("type", driver.get("type") or "raw")


# -- screens -------------------------------------------------------------------------------------------------

#: attributes that say who may see the screen: these can be changed
_ACCESS = ("passwd", "passwdValidTo", "connected")
#: attributes that clients and the guest rely on, and libvirt's word for them
_FIXED = {"keymap": "keymap", "defaultMode": "defaultMode", "sharePolicy": "sharePolicy"}


def _change_graphics(live: LiveGuest, node: Node, d: Define) -> Conversation:
    kind = node.get("type")
    graphics = next((known for known in live.domain.all(Graphics) if known.type == kind), None)
    if graphics is None:
        raise error.plain(
            f"device not found: cannot find existing graphics type '{kind}' device to modify",
            node,
            "change the definition, and start the guest anew",
        )
    new = _completed(live, node, d)
    assert isinstance(new, Graphics)
    if kind not in ("spice", "vnc"):
        raise error.not_supported(
            f"unable to change config on '{kind}' graphics type",
            node,
            "change the definition, and start the guest anew",
        )
    _check_same_screen(graphics.node, new.node, kind)
    old = {name: graphics.node.get(name) for name in _ACCESS}
    for name in _ACCESS:
        value = new.node.get(name)
        graphics.node.drop(name)
        if value is not None:
            graphics.node.set(name, value)
    # a password that ends, or ended, is told again even where it stays the same
    limited = old["passwdValidTo"] is not None or graphics.node.get("passwdValidTo") is not None
    if limited or old != {name: graphics.node.get(name) for name in _ACCESS}:
        yield from say(password_commands(graphics, d.host))
    return live


def _check_same_screen(old: Node, new: Node, kind: str) -> None:
    """Raise ``ConfigError`` where more than who may see the screen is another."""
    listens, others = old.all("listen"), new.all("listen")
    if len(listens) != len(others):
        raise error.not_supported(
            f"cannot change the number of listen addresses on '{kind}' graphics",
            new,
            "change the definition, and start the guest anew",
        )
    for known, wanted in zip(listens, others, strict=True):
        if known.get("type") != wanted.get("type"):
            raise error.not_supported(
                f"cannot change the type of listen address on '{kind}' graphics",
                wanted,
                "change the definition, and start the guest anew",
            )
        if not _same(known, wanted):
            raise error.not_supported(
                f"cannot change listen address setting on '{kind}' graphics",
                wanted,
                "change the definition, and start the guest anew",
            )
    ports = ("port", "tlsPort", "websocket")
    automatic = new.get("autoport") == "yes"
    if (old.get("autoport") == "yes") != automatic or (
        not automatic and any(old.get(name) != new.get(name) for name in ports)
    ):
        raise error.not_supported(
            f"cannot change port settings on {kind} graphics",
            new,
            "change the definition, and start the guest anew",
        )
    for name, word in _FIXED.items():
        if old.get(name) != new.get(name):
            raise error.not_supported(
                f"cannot change {word} setting on {kind} graphics",
                new,
                "change the definition, and start the guest anew",
            )


# -- network cards -------------------------------------------------------------------------------------------

#: what the guest sees of a card: this can not be changed
_CARD = ("model", "driver", "boot", "rom", "alias", "address", "mtu")


def _change_interface(live: LiveGuest, node: Node, d: Define) -> Conversation:
    mac = (node.value("mac/@address") or "").lower()
    cards = live.domain.all(Interface)
    card = next((card for card in cards if (card.mac or "") == mac or (not mac and len(cards) == 1)), None)
    if card is None:
        raise error.plain(
            f"device not found: no interface with MAC address '{mac}'",
            node,
            "change the definition, and start the guest anew",
        )
    if not mac:
        node.ensure("mac").set("address", card.mac)
    if node.value("model/@type") is None and card.model:
        node.ensure("model").set("type", card.model)
    new = _completed(live, node, d)
    assert isinstance(new, Interface)
    for tag in _CARD:
        wanted = new.node.child(tag)
        if wanted is not None and not _same(card.node.child(tag), wanted):
            raise error.not_supported(
                f"cannot modify network device {tag}",
                wanted,
                "change the definition, and start the guest anew",
            )
    if card.type != new.type or not _same(card.node.child("source"), new.node.child("source")):
        raise error.not_supported(
            "cannot modify network device source: unable to change config on this type",
            node,
            "change the definition, and start the guest anew",
        )
    changed = (card.link or "up") != (new.link or "up")
    card.link = new.link
    if changed:
        yield link_command(card)
    return live


_CHANGES: dict[str, Callable[[LiveGuest, Node, Define], Conversation]] = {
    "disk": _change_disk,
    "graphics": _change_graphics,
    "interface": _change_interface,
}
