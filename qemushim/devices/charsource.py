"""Character sources: what the host end of a serial port, channel, console, … is connected to.

One element carries the kind of source in an attribute, ``<source>`` children, a ``<protocol>`` and a
``<log>``; which element that is depends on the device.
https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from qemushim.command.option import Option, Value, key_values, to_json
from qemushim.devices.label import SourceLabel, complete_labels
from qemushim.document.fields import Choice, Many, OnOff, Switch, Text, Unsigned
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Context, Define
    from qemushim.devices.base import Device

Properties = dict[str, Value]

TYPES = (
    *("null", "vc", "pty", "dev", "file", "pipe", "stdio", "udp", "tcp", "unix"),
    *("spicevmc", "spiceport", "nmdm", "qemu-vdagent", "dbus"),
)
#: what QEMU speaks over TCP; libvirt's other words are for other hypervisors
QEMU_PROTOCOLS = ("raw", "telnet")

#: type → attributes of its ``<source>`` that are kept; a type that is not here has no ``<source>``
_SOURCE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "dbus": ("channel",),
    "dev": ("path",),
    "file": ("path", "append"),
    "nmdm": ("master", "slave"),
    "pipe": ("path",),
    "qemu-vdagent": (),
    "spiceport": ("channel",),
    "tcp": ("mode", "host", "service", "tls"),
    "udp": ("mode", "host", "service"),
    "unix": ("mode", "path"),
}
#: type → children of its ``<source>`` that are kept
_SOURCE_CHILDREN: dict[str, tuple[str, ...]] = {
    "dev": ("seclabel",),
    "file": ("seclabel",),
    "pipe": ("seclabel",),
    "qemu-vdagent": ("clipboard", "mouse"),
    "tcp": ("reconnect",),
    "unix": ("seclabel", "reconnect"),
}

#: tag → how a display on D-Bus looks for it
_DBUS_NAMES = {"redirdev": "org.qemu.usbredir"}


class Source(Item):
    """``<source>``: one end of a connection (a UDP source has two)."""

    tag = "source"

    mode = Choice("@mode", ("connect", "bind"), "connect").later()
    path = Text("@path")
    append = OnOff("@append").later()
    host = Text("@host")
    service = Text("@service")
    tls = Switch("@tls").later()
    channel = Text("@channel")
    master = Text("@master")
    slave = Text("@slave")
    copypaste = Switch("clipboard/@copypaste", required=True)
    mouse = Choice("mouse/@mode", ("server", "client"), required=True)
    labels = Many("seclabel", SourceLabel)
    reconnect_enabled = Switch("reconnect/@enabled")
    reconnect_timeout = Unsigned("reconnect/@timeout", 0)

    @property
    def listens(self) -> bool:
        return self.mode == "bind"

    @property
    def reconnect(self) -> int | None:
        """Seconds after which a lost connection is tried again, 0 for never; ``None``: QEMU's own choice."""
        if self.reconnect_enabled is None:
            return None
        return self.reconnect_timeout if self.reconnect_enabled else 0


class CharSource(Item):
    """The element that carries a source, whatever its tag.

    Device classes declare these fields again at the place where their element has them.
    """

    type = Choice("@type", TYPES, "pty").says("unknown type presented to host for character device: {}")
    sources = Many("source", Source)
    protocol = Choice("protocol/@type", ("raw", "telnet", "telnets", "tls"), "raw")
    log_file = Text("log/@file")
    log_append = OnOff("log/@append")

    @property
    def source(self) -> Source:
        """The ``<source>``; an empty one where the element has none."""
        found = self.node.child("source")
        return Source(found if found is not None else Node("source", line=self.node.line))

    def end(self, mode: str) -> Source | None:
        """The end of a UDP source that connects or binds."""
        return next((source for source in self.sources if source.mode == mode), None)


# -- definition ------------------------------------------------------------------------------------


def complete_source(node: Node, *, live: bool = False) -> None:
    """Write the type, and keep of the sources what the type has a use for.

    ``live``: the guest runs, so the path of a pseudoterminal is known.
    """
    source = CharSource(node)
    kind = source.type
    _check_numbers(node, kind)
    node.set("type", kind)
    if kind == "dbus" and node.tag in _DBUS_NAMES and not source.source.channel:
        node.ensure("source").set("channel", _DBUS_NAMES[node.tag])
    sources = node.all("source")
    kept = sources[-1:] if live and kind == "pty" else _kept(kind, sources)
    for element in sources:
        if not any(element is one for one in kept):
            node.remove(element)
    for element in kept:
        _complete_element(element, kind)
    if len(kept) > 1 and node.all("source")[0] is not kept[0]:
        node.remove(kept[1])
        node.append(kept[1])
    if kind == "tcp":
        source.protocol = source.protocol
    else:
        node.discard("protocol")
    if not source.log_file:
        node.discard("log")


