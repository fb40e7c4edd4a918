"""Character devices: ``-chardev`` and ``-serial`` back to ``<serial>``, ``<console>``, ``<channel>`` and their sources.

The inverse of ``qemushim.devices.charsource`` and ``qemushim.devices.chardev``.
"""

from __future__ import annotations

from collections.abc import Callable

from qemushim.command.option import escape_commas
from qemushim.devices.chardev import SERIAL_OF_MODEL
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line, put, yes_no
from qemushim.fromargv.places import place, serial_place, usb_place
from qemushim.fromargv.secrets import drop_credentials, opened_file
from qemushim.fromargv.storage import host_and_port
from qemushim.fromargv.syntax import Bag, UnreadableError

#: JSON's names → those of ``key=value``
_JSON_NAMES = {
    "backend.type": "backend",
    "backend.data.addr.type": "",
    "backend.data.addr.data.path": "path",
    "backend.data.addr.data.str": "fd",
    "backend.data.addr.data.host": "host",
    "backend.data.addr.data.port": "port",
    "backend.data.remote.type": "",
    "backend.data.remote.data.host": "host",
    "backend.data.remote.data.port": "port",
    "backend.data.local.type": "",
    "backend.data.local.data.host": "localaddr",
    "backend.data.local.data.port": "localport",
    "backend.data.out": "path",
    "backend.data.device": "path",
    "backend.data.fqdn": "name",
    "backend.data.type": "name",
}


def read_source(line: Line, name: str | None, node: Node) -> Argument:
    """The ``-chardev`` of an id, into an element: its type, and its ``<source>``.  Raises ``UnreadableError``."""
    argument = line.find(("-chardev",), name)
    bag = line.use(argument)
    if bag.is_json:
        _from_json(bag)
    kind = bag.take("backend") or ""
    reader = _BACKENDS.get(kind)
    if reader is None:
        raise UnreadableError(f"-chardev {kind}")
    bag.drop("id")
    if bag.peek("mux") == "on":
        raise UnreadableError("a -chardev with mux=on serves several devices")
    bag.drop("mux")
    reader(line, bag, node)
    log = bag.take("logfile")
    if log is not None:
        put(node, "log/@file", opened_file(line, log))
        append = bag.switch("logappend")
        put(node, "log/@append", append if not log.startswith("/dev/fdset/") else None)
    if bag.pairs:
        raise UnreadableError(f"-chardev {kind}: {', '.join(bag.keys)}")
    return argument


def _from_json(bag: Bag) -> None:
    renamed = []
    for key, value in bag.pairs:
        name = _JSON_NAMES.get(key, key.removeprefix("backend.data."))
        if name:
            renamed.append((name, value))
    bag.pairs = renamed


def unix_source(line: Line, argument: Argument) -> Node:
    """``<source type='unix' path= mode=>`` of a vhost-user device."""
    bag = line.use(argument)
    if bag.is_json:
        _from_json(bag)
    if bag.take("backend") != "socket" or not bag.has("path"):
        raise UnreadableError("a vhost-user device needs a UNIX socket")
    bag.drop("id")
    server = bag.switch("server")
    _take_wait(bag)
    source = Node("source", {"type": "unix", "path": bag.take("path") or ""})
    if server:
        source.set("mode", "server")
    _reconnect(bag, source)
    if bag.pairs:
        raise UnreadableError(f"-chardev socket: {', '.join(bag.keys)}")
    return source


# -- back ends --------------------------------------------------------------------------------------


def _plain(kind: str) -> Callable[[Line, Bag, Node], None]:
    def read(line: Line, bag: Bag, node: Node) -> None:
        node.set("type", kind)
        if kind == "stdio":
            bag.drop("signal")
        if kind == "pty":
            bag.drop("path")

    return read


def _path(kind: str) -> Callable[[Line, Bag, Node], None]:
    def read(line: Line, bag: Bag, node: Node) -> None:
        node.set("type", kind)
        path = bag.take("path") or ""
        source = node.add("source", {"path": opened_file(line, path)})
        append = bag.switch("append")
        if kind == "file" and not path.startswith("/dev/fdset/"):
            put(source, "@append", append)

    return read


