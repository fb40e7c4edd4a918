"""What the types of ``<graphics>`` share: where they listen, and who may connect.

https://libvirt.org/formatdomain.html#graphical-framebuffers
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from qemushim.command.option import Option
from qemushim.document.fields import Choice, Field, Text
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

TYPES = ("sdl", "vnc", "rdp", "desktop", "spice", "egl-headless", "dbus")


class GraphicsKind(Item):
    """One type of ``<graphics>``: its attributes and children, its defaults, its options."""

    type = Choice("@type", TYPES, required=True)

    def complete(self, d: Define) -> None:
        """Fill in defaults, and drop what libvirt does not store."""

    def check(self, d: Define) -> None:
        """Raise ``ConfigError`` where the emulator can not do it."""

    def options(self, b: Build) -> Iterator[Option]:
        """The arguments that make QEMU show it."""
        yield from ()

    def environment(self, b: Build) -> dict[str, str]:
        """Variables that QEMU's process gets on its account."""
        return {}


class Timestamp(Field["str | None"]):
    """A point in time (UTC), written as ``2031-05-31T16:11:22``."""

    #: lowest and highest of year, month, day, hour, minute, second
    limits = ((1900, 9999), (1, 12), (1, 31), (0, 23), (0, 59), (0, 60))

    def read(self, raw: str) -> str | None:
        day, t, time = raw.partition("T")
        parts = [*day.split("-"), *time.split(":")]
        if not t or len(parts) != 6 or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(raw)
        numbers = [int(part) for part in parts]
        if not all(low <= n <= high for n, (low, high) in zip(numbers, self.limits, strict=True)):
            raise ValueError(raw)
        year, month, date, hour, minute, second = numbers
        return f"{year:04d}-{month:02d}-{date:02d}T{hour:02d}:{minute:02d}:{second:02d}"

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.internal(
            f"cannot parse password validity time '{raw}', expect YYYY-MM-DDTHH:MM:SS", place, self.advice()
        )

    def advice(self) -> str:
        return "a point in time (UTC), such as 2031-05-31T16:11:22"


class Connected(Choice["str | None"]):
    """What happens to clients that are connected when the password changes."""

    def __init__(self) -> None:
        Field.__init__(self, "@connected")
        self.values = ("fail", "disconnect", "keep")
        self.allowed = frozenset(self.values)
        self.says("unknown connected value {}").later()


def complete_password(node: Node, owner: object) -> None:
    """Without a password there is no end of its validity, and nobody whom changing it could disconnect."""
    if "passwd" not in node.attrib:
        node.drop("passwdValidTo", "connected")
    for name in ("passwd_valid_to", "connected"):
        # what there is no password for is not read
        _ = getattr(owner, name)


# -- listening -----------------------------------------------------------------------------------------------


class Listen(Item):
    """``<listen>``: one place where clients are waited for."""

    tag = "listen"

    type = Choice("@type", ("none", "address", "network", "socket"), required=True)
    address = Text("@address")
    network = Text("@network")
    socket = Text("@socket")


class Place(NamedTuple):
    """Where a running guest's graphics listen; ``value`` is the address or the path of the socket."""

    #: ``address``, ``socket`` or ``none``
    kind: str
    value: str = ""

    @property
    def bracketed(self) -> str:
        """The address in front of a port."""
        return f"[{self.value}]" if ":" in self.value else self.value


def complete_listens(node: Node, *, live: bool = False) -> Listen:
    """Bring ``listen=``, ``socket=`` and ``<listen>`` into agreement; the first one is given back.

    The attributes are the older spelling of the first element.  ``live``: the guest runs, so the address of a network
    is known.  Raises ``ConfigError`` where they disagree.
    """
    address, socket = node.get("listen") or None, node.get("socket") or None
    listens = node.all("listen")
    if not listens:
        if socket is not None:
            listens = [node.add("listen", {"type": "socket", "socket": socket})]
        else:
            listens = [node.add("listen", {"type": "address", **({"address": address} if address else {})})]
    first = Listen(listens[0])
    if socket is not None and first.type in ("address", "network"):
        first.node.attrib = {"type": "socket"}
    _agree(first, "address", "listen", address)
    _agree(first, "socket", "socket", socket)
    for child in listens:
        _complete_listen(Listen(child), node, live=live)
    node.drop("listen", "socket")
    if first.type in ("address", "network") and first.address:
        node.set("listen", first.address)
    return first


