"""``<graphics>``: how a guest's screen is seen.  https://libvirt.org/formatdomain.html#graphical-framebuffers

Each type is a class of its own; SPICE is in ``graphics_spice``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.audio import audio_backend, check_backend, require_backend
from qemushim.devices.base import Device
from qemushim.devices.graphics_kind import (
    TYPES,
    Connected,
    GraphicsKind,
    Listen,
    Place,
    Timestamp,
    complete_listens,
    complete_password,
    find_place,
    gl_rendernode,
    keymap_options,
)
from qemushim.devices.graphics_spice import Spice, has_gl, sasl_environment
from qemushim.document.fields import Choice, Integer, Many, Positive, Switch, Text
from qemushim.document.item import Schema, Tail
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: the first port of VNC: display 0
VNC_BASE = 5900
#: characters of a password that VNC looks at
VNC_PASSWORD = 8
_DISPLAY = "query-display-options/ret-type/+{}"


class Sdl(GraphicsKind):
    """``<graphics type='sdl'>``: a window on the host."""

    head = Tail()
    display = Text("@display")
    xauth = Text("@xauth")
    fullscreen = Switch("@fullscreen", False)
    gl = Switch("gl/@enable", required=True)

    def complete(self, d: Define) -> None:
        if not self.fullscreen:
            self.fullscreen = None

    def options(self, b: Build) -> Iterator[Option]:
        if self.fullscreen:
            yield b.option("-full-screen", None, self.node, "the window fills the screen")
        yield b.pairs("-display", "sdl", {"gl": self.gl}, self.node, "the guest is seen in a window")

    def environment(self, b: Build) -> dict[str, str]:
        found = {"XAUTHORITY": self.xauth, "DISPLAY": self.display}
        return {name: value for name, value in found.items() if value}


class Vnc(GraphicsKind):
    """``<graphics type='vnc'>``"""

    head = Tail()
    socket = Text("@socket")
    port = Integer("@port", 0).says("cannot parse vnc port {}", "internal error")
    autoport = Switch("@autoport")
    websocket = Integer("@websocket", 0)
    listen = Text("@listen")
    keymap = Text("@keymap")
    share_policy = Choice("@sharePolicy", ("allow-exclusive", "force-shared", "ignore"))
    power_control = Switch("@powerControl")
    passwd = Text("@passwd")
    passwd_valid_to = Timestamp("@passwdValidTo").later()
    connected = Connected()
    listens = Many("listen", Listen)
    audio = Positive("audio/@id", required=True)

    def complete(self, d: Define) -> None:
        complete_password(self.node, self)
        first = complete_listens(self.node, live=d.live)
        if first.type == "socket":
            if (first.socket or "").startswith(f"{d.host.paths.lib}/") and not d.live:
                # libvirt made that socket itself, for an earlier run
                first.node.attrib = {"type": "address"}
            else:
                self.socket = first.socket
        if first.type not in ("address", "network"):
            self.node.drop("port", "autoport", "websocket")
            return
        auto = self.port in (0, -1) if self.autoport is None else self.autoport
        self.autoport = auto
        if auto:
            self.port = self.port if d.live and self.port else -1
        elif self.port <= 0:
            self.port = None
        self.websocket = self.websocket or None

    def check(self, d: Define) -> None:
        if len(self.passwd or "") > VNC_PASSWORD:
            message = (
                f"VNC password is {len(self.passwd or '')} characters long, only {VNC_PASSWORD} permitted"
            )
            raise error.unsupported(message, self.node, "a shorter one")
        if self.connected not in (None, "keep"):
            raise error.unsupported("VNC supports connected='keep' only", self.node, "connected='keep'")
        if self.power_control is not None and not d.emulator.option("vnc", "power-control"):
            raise error.unsupported("VNC power control is not available", self.node, "drop powerControl=")

    def options(self, b: Build) -> Iterator[Option]:
        config = b.host.config
        place = find_place(self.node, b, config.vnc_listen, config.vnc_auto_unix_socket, "vnc.sock")
        pairs: dict[str, Value] = {}
        if place.kind == "address" and self.websocket:
            pairs["websocket"] = self.websocket if self.websocket > 0 else b.host.vnc_websocket_port
        pairs["share"] = self.share_policy
        pairs["password"] = True if "passwd" in self.node.attrib or config.vnc_password else None
        if config.vnc_tls:
            yield from self._credentials(b)
            pairs["tls-creds"] = "vnc-tls-creds0"
        pairs["sasl"] = True if config.vnc_sasl else None
        pairs["power-control"] = self.power_control
        pairs["audiodev"] = audio_backend(b, self.audio)
        yield b.pairs("-vnc", self._head(place, b), pairs, self.node, "the guest is seen over VNC")
        yield from keymap_options(self.node, b)

    def _head(self, place: Place, b: Build) -> str:
        if place.kind == "none":
            return "none"
        if place.kind == "socket":
            return f"vnc=unix:{place.value}"
        port = b.host.vnc_port if self.autoport or self.port == -1 else self.port
        if not VNC_BASE <= port <= 65535:
            raise error.unsupported(
                f"vnc port must be in range [{VNC_BASE},65535]", self.node, "autoport='yes'"
            )
        return f"{place.bracketed}:{port - VNC_BASE}"

    def _credentials(self, b: Build) -> Iterator[Option]:
        config = b.host.config
        secret = None
        if config.vnc_tls_x509_secret_uuid:
            secret = "vnc-tls-creds0-secret0"
            plain = b.host.find_secret("tls", config.vnc_tls_x509_secret_uuid)
            yield b.secret(secret, plain, self.node)
        yield b.tls_credentials(
            "vnc-tls-creds0",
            config.vnc_tls_x509_cert_dir,
            server=True,
            verify=config.vnc_tls_x509_verify,
            password=secret,
            source=self.node,
        )

    def environment(self, b: Build) -> dict[str, str]:
        return sasl_environment(b.host.config.vnc_sasl, b.host.config.vnc_sasl_dir)


class Rdp(GraphicsKind):
    """``<graphics type='rdp'>``: served by a helper process that QEMU shows its screen over D-Bus."""

    head = Tail()
    port = Integer("@port", 0)
    autoport = Switch("@autoport", False)
    replace_user = Switch("@replaceUser", False)
    multi_user = Switch("@multiUser", False)
    listen = Text("@listen")
    username = Text("@username")
    passwd = Text("@passwd")
    passwd_valid_to = Timestamp("@passwdValidTo").later()
    connected = Connected()
    listens = Many("listen", Listen)

    def complete(self, d: Define) -> None:
        complete_password(self.node, self)
        complete_listens(self.node, live=d.live)
        auto = self.autoport or self.port == -1
        self.port = 0 if auto and not d.live else self.port or None
        for name, value in (
            ("autoport", auto),
            ("replaceUser", self.replace_user),
            ("multiUser", self.multi_user),
        ):
            if value:
                self.node.set(name, "yes")
            else:
                self.node.drop(name)


class Desktop(GraphicsKind):
    """``<graphics type='desktop'>``: other hypervisors' own window."""

    head = Tail()
    display = Text("@display")
    fullscreen = Switch("@fullscreen")


