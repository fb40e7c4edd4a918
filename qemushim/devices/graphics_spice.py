"""``<graphics type='spice'>``: https://libvirt.org/formatdomain.html#graphical-framebuffers

The options are those of https://www.qemu.org/docs/master/system/invocation.html (``-spice``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.graphics_kind import (
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
from qemushim.document.fields import Choice, Integer, Many, OnOff, Switch, Text
from qemushim.document.item import Item, Tail
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

MODES = ("any", "secure", "insecure")
#: in the order in which they are written and passed
CHANNELS = ("main", "display", "inputs", "cursor", "playback", "record", "smartcard", "usbredir")
#: mode of a channel → the option that names it
CHANNEL_OPTIONS = {"secure": "tls-channel", "insecure": "plaintext-channel"}

Pairs = list[tuple[str, Value]]


class SpiceChannel(Item):
    """``<channel>``: whether one channel must, or must not, be encrypted."""

    tag = "channel"

    name = Choice("@name", CHANNELS, required=True)
    mode = Choice("@mode", MODES, required=True)


class Spice(GraphicsKind):
    """``<graphics type='spice'>``"""

    head = Tail()
    port = Integer("@port", 0)
    tls_port = Integer("@tlsPort", 0)
    autoport = Switch("@autoport", False)
    listen = Text("@listen")
    keymap = Text("@keymap")
    default_mode = Choice("@defaultMode", MODES)
    passwd = Text("@passwd")
    passwd_valid_to = Timestamp("@passwdValidTo").later()
    connected = Connected()
    listens = Many("listen", Listen)
    channels = Many("channel", SpiceChannel)
    image = Choice("image/@compression", ("auto_glz", "auto_lz", "quic", "glz", "lz", "off"), required=True)
    jpeg = Choice("jpeg/@compression", ("auto", "never", "always"), required=True)
    zlib = Choice("zlib/@compression", ("auto", "never", "always"), required=True)
    playback = OnOff("playback/@compression", required=True)
    streaming = Choice("streaming/@mode", ("filter", "all", "off"), required=True)
    mouse = Choice("mouse/@mode", ("server", "client"), required=True)
    copy_paste = Switch("clipboard/@copypaste", required=True)
    file_transfer = Switch("filetransfer/@enable", required=True)
    gl = Switch("gl/@enable", required=True)
    rendernode = Text("gl/@rendernode")

    def complete(self, d: Define) -> None:
        complete_password(self.node, self)
        first = complete_listens(self.node, live=d.live)
        port, tls_port = self.port, self.tls_port
        auto = self.autoport or (port == -1 and tls_port == -1)
        if auto and not d.live:
            port = tls_port = 0
        if first.type == "address" and not (auto or port or tls_port):
            # no port at all: nobody listens, clients are handed in over the monitor
            first.node.attrib = {"type": "none"}
            self.listen = None
        listening = first.type in ("address", "network")
        self.port = port or None if listening else None
        self.tls_port = tls_port or None if listening else None
        self.autoport = auto if listening else None
        if self.default_mode == "any":
            self.default_mode = None
        self._complete_channels()

    def _complete_channels(self) -> None:
        """One element for each channel that is not left to chance, in the channels' own order."""
        modes = {channel.name: channel.mode for channel in self.channels}
        self.node.discard("channel")
        for name in CHANNELS:
            mode = modes.get(name)
            if mode is not None and mode != "any":
                self.node.add("channel", {"name": name, "mode": mode})

    def check(self, d: Define) -> None:
        if self.tls_port > 0 and not d.host.config.spice_tls:
            raise error.unsupported(
                "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf",
                self.node,
                "drop tlsPort=, or set spice_tls = 1 in qemu.conf",
            )
        if self.gl and not d.emulator.option("spice", "gl"):
            raise error.unsupported(
                "This QEMU doesn't support spice OpenGL", self.node.child("gl"), "drop <gl>"
            )
        if self.gl and self.rendernode and not d.emulator.option("spice", "rendernode"):
            raise error.unsupported(
                "This QEMU doesn't support spice OpenGL rendernode", self.node.child("gl"), "drop rendernode="
            )

    # -- the command line ------------------------------------------------------------------------------------

    def options(self, b: Build) -> Iterator[Option]:
        config = b.host.config
        place = find_place(self.node, b, config.spice_listen, config.spice_auto_unix_socket, "spice.sock")
        port, tls_port = self._ports(b) if place.kind == "address" else (0, 0)
        pairs: Pairs = [*self._place_pairs(place, port, tls_port), *self._access_pairs(b, tls_port)]
        pairs += self._channel_pairs(plain=port > 0 or place.kind != "address", tls=tls_port > 0)
        pairs += self._picture_pairs(b)
        pairs.append(("seamless-migration", True))
        yield b.pairs("-spice", "", pairs, self.node, "the guest is seen over SPICE")
        yield from keymap_options(self.node, b)

    def _ports(self, b: Build) -> tuple[int, int]:
        """The ports, plain and TLS, with those that are left to libvirt filled in; 0: none."""
        config = b.host.config
        want_port = self.port == -1
        want_tls = self.tls_port == -1
        if self.autoport:
            want_port = want_port or self.default_mode != "secure"
            want_tls = want_tls or self.default_mode == "secure"
            want_tls = want_tls or (self.default_mode is None and config.spice_tls)
            want_tls = want_tls or any(channel.mode == "secure" for channel in self.channels)
            want_port = want_port or any(channel.mode == "insecure" for channel in self.channels)
        if want_tls and not config.spice_tls and not b.export:
            raise error.unsupported(
                "Auto allocation of spice TLS port requested but spice TLS is disabled in qemu.conf",
                self.node,
                "spice_tls in qemu.conf, or defaultMode='insecure'",
            )
        return (
            b.host.spice_port if want_port else max(self.port, 0),
            b.host.spice_tls_port if want_tls else max(self.tls_port, 0),
        )

    def _place_pairs(self, place: Place, port: int, tls_port: int) -> Pairs:
        if place.kind == "none":
            return [("port", 0)]
        if place.kind == "socket":
            return [("unix", True), ("addr", place.value)]
        return [("port", port or None), ("tls-port", tls_port or None), ("addr", place.value)]

    def _access_pairs(self, b: Build, tls_port: int) -> Pairs:
        config = b.host.config
        free = self.node.get("passwd") is None and not config.spice_password
        return [
            ("sasl", True if config.spice_sasl else None),
            ("agent-mouse", None if self.mouse is None else self.mouse == "client"),
            ("disable-ticketing", True if free else None),
            ("x509-dir", config.spice_tls_x509_cert_dir if tls_port > 0 else None),
        ]

    def _channel_pairs(self, *, plain: bool, tls: bool) -> Pairs:
        """Which channels must, or must not, be encrypted."""
        have = {"secure": tls, "insecure": plain}
        words = {"secure": "TLS", "insecure": "plaintext"}
        pairs: Pairs = []
        mode = self.default_mode
        if mode is not None:
            if not have[mode]:
                raise error.unsupported(
                    f"spice defaultMode {mode} requested in XML configuration, "
                    f"but {words[mode]} connection is not available",
                    self.node,
                    "give it the port that the mode needs",
                )
            pairs.append((CHANNEL_OPTIONS[mode], "default"))
        for channel in self.channels:
            mode = channel.mode or ""
            if not have[mode]:
                raise error.unsupported(
                    f"spice {mode} channels set in XML configuration, "
                    f"but {words[mode]} connection is not available",
                    channel.node,
                    "give it the port that the channel needs",
                )
            pairs.append((CHANNEL_OPTIONS[mode], channel.name))
        return pairs

    def _picture_pairs(self, b: Build) -> Pairs:
        pairs: Pairs = [
            ("image-compression", self.image),
            ("jpeg-wan-compression", self.jpeg),
            ("zlib-glz-wan-compression", self.zlib),
            ("playback-compression", self.playback),
            ("streaming-video", self.streaming),
            ("disable-copy-paste", True if self.copy_paste is False else None),
            ("disable-agent-file-xfer", True if self.file_transfer is False else None),
        ]
        if self.gl:
            pairs.append(("gl", True))
            if b.emulator.option("spice", "rendernode"):
                pairs.append(("rendernode", gl_rendernode(self.node, b)))
        return pairs

    def environment(self, b: Build) -> dict[str, str]:
        return sasl_environment(b.host.config.spice_sasl, b.host.config.spice_sasl_dir)


def sasl_environment(enabled: bool, directory: str) -> dict[str, str]:
    """Where SASL finds its configuration."""
    return {"SASL_CONF_PATH": directory} if enabled and directory else {}


def has_gl(node: Node) -> bool:
    """Whether ``<graphics>`` of SPICE draws with OpenGL."""
    return node.get("type") == "spice" and node.value("gl/@enable") == "yes"