def _take_wait(bag: Bag) -> bool | None:
    """``wait=off`` and its older spelling ``nowait``."""
    old = bag.switch("nowait")
    wait = bag.switch("wait")
    return wait if wait is not None else None if old is None else not old


def _socket(line: Line, bag: Bag, node: Node) -> None:
    server = bool(bag.switch("server"))
    wait = _take_wait(bag)
    if server and wait is not False:
        line.note(
            "changed", f"{bag.what}: QEMU waits for a client before it starts; under libvirt it does not"
        )
    mode = "bind" if server else "connect"
    for ignored in ("nodelay", "delay", "ipv4", "ipv6"):
        if bag.peek(ignored) in ("on", "off"):
            bag.drop(ignored)
    if bag.has("path") or bag.has("fd"):
        node.set("type", "unix")
        source = node.add("source", {"mode": mode})
        path = bag.take("path")
        fd = bag.number("fd")
        if path is None and fd is not None:
            path = line.known_host.sockets.get(fd, "")
            if not path and node.tag != "channel":
                line.note("lost", f"descriptor {fd}: the path of the socket is not on the command line")
                path = f"/unknown/descriptor-{fd}"
        put(source, "@path", path or None)
    else:
        node.set("type", "tcp")
        source = node.add("source", {"mode": mode, "host": bag.take("host") or "0.0.0.0"})
        source.set("service", bag.take("port") or "")
        telnet = bag.switch("telnet")
        node.add("protocol", {"type": "telnet" if telnet else "raw"})
        credentials = bag.take("tls-creds")
        if credentials is not None:
            source.set("tls", "yes")
            drop_credentials(line, credentials)
        elif line.says_tls:
            source.set("tls", "no")
    _reconnect(bag, source)


def _reconnect(bag: Bag, source: Node) -> None:
    again = bag.number("reconnect-ms")
    seconds = bag.number("reconnect") if again is None else again // 1000
    if seconds is None:
        return
    source.add("reconnect", {"enabled": yes_no(bool(seconds)) or "no"})
    if seconds:
        put(source, "reconnect/@timeout", seconds)


def _udp(line: Line, bag: Bag, node: Node) -> None:
    node.set("type", "udp")
    local, local_port = bag.take("localaddr"), bag.take("localport")
    if local or local_port not in (None, "0"):
        bind = {"mode": "bind", **({"host": local} if local else {}), "service": local_port or "0"}
        node.add("source", bind)
    host = bag.take("host")
    node.add(
        "source", {"mode": "connect", **({"host": host} if host else {}), "service": bag.take("port") or ""}
    )


def _spicevmc(line: Line, bag: Bag, node: Node) -> None:
    if not line.every("-spice") and not any(a.bag.was("type") == "spice-app" for a in line.every("-display")):
        raise UnreadableError("a SPICE channel without SPICE")
    node.set("type", "spicevmc")
    name = bag.take("name")
    wanted = {"redirdev": "usbredir", "smartcard": "smartcard"}.get(node.tag, "vdagent")
    if name != wanted:
        raise UnreadableError(f"-chardev spicevmc of name {name}")


def _named(kind: str) -> Callable[[Line, Bag, Node], None]:
    def read(line: Line, bag: Bag, node: Node) -> None:
        node.set("type", kind)
        node.add("source", {"channel": bag.take("name") or ""})

    return read


def _vdagent(line: Line, bag: Bag, node: Node) -> None:
    node.set("type", "qemu-vdagent")
    bag.drop("name")
    clipboard, mouse = bag.switch("clipboard"), bag.switch("mouse")
    if clipboard is None and mouse is None:
        return
    source = node.add("source")
    put(source, "clipboard/@copypaste", yes_no(clipboard))
    if mouse is not None:
        put(source, "mouse/@mode", "client" if mouse else "server")


_BACKENDS: dict[str, Callable[[Line, Bag, Node], None]] = {
    "dbus": _named("dbus"),
    "file": _path("file"),
    "null": _plain("null"),
    "parallel": _path("dev"),
    "parport": _path("dev"),
    "pipe": _path("pipe"),
    "pty": _plain("pty"),
    "qemu-vdagent": _vdagent,
    "serial": _path("dev"),
    "socket": _socket,
    "spiceport": _named("spiceport"),
    "spicevmc": _spicevmc,
    "stdio": _plain("stdio"),
    "tty": _path("dev"),
    "udp": _udp,
    "vc": _plain("vc"),
}

