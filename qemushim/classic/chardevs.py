"""Serial and parallel ports, the console, channels, and the monitor: each a character device of the host."""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.classic.context import Classic, ClassicBuild, Keys, refuse_comma
from qemushim.classic.document import CHARDEV_TYPES, Channel, Chardev, Parallel, Serial, Source
from qemushim.command.option import Option
from qemushim.document.node import Node
from qemushim.errors import error

#: what a console and its serial port have in common
_MIRRORED = ("source", "protocol")
#: types that are a path of the host
_PATHS = ("dev", "file", "pipe", "unix")
#: chardev type → back end of ``-chardev``
_BACKENDS = {"dev": "tty", "tcp": "socket", "unix": "socket"}


# -- defaults ------------------------------------------------------------------------------------------------


def complete_chardevs(c: Classic) -> None:
    """Ports are numbered as they come; the console of a PC is its first serial port by another name."""
    devices = c.domain.devices
    _complete_console(c)
    for kind in (devices.serials, devices.parallels):
        for number, chardev in enumerate(kind):
            _complete_source(chardev)
            _number(chardev.node, number)
    for channel in devices.channels:
        _complete_source(channel)
        _complete_channel(channel)
    if not c.domain.is_hvm:
        for console in devices.consoles:
            _complete_source(console)
            _number(console.node, 0)
    elif devices.serials:
        _mirror(devices.serials[0].node, devices.node.ensure("console"))


def _number(node: Node, number: int) -> None:
    """The target of a port is its number, and nothing else."""
    target = node.ensure("target")
    target.attrib = {"port": str(number)}
    target.children.clear()


def _complete_console(c: Classic) -> None:
    """There is one console.  That of a PC is a serial port: one is made of it where the document has none."""
    devices = c.domain.devices.node
    consoles = devices.all("console")
    for console in consoles[1:]:
        devices.remove(console)
    if consoles and c.domain.is_hvm and devices.child("serial") is None:
        _mirror(consoles[0], devices.add("serial"))


def _mirror(node: Node, twin: Node) -> None:
    """Make the twin the same line of characters by another name."""
    twin.attrib, twin.line = dict(node.attrib), node.line
    # the twin's own elements take on what the other's say; further ones are none of the user's document
    own = {tag: [child.origin for child in twin.all(tag)] for tag in _MIRRORED}
    twin.children = [child for child in twin.children if child.tag == "target"]
    for child in node.children:
        if child.tag in _MIRRORED:
            origins = own[child.tag]
            twin.append(child.copy()).origin = origins.pop(0) if origins else -1
    _number(twin, 0)


def normalize_types(node: Node) -> None:
    """A type that nobody knows is nothing at all, as libvirt 0.8.0 read it."""
    kind = node.get("type")
    if kind is not None and kind not in CHARDEV_TYPES:
        node.set("type", "null")


def _complete_source(chardev: Chardev) -> None:
    """What the type has of a source, in the spelling that is written."""
    node, kind = chardev.node, chardev.type
    chardev.type = kind
    node.drop("tty")
    if kind not in (*_PATHS, "tcp", "udp"):
        node.discard("source")
    for source in chardev.sources:
        source.node.children.clear()
        if kind in _PATHS:
            source.node.drop("host", "service")
            if kind == "unix":
                source.mode = source.mode
            else:
                source.node.drop("mode")
        else:
            source.node.drop("path")
            source.mode = source.mode
    if kind == "tcp":
        chardev.protocol = chardev.protocol
    else:
        node.discard("protocol")
    _check_source(chardev)
    if kind == "udp":
        # the side that is listened on is written first, whichever way round the document has them
        ordered = sorted(node.all("source"), key=lambda source: source.get("mode") != "bind")
        node.discard("source")
        node.children.extend(ordered)


def _check_source(chardev: Chardev) -> None:
    source = chardev.source("connect") if chardev.type == "udp" else chardev.source()
    if chardev.type in _PATHS and (source is None or not source.path):
        raise error.internal(
            "Missing source path attribute for char device", chardev.node, "<source path='…'/>"
        )
    if chardev.type in ("tcp", "udp"):
        if source is None or not source.service:
            raise error.internal(
                "Missing source service attribute for char device", chardev.node, "service='4555'"
            )
        if chardev.type == "tcp" and not source.host:
            raise error.internal(
                "Missing source host attribute for char device", chardev.node, "host='127.0.0.1'"
            )
        if chardev.protocol not in ("raw", "telnet"):
            raise error.unsupported(f"Unknown protocol '{chardev.protocol}'", chardev.node, "raw or telnet")


def _complete_channel(channel: Channel) -> None:
    target = channel.node.child("target")
    kind = channel.target_type
    if target is None or kind not in ("guestfwd", "virtio"):
        raise error.xml(
            "target type must be specified for channel device"
            if not kind
            else f"unknown target type '{kind}'",
            channel.node,
            "<target type='virtio' name='…'/> or <target type='guestfwd' address='…' port='…'/>",
        )
    if kind == "virtio":
        target.attrib = {k: v for k, v in target.attrib.items() if k in ("type", "name")}
        address = channel.place_node("virtio-serial")
        if address is not None:
            address.attrib = {
                "type": "virtio-serial",
                "controller": address.get("controller") or "0",
                "bus": address.get("bus") or "0",
            }
        return
    if not channel.target_address:
        raise error.xml(
            "guestfwd channel does not define a target address", channel.node, "address='10.0.2.1'"
        )
    parts = channel.target_address.split(".")
    if len(parts) != 4 or not all(part.isdigit() and int(part) < 256 for part in parts):
        raise error.xml("guestfwd channel only supports IPv4 addresses", channel.node, "address='10.0.2.1'")
    if channel.port is None:
        raise error.xml("guestfwd channel does not define a target port", channel.node, "port='4600'")