#: the parts of a source of which there is one
_SINGLE = ("source", "protocol", "log")


def _check_numbers(node: Node, kind: str) -> None:
    """Raise ``ConfigError`` where a part is there more than once; a UDP source has two ends."""
    for tag in _SINGLE:
        parts = node.all(tag)
        most, number = (
            (2, "two source elements are")
            if (kind, tag) == ("udp", "source")
            else (1, f"one {tag} element is")
        )
        if len(parts) > most:
            raise error.xml(f"only {number} allowed for character device", parts[most], "remove the others")


def _complete_element(element: Node, kind: str) -> None:
    keep = _SOURCE_ATTRIBUTES.get(kind, ("path",))
    element.attrib = {name: value for name, value in element.attrib.items() if name in keep}
    element.children = [child for child in element.children if child.tag in _SOURCE_CHILDREN.get(kind, ())]
    source = Source(element)
    # what belongs to the type is read now
    _ = source.mode, source.append, source.tls
    complete_labels(element)
    if "mode" in keep:
        element.set("mode", Source(element).mode)


def _kept(kind: str, sources: list[Node]) -> list[Node]:
    """The sources that count: of several the last, for UDP the last of each end, binding first."""
    if kind not in _SOURCE_ATTRIBUTES:
        return []
    if kind == "unix":
        # without a path there is nothing to say, but reconnecting (which a check refuses) must not get lost
        return [s for s in sources[-1:] if s.get("path") or s.child("reconnect") is not None]
    if kind == "qemu-vdagent":
        return [s for s in sources[-1:] if any(s.child(tag) is not None for tag in ("clipboard", "mouse"))]
    if kind != "udp":
        return sources[-1:]
    ends = {Source(element).mode: element for element in sources}
    return [
        ends[mode]
        for mode in ("bind", "connect")
        if mode in ends and {"host", "service"} & ends[mode].attrib.keys()
    ]


# -- checks ----------------------------------------------------------------------------------------


def check_source(node: Node, d: Define, *, path_optional: bool = False) -> None:
    """Raise ``ConfigError`` where a source lacks what its type needs.

    ``path_optional``: the path of a UNIX socket may be left to the host.
    """
    source = CharSource(node)
    kind = source.type
    if kind == "udp":
        connect = source.end("connect")
        if connect is None or connect.service is None:
            raise _missing("service", node)
    elif kind == "nmdm":
        if (source.source.master is None) != (source.source.slave is None):
            raise error.internal(
                "Should define both master and slave path attributes for nmdm device",
                node,
                "add the other one",
            )
    elif not (kind == "unix" and path_optional):
        for attribute in _REQUIRED.get(kind, ()):
            if source.source.node.get(attribute) is None:
                raise _missing(attribute, node)
            if attribute == "channel" and not _CHANNEL_NAME.issuperset(source.source.channel or ""):
                message = "Invalid character in source channel for char device"
                raise error.argument(message, node, "letters, digits and .-_+")
    if kind in ("tcp", "unix"):
        _check_reconnect(source.source, node)
    if kind == "tcp" and source.protocol not in QEMU_PROTOCOLS:
        raise error.unsupported(
            f"tcp chardev protocol '{source.protocol}' not supported",
            node,
            f"one of: {', '.join(QEMU_PROTOCOLS)}",
        )
    if kind == "spicevmc" and not _takes_spice(node):
        message = "spicevmc device type only supports virtio"
        raise error.unsupported(message, node, "<channel type='spicevmc'> with <target type='virtio'/>")
    if kind in ("spicevmc", "spiceport") and not has_spice(d):
        wrong = f"chardev '{kind}' not supported without spice graphics"
        raise error.unsupported(wrong, node, "add <graphics type='spice' autoport='yes'/>")


def _takes_spice(node: Node) -> bool:
    """Whether SPICE has a name for what the device is."""
    if node.tag in ("serial", "parallel", "console"):
        return False
    return node.tag != "channel" or node.value("target/@type") == "virtio"


def has_spice(c: Context) -> bool:
    """Whether the guest can be looked at over SPICE."""
    return any(graphics.node.get("type") == "spice" for graphics in c.domain.lists["graphics"])