# -- devices ----------------------------------------------------------------------------------------

#: QEMU's device → (target of the console)
_CONSOLES = {"sclpconsole": "sclp", "sclplmconsole": "sclplm", "virtconsole": "virtio"}


def read_serial(line: Line, argument: Argument) -> None:
    """``isa-serial`` and other cards with a serial port."""
    bag = argument.bag
    model = bag.take("driver") or ""
    node = Node("serial", {"type": "pty"})
    source = read_source(line, bag.take("chardev"), node)
    target = node.add("target", {"type": SERIAL_OF_MODEL[model]})
    if model == "isa-serial":
        target.set("port", bag.take("index") or str(line.buses.next_port("serial")))
    else:
        target.set("port", str(line.buses.next_port("serial")))
    target.add("model", {"name": model})
    if model in ("isa-serial", "isa-debugcon"):
        base, irq = bag.number("iobase"), bag.number("irq")
        if base is not None:
            address = node.add("address", {"type": "isa", "iobase": hex(base)})
            put(address, "@irq", None if irq is None else hex(irq))
    elif model == "usb-serial":
        usb_place(line, bag, node)
    elif model == "pci-serial":
        place(line, bag, node)
    else:
        reg = bag.number("reg")
        if reg is not None:
            node.add("address", {"type": "spapr-vio", "reg": f"{reg:#010x}"})
    line.finish(bag, node, argument, source)