# -- arguments -----------------------------------------------------------------------------------------------


def monitor_options(b: ClassicBuild) -> Iterator[Option]:
    """The monitor listens on a UNIX socket."""
    path = b.host.classic.monitor or f"{b.host.paths.lib}/{b.domain.name}.monitor"
    json = b.host.classic.monitor_json
    rule = "the monitor, through which the guest is watched and changed"
    if b.has("chardev"):
        pairs: Keys = [("id", "monitor"), ("path", path)]
        yield _with_server(b.pairs("-chardev", pairs, None, rule, head="socket"))
        mode = "control" if json else "readline"
        yield b.option("-mon", f"chardev=monitor,mode={mode}", None, rule)
        return
    path = refuse_comma(path, "monitor path", b.domain.node)
    yield b.option("-monitor", f"{'control,' if json else ''}unix:{path},server,nowait", None, rule)


def serial_options(b: ClassicBuild) -> Iterator[Option]:
    yield from _ports(b, b.domain.devices.serials, "-serial", "isa-serial")


def parallel_options(b: ClassicBuild) -> Iterator[Option]:
    yield from _ports(b, b.domain.devices.parallels, "-parallel", "isa-parallel")


def _ports(b: ClassicBuild, ports: list[Serial] | list[Parallel], flag: str, driver: str) -> Iterator[Option]:
    if not ports and not b.has("device"):
        yield b.option(flag, "none", None, "without it this QEMU makes one")
    for port in ports:
        if b.has("chardev") and b.has("device"):
            alias = b.alias(port)
            yield chardev_option(b, port, alias)
            yield b.device(driver, [("chardev", alias)], port.node, "a port of the PC")
        else:
            yield b.option(flag, _legacy(port), port.node, "a port of the PC")


def channel_options(b: ClassicBuild) -> Iterator[Option]:
    """Ways from guest to host besides the ports: a virtio port, or an address of the user network."""
    for channel in b.domain.devices.channels:
        alias = b.alias(channel)
        if channel.target_type == "guestfwd":
            if not b.has("chardev") or not b.has("device"):
                raise error.unsupported(
                    "guestfwd requires QEMU to support -chardev & -device", channel.node, "QEMU 0.12 or later"
                )
            yield chardev_option(b, channel, alias)
            forward = f"tcp:{channel.target_address}:{channel.port}"
            pairs: Keys = [("guestfwd", forward), ("chardev", alias), ("id", f"user-{alias}")]
            yield b.pairs("-netdev", pairs, channel.node, "an address that leads to the host", head="user")
        elif not b.has("device"):
            raise error.unsupported(
                "virtio channel requires QEMU to support -device", channel.node, "QEMU 0.13 or later"
            )
        else:
            yield chardev_option(b, channel, alias)
            yield _virtio_port(b, channel, alias)


def _virtio_port(b: ClassicBuild, channel: Channel, alias: str) -> Option:
    place = channel.place_node("virtio-serial")
    bus = f"virtio-serial{place.get('controller')}.{place.get('bus')}" if place is not None else None
    pairs: Keys = [("bus", bus), ("chardev", alias), ("name", channel.name)]
    return b.device("virtserialport", pairs, channel.node, "a named port of the guest")


def chardev_option(b: ClassicBuild, chardev: Chardev, alias: str) -> Option:
    """``-chardev``"""
    kind = chardev.type
    keys: Keys = [("id", alias)]
    source = chardev.source()
    if kind in _PATHS:
        assert source is not None
        keys.append(("path", source.path))
    elif kind == "tcp":
        assert source is not None
        keys += [("host", source.host), ("port", source.service)]
    elif kind == "udp":
        keys += _udp_keys(chardev)
    option = b.pairs(
        "-chardev", keys, chardev.node, "where it is connected to on the host", head=_BACKENDS.get(kind, kind)
    )
    if kind == "tcp" and chardev.protocol == "telnet":
        option = option._replace(text=f"{option.text},telnet")
    if kind in ("tcp", "unix") and source is not None and source.mode == "bind":
        option = _with_server(option)
    return option


def _with_server(option: Option) -> Option:
    """It listens, and does not wait for the other side."""
    return option._replace(text=f"{option.text},server,nowait")


def _udp_ends(chardev: Chardev) -> tuple[Source, Source | None]:
    far = chardev.source("connect")
    assert far is not None, "checked when the domain was read"
    return far, chardev.source("bind")


def _udp_keys(chardev: Chardev) -> Keys:
    far, near = _udp_ends(chardev)
    keys: Keys = [("host", far.host), ("port", far.service)]
    if near is not None:
        keys += [("localaddr", near.host), ("localport", near.service)]
    return keys


def _legacy(chardev: Chardev) -> str:
    """The word of ``-serial`` and ``-parallel``."""
    kind, source = chardev.type, chardev.source()
    if kind in ("file", "pipe", "dev", "unix"):
        assert source is not None
        path = source.path
        if kind == "dev":
            return path
        if kind == "unix":
            return f"unix:{refuse_comma(path, 'path', chardev.node)}{_server(source)}"
        return f"{kind}:{path}"
    if kind == "udp":
        far, near = _udp_ends(chardev)
        here = f"@{near.host}:{near.service}" if near is not None else ""
        return refuse_comma(f"udp:{far.host}:{far.service}{here}", "address", chardev.node)
    if kind == "tcp":
        assert source is not None
        word = "telnet" if chardev.protocol == "telnet" else "tcp"
        return refuse_comma(f"{word}:{source.host}:{source.service}", "address", chardev.node) + _server(
            source
        )
    return kind


def _server(source: Source) -> str:
    return ",server,nowait" if source.mode == "bind" else ""
