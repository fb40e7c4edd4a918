"""Graphics and graphics cards.  The inverse of ``qemushim.devices.graphics``, ``graphics_spice`` and ``video``."""

from __future__ import annotations

from qemushim.devices.graphics import VNC_BASE
from qemushim.devices.graphics_spice import CHANNEL_OPTIONS
from qemushim.devices.video import CARDS as VIDEO_CARDS
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line, put, yes_no
from qemushim.fromargv.machine import machine_version
from qemushim.fromargv.places import place, split_driver, virtio_settings
from qemushim.fromargv.secrets import drop_credentials
from qemushim.fromargv.sound import audio_reference
from qemushim.fromargv.syntax import Bag, UnreadableError, key_value_pairs

# -- graphics ---------------------------------------------------------------------------------------


def read_graphics(line: Line) -> None:
    """``-vnc``, ``-spice``, ``-display`` and their older spellings."""
    keymap = line.last("-k")
    fullscreen = line.given("-full-screen")
    before = len(line.devices.all("graphics"))
    for argument in line.all("-vnc"):
        line.read_one(argument, _vnc)
    for argument in line.all("-spice"):
        line.read_one(argument, _spice)
    # who looks from elsewhere needs no window
    hidden = bool(line.every("-nographic", "-curses", "-vnc", "-spice"))
    for flag in ("-nographic", "-curses"):
        line.given(flag)
    if line.given("-sdl"):
        _sdl(line, None)
    for argument in line.all("-display"):
        kind = argument.bag.peek("type") or ("vnc" if argument.bag.has("vnc") else "")
        if kind in ("none", "curses"):
            hidden = True
            line.use(argument)
        elif kind == "vnc" or kind.startswith("vnc="):
            line.read_one(argument, _display_vnc)
        else:
            reader = _DISPLAYS.get(kind)
            if reader is not None:
                line.read_one(argument, reader)
    found = line.devices.all("graphics")
    if keymap is not None and found:
        found[0].set("keymap", keymap.text or "")
    if fullscreen:
        for node in found:
            if node.get("type") == "sdl":
                node.set("fullscreen", "yes")
    if len(found) == before and not hidden and line.has_defaults:
        _window(line, "QEMU opens a window where nothing is said of a display")


def _window(line: Line, why: str) -> None:
    """A window that libvirt has no type of graphics for: VNC takes its place."""
    node = Node("graphics", {"type": "vnc", "port": "-1", "autoport": "yes"})
    node.add("listen", {"type": "address", "address": "127.0.0.1"})
    line.add(node)
    line.note("changed", f"{why}; libvirt's guests have none: VNC on 127.0.0.1 takes its place (virt-viewer)")


def _vnc(line: Line, argument: Argument, bag: Bag) -> None:
    head = bag.take("vnc") or ""
    if head == "none" and not bag.pairs:
        return
    node = Node("graphics", {"type": "vnc"})
    unix = head.removeprefix("vnc=")
    if head == "none":
        node.add("listen", {"type": "none"})
    elif unix.startswith("unix:"):
        _socket(line, node, unix.removeprefix("unix:"))
    else:
        address, _, display = head.rpartition(":")
        address = address.strip("[]")
        if not display.isdigit() or len(display) > 5:
            raise UnreadableError(f"-vnc {head}")
        node.attrib |= {"port": str(VNC_BASE + int(display)), "autoport": "no"}
        node.add("listen", {"type": "address", "address": address or "0.0.0.0"})
        if not address:
            line.note("read", f"-vnc {head}: every address of the host", argument)
    websocket = bag.take("websocket")
    if websocket is not None:
        node.set("websocket", websocket if websocket.isdigit() else "-1")
    share = bag.take("share")
    put(node, "@sharePolicy", share)
    if bag.switch("password"):
        line.note(
            "secret", "-vnc password=on: set passwd= of <graphics>, or libvirt starts without one", argument
        )
        node.set("passwd", "")
    if bag.take("password-secret") is not None:
        raise UnreadableError("-vnc with password-secret")
    for key, what in (("tls-creds", "TLS"), ("sasl", "SASL"), ("tls", "TLS"), ("x509", "TLS")):
        value = bag.take(key)
        if value is not None:
            if key == "tls-creds":
                drop_credentials(line, value)
            line.note("changed", f"-vnc {key}: {what} is set for the whole host in qemu.conf", argument)
    put(node, "@powerControl", yes_no(bag.switch("power-control")))
    audio_reference(line, bag, node)
    if bag.pairs:
        raise UnreadableError(f"-vnc: {', '.join(bag.keys)}")
    line.add(node, argument)


def _socket(line: Line, node: Node, path: str) -> None:
    """A UNIX socket; one below libvirt's own folder is one that libvirt makes up."""
    listen = node.add("listen", {"type": "socket"})
    if not path.startswith(f"{line.host.paths.lib}/"):
        listen.set("socket", path)