def _agree(first: Listen, name: str, attribute: str, given: str | None) -> None:
    """The graphics' attribute and the first ``<listen>`` say the same, or only one of them says it."""
    if given is None or first.type not in (name, "network" if name == "address" else name):
        return
    inner = first.node.get(name) or None
    if inner is not None and inner != given:
        raise error.xml(
            f"graphics '{attribute}' attribute '{given}' must match '{name}' attribute "
            f"of first listen element (found '{inner}')",
            first.node,
            f"drop {attribute}='{given}'",
        )
    first.node.set(name, given)


def _complete_listen(listen: Listen, graphics: Node, *, live: bool) -> None:
    """Drop what the type of listening does not have; an address of a network is only known while running."""
    kind = listen.type or ""
    owner = graphics.get("type") or ""
    if kind == "none" and owner not in ("spice", "vnc"):
        raise error.unsupported(
            f"listen type 'none' is not available for graphics type '{owner}'",
            listen.node,
            "type='vnc' or 'spice', or another way to listen",
        )
    if kind == "socket" and owner not in ("spice", "vnc"):
        raise error.unsupported(
            f"listen type 'socket' is not available for graphics type '{owner}'",
            listen.node,
            "type='vnc' or 'spice', or another way to listen",
        )
    if listen.network and kind != "network":
        message = "'network' attribute is valid only for listen type 'network'"
        raise error.xml(message, listen.node, "drop network=")
    if "socket" in listen.node.attrib and kind != "socket":
        message = "'socket' attribute is valid only for listen type 'socket'"
        raise error.xml(message, listen.node, "drop socket=")
    if kind == "network" and not listen.network:
        message = "'network' attribute is required for listen type 'network'"
        raise error.xml(message, listen.node, "network='default'")
    kept = ("address", "network") if live and kind == "network" else (kind,)
    for name in ("address", "network", "socket"):
        if name not in kept or not listen.node.get(name):
            listen.node.drop(name)


def find_place(node: Node, b: Build, default: str, auto_socket: bool, socket_name: str) -> Place:
    """Where the graphics listen once they run.

    ``default``: the address of qemu.conf; ``auto_socket``: a socket rather than that address;
    ``socket_name``: file of a socket in the guest's own directory.
    """
    child = node.child("listen")
    listen = Listen(child if child is not None else Node("listen", {"type": "address"}))
    own_socket = Place("socket", f"{b.domain_dir}/{socket_name}")
    match listen.type:
        case "none":
            return Place("none")
        case "socket":
            return Place("socket", listen.socket) if listen.socket else own_socket
        case "network":
            return Place("address", _network_address(listen, b, default))
    if listen.address:
        return Place("address", listen.address)
    return own_socket if auto_socket else Place("address", default)


def _network_address(listen: Listen, b: Build, default: str) -> str:
    """The host's own address in a network."""
    if listen.address or not listen.network:
        return listen.address or default
    network = b.host.find_network(listen.network)
    address = (network or {}).get("address")
    if not address:
        raise error.xml(
            f"listen network '{listen.network}' had no usable address",
            listen.node,
            "start the network, or <listen type='address'/>",
        )
    return str(address)


def gl_rendernode(node: Node, b: Build) -> str | None:
    """The render node that ``<gl>`` names, or the host's."""
    return node.value("gl/@rendernode") or b.host.render_node or None


def keymap_options(node: Node, b: Build) -> Iterator[Option]:
    """``-k``: the keyboard of those who connect."""
    keymap = node.get("keymap")
    if keymap:
        yield b.option("-k", keymap, node, "the keyboard layout of the clients")