#: type → attributes of ``<source>`` that it can not do without
_REQUIRED: dict[str, tuple[str, ...]] = {
    "dbus": ("channel",),
    "dev": ("path",),
    "file": ("path",),
    "pipe": ("path",),
    "spiceport": ("channel",),
    "tcp": ("host", "service"),
    "unix": ("path",),
}


#: what the name of a SPICE or D-Bus port is made of
_CHANNEL_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_+")


def _missing(attribute: str, node: Node) -> Exception:
    kind = error.unsupported if attribute == "channel" else error.internal
    return kind(
        f"Missing source {attribute} attribute for char device", node, f"add <source {attribute}='…'/>"
    )


def _check_reconnect(source: Source, node: Node) -> None:
    if not source.reconnect_enabled:
        return
    if source.listens:
        raise error.internal(
            "chardev reconnect is possible only for connect mode",
            node,
            "remove <reconnect>, or use mode='connect'",
        )
    if source.node.value("reconnect/@timeout") is None:
        message = "Missing required attribute 'timeout' in element 'reconnect'"
        raise error.xml(message, node, "timeout='10'")
    if source.reconnect_timeout == 0:
        raise error.argument("chardev reconnect source timeout cannot be '0'", node, "seconds from 1")


# -- file descriptors ------------------------------------------------------------------------------


def prepare_chardevs(b: Build) -> None:
    """Count the fd sets of files that libvirt opens, in the order in which it prepares devices."""
    lists = b.domain.lists
    for tag in _WITH_SOURCES:
        for number, device in enumerate(lists[tag]):
            if tag != "console" or not is_mirror(b, device, number):
                prepare_chardev(device, b)


#: the kinds that have a character source, in the order in which they are prepared
_WITH_SOURCES = ("smartcard", "serial", "parallel", "channel", "console", "rng", "shmem", "redirdev")


def prepare_chardev(device: Device, b: Build) -> None:
    """The same for one device, if it has a source at all."""
    if device.tag not in _WITH_SOURCES:
        return
    sets: dict[tuple[int, str], int] = b.notes.setdefault("fd sets of character devices", {})
    for node in device.node.all("backend") if device.tag == "rng" else (device.node,):
        source = CharSource(node)
        if node.get("type") == "file" and b.host.descriptors.file_source is not None:
            sets[id(node), "source"] = b.new_fd_set()
        if source.log_file and b.host.descriptors.file_log is not None:
            sets[id(node), "log"] = b.new_fd_set()


def is_mirror(c: Context, console: Device, number: int) -> bool:
    """Whether a console is the first serial port under another name."""
    return (
        number == 0
        and (console.node.value("target/@type") or "serial") == "serial"
        and bool(c.domain.lists["serial"])
    )


def _fd_set(b: Build, node: Node, part: str, number: int, user: str, path: str) -> tuple[str, Option]:
    """The path of a file behind an fd set, and the option that fills the set."""
    sets: dict[tuple[int, str], int] = b.notes["fd sets of character devices"]
    fd_set = sets[id(node), part]
    given = b.pass_fd(number, "file", path, user)
    return f"/dev/fdset/{fd_set}", b.add_fd(fd_set, given, f"{user}-{part}", node)


# -- options ---------------------------------------------------------------------------------------


class Backend(NamedTuple):
    """One ``-chardev``: as ``key=value`` and as QMP would have it."""

    kind: str
    flat: Properties
    nested: Properties


def chardev_options(device: Device, node: Node, b: Build, chardev_id: str) -> Iterator[Option]:
    """The ``-chardev`` of a device, behind the secrets, credentials and descriptors that it needs.

    ``node``: the element that carries the source.
    """
    source = CharSource(node)
    kind = source.type
    if kind == "nmdm":
        hint = "QEMU has no null modems; use 'pty' or 'unix'"
        raise error.unsupported("unsupported chardev 'nmdm'", node, hint)
    tls = None
    if kind == "tcp" and _wants_tls(source.source, b):
        tls = f"obj{chardev_id}_tls0"
        yield from _tls_options(source, b, chardev_id)
    path = source.source.path or ""
    numbers = b.host.descriptors
    append = source.source.append
    if kind == "file" and numbers.file_source is not None:
        # libvirt opens the file and, where asked for, empties it before QEMU sees it
        path, opened = _fd_set(b, node, "source", numbers.file_source, device.alias, path)
        append = True
        yield opened
    log: Properties = {}
    if source.log_file:
        log = {
            "logfile": source.log_file,
            **({} if source.log_append is None else {"logappend": source.log_append}),
        }
        if numbers.file_log is not None:
            log_path, opened = _fd_set(b, node, "log", numbers.file_log, device.alias, source.log_file)
            yield opened
            log = {"logfile": log_path, "logappend": True}
    backend = _BACKENDS[kind](_Need(b, device, source, chardev_id, path, append, tls))
    backend.flat.update(log)
    backend.nested.update(log)
    yield _option(b, backend, chardev_id, node, f"the host end of {device.alias}")