def _display_vnc(line: Line, argument: Argument, bag: Bag) -> None:
    text = (argument.text or "").removeprefix("vnc").removeprefix("=")
    bag.pairs = key_value_pairs(text, "vnc")
    _vnc(line, argument, bag)


#: option → element and attribute, whether the value is on or off
_PICTURE = (
    ("image-compression", "image/@compression"),
    ("jpeg-wan-compression", "jpeg/@compression"),
    ("zlib-glz-wan-compression", "zlib/@compression"),
    ("playback-compression", "playback/@compression"),
    ("streaming-video", "streaming/@mode"),
)


def _spice(line: Line, argument: Argument, bag: Bag) -> None:
    node = Node("graphics", {"type": "spice"})
    port, tls_port = bag.take("port"), bag.take("tls-port")
    address = bag.take("addr")
    if bag.switch("unix"):
        _socket(line, node, address or "")
    elif port == "0" and tls_port is None:
        node.add("listen", {"type": "none"})
    else:
        for name, value in (("port", port), ("tlsPort", tls_port)):
            if value is not None:
                node.set(name, value)
        node.set("autoport", "no")
        node.add("listen", {"type": "address", "address": address or "0.0.0.0"})
    bag.drop("x509-dir", "x509-key-file", "x509-cert-file", "x509-cacert-file", "seamless-migration")
    if bag.switch("sasl"):
        line.note("changed", "-spice sasl: SASL is set for the whole host in qemu.conf", argument)
    ticketing = bag.switch("disable-ticketing")
    for key in ("password", "password-secret"):
        if bag.take(key) is not None:
            line.note("secret", f"-spice {key}: set passwd= of <graphics>", argument)
            node.set("passwd", "")
    if not ticketing and "passwd" not in node.attrib:
        node.set("passwd", "")
        line.note(
            "secret", "-spice has a password, set by the monitor: put it into passwd= of <graphics>", argument
        )
    mouse = bag.switch("agent-mouse")
    if mouse is not None:
        put(node, "mouse/@mode", "client" if mouse else "server")
    for mode, key in CHANNEL_OPTIONS.items():
        for channel in bag.texts(key):
            if channel == "default":
                node.set("defaultMode", mode)
            else:
                node.add("channel", {"name": channel, "mode": mode})
    for key, path in _PICTURE:
        put(node, path, bag.take(key))
    if bag.switch("disable-copy-paste"):
        put(node, "clipboard/@copypaste", "no")
    if bag.switch("disable-agent-file-xfer"):
        put(node, "filetransfer/@enable", "no")
    if bag.switch("gl"):
        put(node, "gl/@enable", "yes")
    put(node, "gl/@rendernode", bag.take("rendernode"))
    if bag.pairs:
        raise UnreadableError(f"-spice: {', '.join(bag.keys)}")
    line.add(node, argument)


def _sdl(line: Line, bag: Bag | None) -> None:
    node = Node("graphics", {"type": "sdl"})
    for variable, attribute in (("DISPLAY", "display"), ("XAUTHORITY", "xauth")):
        if variable in line.environment:
            node.set(attribute, line.environment.pop(variable))
    if bag is not None:
        put(node, "gl/@enable", yes_no(bag.switch("gl")))
    line.add(node)


def _display_sdl(line: Line, argument: Argument, bag: Bag) -> None:
    bag.take("type")
    _sdl(line, bag)
    for key in ("window-close", "window_close", "alt_grab", "ctrl_grab", "grab-mod", "show-cursor"):
        bag.drop(key)
    if bag.pairs:
        raise UnreadableError(f"-display sdl: {', '.join(bag.keys)}")


def _display_headless(line: Line, argument: Argument, bag: Bag) -> None:
    bag.take("type")
    node = Node("graphics", {"type": "egl-headless"})
    put(node, "gl/@rendernode", bag.take("rendernode"))
    if bag.pairs:
        raise UnreadableError(f"-display egl-headless: {', '.join(bag.keys)}")
    line.add(node, argument)


def _display_dbus(line: Line, argument: Argument, bag: Bag) -> None:
    bag.take("type")
    node = Node("graphics", {"type": "dbus"})
    if bag.switch("p2p"):
        node.set("p2p", "yes")
    address = bag.take("addr")
    if address is not None and not address.endswith("-dbus.sock"):
        node.set("address", address)
    gl = bag.switch("gl")
    put(node, "gl/@enable", yes_no(gl))
    put(node, "gl/@rendernode", bag.take("rendernode"))
    audio_reference(line, bag, node)
    if bag.pairs:
        raise UnreadableError(f"-display dbus: {', '.join(bag.keys)}")
    line.add(node, argument)