class EglHeadless(GraphicsKind):
    """``<graphics type='egl-headless'>``: OpenGL without a screen, for VNC and SPICE to show."""

    head = Tail()
    rendernode = Text("gl/@rendernode")

    def check(self, d: Define) -> None:
        if self.rendernode and not d.emulator.qapi(_DISPLAY.format("egl-headless/rendernode")):
            raise error.unsupported(
                "This QEMU doesn't support OpenGL rendernode with egl-headless graphics type",
                self.node.child("gl"),
                "drop rendernode=",
            )

    def options(self, b: Build) -> Iterator[Option]:
        known = b.emulator.qapi(_DISPLAY.format("egl-headless/rendernode"))
        pairs = {"rendernode": gl_rendernode(self.node, b) if known else None}
        yield b.pairs("-display", "egl-headless", pairs, self.node, "OpenGL without a screen")


class Dbus(GraphicsKind):
    """``<graphics type='dbus'>``: for helper processes on the same host."""

    head = Tail()
    p2p = Switch("@p2p", False)
    address = Text("@address")
    gl = Switch("gl/@enable", required=True)
    rendernode = Text("gl/@rendernode")
    audio = Positive("audio/@id", required=True)

    def complete(self, d: Define) -> None:
        if self.p2p and self.address is not None:
            message = "D-Bus p2p with an address is not supported"
            raise error.xml(message, self.node, "drop address=")
        if not self.p2p:
            self.p2p = None

    def options(self, b: Build) -> Iterator[Option]:
        pairs: dict[str, Value] = {}
        if self.p2p:
            pairs["p2p"] = True
        else:
            own = f"unix:path={b.host.paths.run}/dbus/{b.short_name}-dbus.sock"
            pairs["addr"] = self.address or own
        pairs["gl"] = self.gl
        pairs["rendernode"] = gl_rendernode(self.node, b) if self.gl else None
        if self.audio:
            pairs["audiodev"] = require_backend(b, self.audio, self.node)
        yield b.pairs("-display", "dbus", pairs, self.node, "the guest is seen over D-Bus")