def read_parallel(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver")
    node = Node("parallel", {"type": "pty"})
    source = read_source(line, bag.take("chardev"), node)
    node.add("target", {"port": bag.take("index") or str(line.buses.next_port("parallel"))})
    line.finish(bag, node, argument, source)


def read_console(line: Line, argument: Argument) -> None:
    """``virtconsole``, and the consoles of s390."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    is_serial = driver in ("sclpconsole", "sclplmconsole") and not argument.id.startswith("console")
    node = Node("serial" if is_serial else "console", {"type": "pty"})
    source = read_source(line, bag.take("chardev"), node)
    if is_serial:
        target = node.add("target", {"type": "sclp-serial", "port": str(line.buses.next_port("serial"))})
        target.add("model", {"name": driver})
    else:
        node.add("target", {"type": _CONSOLES[driver], "port": str(line.buses.next_port("console"))})
    if driver == "virtconsole":
        if bag.peek("nr") is not None or bag.peek("bus") is not None:
            serial_place(line, bag, node)
        else:
            place(line, bag, node) if bag.has("devno") else None
    line.finish(bag, node, argument, source)


def read_channel(line: Line, argument: Argument) -> None:
    """``virtserialport``."""
    bag = argument.bag
    bag.drop("driver")
    node = Node("channel", {"type": "pty"})
    source = read_source(line, bag.take("chardev"), node)
    target = node.add("target", {"type": "virtio"})
    put(target, "@name", bag.take("name"))
    serial_place(line, bag, node)
    line.finish(bag, node, argument, source)


def read_forwards(line: Line) -> None:
    """``-netdev user,guestfwd=tcp:A:P-chardev:ID``: a channel of its own."""
    taken = {a.bag.peek("netdev") for a in line.all("-device")}
    for argument in line.all("-netdev"):
        bag = argument.bag
        if bag.peek("type") != "user" or not any(key.startswith("guestfwd") for key in bag.keys):
            continue
        if argument.id in taken:
            continue
        line.read_one(argument, _read_forward)


def _read_forward(line: Line, argument: Argument, bag: Bag) -> None:
    forwards = bag.texts("guestfwd")
    bag.drop("type", "id")
    head, _, chardev = forwards[0].partition("-chardev:")
    # the spelling of QEMU before 0.15
    chardev = chardev or bag.take("chardev") or ""
    protocol, _, rest = head.partition(":")
    if len(forwards) != 1 or not chardev or protocol not in ("tcp", "") or bag.pairs:
        raise UnreadableError("a -netdev with more than one forward")
    node = Node("channel", {"type": "pty"})
    source = read_source(line, chardev, node)
    address, port = host_and_port(rest)
    node.add("target", {"type": "guestfwd", "address": address, "port": port})
    line.add(node, source, argument)


# -- legacy spellings -------------------------------------------------------------------------------


def legacy_chardev(text: str, name: str) -> str:
    """``-serial``'s word as a ``-chardev``: ``pty``, ``tcp:HOST:PORT,server``, ``unix:PATH`` …

    Raises ``UnreadableError`` where libvirt has no such source.
    https://www.qemu.org/docs/master/system/invocation.html (``-serial``)
    """
    head, _, rest = text.partition(",")
    rest = f",{rest}" if rest else ""
    kind, _, value = head.partition(":")
    if head in ("pty", "null", "stdio", "vc", "msmouse", "braille"):
        return f"{head},id={name}"
    if kind == "vc":
        return f"vc,id={name}"
    if kind in ("file", "pipe"):
        # the path goes to the end
        return f"{kind},id={name},path={escape_commas(text.partition(':')[2])}"
    if kind == "unix":
        return f"socket,id={name},path={value}{rest}"
    if kind in ("tcp", "telnet"):
        host, port = host_and_port(value)
        telnet = ",telnet=on" if kind == "telnet" else ""
        return f"socket,id={name},host={host or '0.0.0.0'},port={port}{telnet}{rest}"
    if kind == "udp":
        remote, _, local = value.partition("@")
        host, port = host_and_port(remote)
        extra = ""
        if local:
            local_host, local_port = host_and_port(local)
            extra = f",localaddr={local_host},localport={local_port}"
        return f"udp,id={name},host={host},port={port}{extra}"
    if head.startswith("/dev/"):
        return f"serial,id={name},path={head}"
    raise UnreadableError(f"{text}: this is no way to connect a serial port that libvirt has")


def read_ports(line: Line) -> None:
    """``-serial``, ``-parallel``, ``-virtioconsole``; and the serial port of a machine where nothing is said."""
    hidden = bool(line.every("-nographic"))
    arguments = line.all("-serial")
    line.buses.has_serial = bool(arguments) or any(
        (a.bag.peek("driver") or "") in SERIAL_OF_MODEL for a in line.all("-device")
    )
    for number, argument in enumerate(arguments):
        line.read_one(argument, _port("serial", number))
    for number, argument in enumerate(line.all("-parallel")):
        line.read_one(argument, _port("parallel", number))
    for argument in line.all("-virtioconsole"):
        line.read_one(argument, _port("console", 0))
    board = line.board
    if line.buses.has_serial or not line.has_defaults:
        return
    if hidden or board.is_x86 or board.is_arm_virt or board.is_pseries or board.is_riscv_virt:
        node = line.devices.add("serial", {"type": "pty"})
        node.add("target", {"port": "0"})
        where = "its terminal" if hidden else "a tab of its window"
        line.note("changed", f"QEMU shows the serial port in {where}; libvirt has “virsh console”")


def _port(tag: str, number: int) -> Callable[[Line, Argument, Bag], None]:
    """A reader of the port of a number."""

    def read(line: Line, argument: Argument, bag: Bag) -> None:
        text = argument.text or ""
        if text == "none":
            return
        node = Node(tag, {"type": "pty"})
        used = [argument]
        word = text.removeprefix("mon:")
        if word.startswith("chardev:"):
            used.append(read_source(line, word.removeprefix("chardev:"), node))
        elif word in ("stdio", "vc") or word.startswith("vc:"):
            where = "its terminal" if word == "stdio" else "its window"
            message = f"{argument.flag} {text}: QEMU uses {where}; libvirt has “virsh console”"
            line.note("changed", message, argument)
        else:
            name = f"port{len(line.arguments)}"
            line.derive(argument, "-chardev", legacy_chardev(word, name))
            read_source(line, name, node)
        target = {"port": str(number)}
        if tag == "console":
            target["type"] = "virtio"
        node.add("target", target)
        line.buses.ports.add((tag, number))
        line.add(node, *used)

    return read