def _display_window(line: Line, argument: Argument, bag: Bag) -> None:
    kind = bag.take("type")
    gl = bag.peek("gl")
    bag.pairs = []
    if gl is not None and gl != "off":
        node = Node("graphics", {"type": "spice"})
        node.add("listen", {"type": "none"})
        put(node, "gl/@enable", "yes")
        line.add(node, argument)
        line.note(
            "changed",
            f"-display {kind},gl={gl}: libvirt's guests have no window of QEMU's; SPICE with OpenGL takes its place "
            "(virt-viewer)",
            argument,
        )
        return
    _window(line, f"-display {kind} is a window of QEMU's")


def _display_spice(line: Line, argument: Argument, bag: Bag) -> None:
    """``spice-app``: SPICE on a socket of its own, and a viewer."""
    gl = bag.switch("gl")
    bag.pairs = []
    node = Node("graphics", {"type": "spice"})
    node.add("listen", {"type": "none"})
    if gl:
        put(node, "gl/@enable", "yes")
    line.add(node, argument)


_DISPLAYS = {
    "cocoa": _display_window,
    "dbus": _display_dbus,
    "default": _display_window,
    "egl-headless": _display_headless,
    "gtk": _display_window,
    "sdl": _display_sdl,
    "spice-app": _display_spice,
}

# -- graphics cards -----------------------------------------------------------------------------------

_CARDS = {card: kind for kind, card in VIDEO_CARDS.items()} | {"qxl": "qxl"}
#: virtio's cards: base name → primary, with OpenGL, by a process of its own
_VIRTIO = {
    "vhost-user-gpu": (False, False, True),
    "vhost-user-vga": (True, False, True),
    "virtio-gpu": (False, False, False),
    "virtio-gpu-gl": (False, True, False),
    "virtio-vga": (True, False, False),
    "virtio-vga-gl": (True, True, False),
}
#: -vga → type of the card; ``none`` is none
VGA = {"cirrus": "cirrus", "qxl": "qxl", "std": "vga", "virtio": "virtio", "vmware": "vmvga"}


def is_video(driver: str) -> bool:
    return driver in _CARDS or split_driver(driver)[0] in _VIRTIO


def read_video(line: Line, argument: Argument) -> None:
    """A graphics card."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    base = split_driver(driver)[0]
    node = Node("video")
    model = node.add("model", {"type": _CARDS.get(driver, "virtio")})
    used = [argument]
    if base in _VIRTIO:
        _, gl, process = _VIRTIO[base]
        virtio_settings(bag, node)
        virgl = bag.switch("virgl")
        if gl or virgl is not None:
            put(model, "acceleration/@accel3d", yes_no(gl or virgl))
        if process:
            put(node, "driver/@name", "vhostuser")
            chardev = line.find(("-chardev",), bag.take("chardev"))
            line.use(chardev).pairs = []
            used.append(chardev)
        put(model, "@blob", bag.switch("blob"))
    put(model, "@heads", bag.take("max_outputs"))
    for attribute, key in (("ram", "ram_size"), ("vram", "vram_size"), ("vram", "vgamem")):
        size = bag.size(key)
        put(model, f"@{attribute}", None if size is None else size // 1024)
    for attribute, key in (("vram64", "vram64_size_mb"), ("vgamem", "vgamem_mb")):
        size = bag.number(key)
        if driver in ("VGA", "vmware-svga") and attribute == "vgamem":
            attribute = "vram"
        if size:
            put(model, f"@{attribute}", size * 1024)
    width, height = bag.take("xres"), bag.take("yres")
    if width is not None:
        put(model, "resolution/@x", width)
        put(model, "resolution/@y", height)
    bag.drop("edid")
    if base == "ramfb":
        bag.drop("bus")
    else:
        place(line, bag, node)
    line.finish(bag, node, *used)


def read_vga(line: Line) -> None:
    """``-vga``, or the card that a machine has where nothing is said."""
    argument = line.last("-vga")
    kind = argument.text if argument is not None else None
    for flag, card in (("-std-vga", "std"), ("-vmwarevga", "vmware")):
        if line.given(flag):
            kind = card
    if kind is None:
        others = line.devices.all("video") or any(
            is_video(a.bag.peek("driver") or "") for a in line.all("-device")
        )
        if not line.has_defaults or others or not (line.board.is_x86 or line.board.is_pseries):
            return
        version = machine_version(line.board.machine)
        # the usual card since QEMU 2.2
        kind = "cirrus" if line.dialect.old or (version is not None and version < (2, 2)) else "std"
        if not line.by_libvirt:
            line.note("read", f"QEMU has a graphics card where none is named: -vga {kind}")
    if kind == "none":
        return
    node = Node("video")
    model = VGA.get(kind)
    if model is None:
        if argument is not None:
            argument.read = False
            line.reasons[id(argument)] = f"-vga {kind}"
        return
    node.add("model", {"type": model})
    line.buses.wait_for_slot(node, rank=0)
    line.devices.append(node)