KINDS: dict[str, type[GraphicsKind]] = {
    "dbus": Dbus,
    "desktop": Desktop,
    "egl-headless": EglHeadless,
    "rdp": Rdp,
    "sdl": Sdl,
    "spice": Spice,
    "vnc": Vnc,
}
#: types that can be paired with OpenGL without a screen
_HEADLESS_PARTNERS = frozenset({"egl-headless", "spice", "vnc"})


class Graphics(Device):
    """``<graphics>`` of any type."""

    tag = "graphics"

    type = Choice("@type", TYPES, required=True)

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        return KINDS.get(node.get("type") or "", GraphicsKind).schema

    @property
    def own(self) -> GraphicsKind:
        """The element as its type knows it."""
        return KINDS[self.type or ""](self.node)

    def complete(self, d: Define) -> None:
        self.own.complete(d)

    def check(self, d: Define) -> None:
        own = self.own
        check_backend(d, own.audio if isinstance(own, Vnc) else None, self.node)
        if not _is_known(self.type or "", d):
            raise error.unsupported(
                f"{self.type} graphics are not supported with this QEMU",
                self.node,
                "another type, such as vnc",
            )
        if self.type not in _HEADLESS_PARTNERS or has_gl(self.node):
            self._check_headless(d)
        self.own.check(d)

    def _check_headless(self, d: Define) -> None:
        """Drawing with OpenGL but without a screen leaves the screen to VNC or plain SPICE."""
        if not any(other.type == "egl-headless" for other in d.domain.all(Graphics)):
            return
        if self.type not in _HEADLESS_PARTNERS:
            raise error.unsupported(
                "graphics type 'egl-headless' is only supported with one of: 'vnc', 'spice' graphics types",
                self.node,
                "add <graphics type='vnc'/>",
            )
        raise error.unsupported("multiple OpenGL displays are not supported by QEMU", self.node, "drop <gl>")

    def options(self, b: Build) -> Iterator[Option]:
        first = next(other for other in b.domain.all(Graphics) if other.type == self.type)
        if first.node is not self.node:
            raise error.unsupported(
                "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus) is supported",
                self.node,
                "keep one of each type",
            )
        yield from self.own.options(b)

    def environment(self, b: Build) -> dict[str, str]:
        """Variables that QEMU's process gets on its account."""
        return self.own.environment(b)


def _is_known(kind: str, d: Define) -> bool:
    """Whether the emulator, with the helpers that libvirt starts, can show a screen that way."""
    emulator = d.emulator
    match kind:
        case "sdl" | "egl-headless" | "dbus":
            return emulator.qapi(_DISPLAY.format(kind))
        case "rdp":
            return d.host.qemu_rdp and emulator.qapi(_DISPLAY.format("dbus"))
        case "vnc":
            return emulator.qapi("query-vnc")
        case "spice":
            return emulator.option("spice")
    return False


def graphics_environment(b: Build) -> dict[str, str]:
    """The variables that graphics add to the environment, in order."""
    found: dict[str, str] = {}
    for graphics in b.domain.all(Graphics):
        found.update(graphics.environment(b))
    return found