def socket_chardev(
    b: Build, chardev_id: str, path: str, source: Node, *, server: bool = False, reconnect: int | None = None
) -> Option:
    """A UNIX socket that QEMU opens by its path; where QEMU is the server it waits for the client.

    ``reconnect``: see ``Source.reconnect``.
    """
    again = _reconnect(b, reconnect)
    flat: Properties = {"path": path, **({"server": True} if server else {}), **again}
    nested: Properties = {"addr": {"type": "unix", "data": {"path": path}}, "server": server, **again}
    return _option(b, Backend("socket", flat, nested), chardev_id, source, "a socket that QEMU opens")


def listen_chardev(b: Build, chardev_id: str, path: str) -> Option:
    """A UNIX socket that QEMU listens on."""
    return _option(b, _listening(b, path, chardev_id), chardev_id, None, "a socket that QEMU listens on")


def connect_chardev(b: Build, chardev_id: str, path: str, source: Node) -> Option:
    """A UNIX socket to a helper process of the guest's own: passed connected, or opened by its path."""
    number = b.host.descriptors.unix_listen
    if number is None:
        return socket_chardev(b, chardev_id, path, source)
    fd = b.pass_fd(number, "vhost-user", path, chardev_id)
    nested: Properties = {"addr": _address("fd", str=str(fd)), "server": False}
    return _option(b, Backend("socket", {"fd": fd}, nested), chardev_id, source, "a socket that is passed")


def _option(b: Build, backend: Backend, chardev_id: str, source: Node | None, rule: str) -> Option:
    given: Properties = {"id": chardev_id, "backend": {"type": backend.kind, "data": backend.nested}}
    if b.emulator.flag("chardev.json"):
        return Option("-chardev", to_json(given), source, rule, given)
    text = key_values({"id": chardev_id, **backend.flat}, backend.kind)
    return Option("-chardev", text, source, rule, given)


def _wants_tls(source: Source, b: Build) -> bool:
    return b.host.config.chardev_tls if source.tls is None else source.tls


def _tls_options(source: CharSource, b: Build, chardev_id: str) -> Iterator[Option]:
    config = b.host.config
    password = None
    if config.chardev_tls_x509_secret_uuid:
        password = f"{chardev_id}-secret0"
        yield b.secret(password, b.host.find_secret("tls", config.chardev_tls_x509_secret_uuid), source.node)
    listens = source.source.listens
    yield b.tls_credentials(
        f"obj{chardev_id}_tls0",
        config.chardev_tls_x509_cert_dir,
        server=listens,
        verify=config.chardev_tls_x509_verify if listens else True,
        password=password,
        source=source.node,
    )


def _reconnect(b: Build, seconds: int | None) -> Properties:
    """QEMU 9.2 counts in milliseconds."""
    if seconds is None:
        return {}
    if b.emulator.qapi("chardev-add/arg-type/backend/+socket/data/reconnect-ms"):
        return {"reconnect-ms": seconds * 1000}
    return {"reconnect": seconds}


class _Need(NamedTuple):
    """What a back end is made from."""

    b: Build
    device: Device
    source: CharSource
    chardev_id: str
    #: of the file that is open, or the source's own
    path: str
    append: bool | None
    #: credentials of a TCP connection
    tls: str | None


def _plain(need: _Need) -> Backend:
    return Backend(need.source.type, {}, {})


def _file(need: _Need) -> Backend:
    append: Properties = {} if need.append is None else {"append": need.append}
    return Backend("file", {"path": need.path, **append}, {"out": need.path, **append})


def _pipe(need: _Need) -> Backend:
    return Backend("pipe", {"path": need.path}, {"device": need.path})


def _host_device(need: _Need) -> Backend:
    kind = "parallel" if need.chardev_id.startswith("charparallel") else "serial"
    return Backend(kind, {"path": need.path}, {"device": need.path})


def _listening(b: Build, path: str, user: str) -> Backend:
    """A UNIX socket that QEMU listens on without waiting: passed, or opened by its path."""
    number = b.host.descriptors.unix_listen
    if number is None:
        flat: Properties = {"path": path, "server": True, "wait": False}
        address = _address("unix", path=path)
    else:
        fd = b.pass_fd(number, "listen", path, user)
        flat = {"fd": fd, "server": True, "wait": False}
        address = _address("fd", str=str(fd))
    return Backend("socket", flat, {"addr": address, "wait": False, "server": True})


def _unix(need: _Need) -> Backend:
    b, source = need.b, need.source.source
    if source.listens or not need.path:
        path = need.path or channel_path(b, need.source.node)
        return _listening(b, path, need.device.alias)
    again = _reconnect(b, source.reconnect)
    nested: Properties = {"addr": _address("unix", path=need.path), "server": False, **again}
    return Backend("socket", {"path": need.path, **again}, nested)


def _tcp(need: _Need) -> Backend:
    source = need.source.source
    telnet = need.source.protocol == "telnet"
    end: dict[str, str] = {"host": source.host or "", "port": source.service or ""}
    tls: Properties = {"tls-creds": need.tls} if need.tls else {}
    again = _reconnect(need.b, source.reconnect)
    wait: Properties = {"wait": False} if source.listens else {}
    server: Properties = {"server": True, **wait} if source.listens else {}
    flat: Properties = {**end, **({"telnet": True} if telnet else {}), **server, **again, **tls}
    spoken: Properties = {**wait, "telnet": telnet, "server": source.listens}
    return Backend("socket", flat, {"addr": _address("inet", **end), **spoken, **tls, **again})


def _udp(need: _Need) -> Backend:
    remote, local = need.source.end("connect"), need.source.end("bind")
    host, port = (remote.host or "", remote.service or "") if remote else ("", "")
    flat: Properties = {"host": host, "port": port, "localaddr": "", "localport": "0"}
    nested: Properties = {"remote": _address("inet", host=host, port=port)}
    if local is not None:
        flat["localaddr"] = local.host or ""
        flat["localport"] = local.service or "0"
        nested["local"] = _address("inet", host=local.host or "", port=local.service or "")
    return Backend("udp", flat, nested)


#: what goes through a SPICE channel, by the device that uses it
_SPICE_NAMES = {"channel": "vdagent", "redirdev": "usbredir", "smartcard": "smartcard"}


def _spicevmc(need: _Need) -> Backend:
    name = _SPICE_NAMES.get(need.device.tag, "vdagent")
    return Backend("spicevmc", {"name": name}, {"type": name})


def _spiceport(need: _Need) -> Backend:
    channel = need.source.source.channel or ""
    return Backend("spiceport", {"name": channel}, {"fqdn": channel})


def _dbus(need: _Need) -> Backend:
    channel = need.source.source.channel or ""
    return Backend("dbus", {"name": channel}, {"name": channel})


def _vdagent(need: _Need) -> Backend:
    source = need.source.source
    given: Properties = {}
    if source.copypaste is not None:
        given["clipboard"] = source.copypaste
    if source.mouse is not None:
        given["mouse"] = source.mouse == "client"
    return Backend("qemu-vdagent", {"name": "vdagent", **given}, dict(given))


_BACKENDS: dict[str, Callable[[_Need], Backend]] = {
    "dbus": _dbus,
    "dev": _host_device,
    "file": _file,
    "null": _plain,
    "pipe": _pipe,
    "pty": _plain,
    "qemu-vdagent": _vdagent,
    "spiceport": _spiceport,
    "spicevmc": _spicevmc,
    "stdio": _plain,
    "tcp": _tcp,
    "udp": _udp,
    "unix": _unix,
    "vc": _plain,
}


def _address(kind: str, **data: str) -> Value:
    return {"type": kind, "data": data}


def channel_path(b: Build, node: Node) -> str:
    """The socket of a channel that leaves its path to the host."""
    return f"{b.host.paths.channel}/{b.short_name}/{channel_name(node)}"


def channel_name(node: Node) -> str:
    """The file of a channel's socket: the channel's name, or one that is made of its place."""
    name = node.value("target/@name")
    if name:
        return name
    place = (int(node.value(f"address/@{part}") or 0) for part in ("controller", "bus", "port"))
    return f"vioser-{'-'.join(f'{number:02d}' for number in place)}.sock"
