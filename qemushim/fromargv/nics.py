"""Network cards: ``-device`` and ``-netdev``, ``-nic``, ``-net`` back to ``<interface>``.

The inverse of ``qemushim.devices.netdev``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from qemushim.devices.interface import KNOWN_MODELS
from qemushim.devices.netdev import OFFLOADS
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.chardevs import unix_source
from qemushim.fromargv.line import Line, put
from qemushim.fromargv.places import pci_place, place, split_driver, usb_place, virtio_settings
from qemushim.fromargv.secrets import opened_file
from qemushim.fromargv.storage import host_and_port
from qemushim.fromargv.syntax import Bag, UnreadableError

#: QEMU's cards beyond those that libvirt names
_OTHER_CARDS = (
    *("ne2k_pci", "ne2k_isa", "pcnet", "i82551", "i82557b", "i82559er", "i82559c", "e1000-82544gc"),
    *("e1000-82545em", "tulip", "sungem", "sunhme", "idontexist", "i82550", "i82562", "i82801", "i82559a"),
)
CARDS = frozenset({*KNOWN_MODELS, *_OTHER_CARDS} - {"virtio", "vlance", "vmxnet", "vmxnet2"})
#: model= of -nic and -net → QEMU's device
_NIC_MODELS = {"virtio": "virtio-net-pci", "virtio-net": "virtio-net-pci"}
#: QEMU's own network for its guests
_DEFAULT_NET = "10.0.2.0/24"


def is_card(driver: str) -> bool:
    return split_driver(driver)[0] == "virtio-net" or driver in CARDS


def read_card(line: Line, argument: Argument) -> None:
    """A card, and what it is connected to.  Raises ``UnreadableError``."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    base, _, model = split_driver(driver)
    node = Node("interface", {"type": "user"})
    used = [argument]
    mac = bag.take("mac")
    found = _end_of(line, bag)
    used.append(found)
    put(node, "mac/@address", mac or line.buses.generated_mac())
    is_virtio = base == "virtio-net"
    read_backend(line, line.use(found), node, used, is_virtio=is_virtio and not line.dialect.old)
    node.ensure("model").set("type", (model or "virtio") if is_virtio else driver)
    if is_virtio:
        _virtio(bag, node)
    if driver == "usb-net":
        usb_place(line, bag, node)
    else:
        place(line, bag, node)
    line.finish(bag, node, *used)


def _end_of(line: Line, bag: Bag) -> Argument:
    """What a card is connected to: by the id of a ``-netdev``, before QEMU 2.12 by the number of a ``vlan``."""
    netdev, vlan = bag.take("netdev"), bag.take("vlan")
    if netdev is not None:
        return line.find(("-netdev",), netdev)
    for end in line.all("-net"):
        if end.bag.peek("type") != "nic" and (end.bag.peek("vlan") or "0") == (vlan or "0"):
            end.bag.drop("vlan", "name")
            return end
    raise UnreadableError("a card that is connected to nothing")


def _virtio(bag: Bag, node: Node) -> None:
    """What only virtio cards have."""
    virtio_settings(bag, node)
    tx = {"bh": "iothread", "timer": "timer"}.get(bag.take("tx") or "")
    put(node, "driver/@txmode", tx)
    put(node, "driver/@ioeventfd", bag.switch("ioeventfd"))
    put(node, "driver/@event_idx", bag.switch("event_idx"))
    bag.drop("mq", "vectors")
    for attribute in ("rx_queue_size", "tx_queue_size"):
        put(node, f"driver/@{attribute}", bag.take(attribute))
    put(node, "driver/@rss", bag.switch("rss"))
    put(node, "driver/@rss_hash_report", bag.switch("hash"))
    for key, field in OFFLOADS:
        end, _, name = field.partition("_") if field != "mrg_rxbuf" and "_" in field else ("host", "", field)
        put(node, f"driver/{end}/@{name}", bag.switch(key))
    put(node, "mtu/@size", bag.take("host_mtu"))
    if bag.switch("failover"):
        put(node, "teaming/@type", "persistent")


# -- back ends --------------------------------------------------------------------------------------


def read_backend(line: Line, bag: Bag, node: Node, used: list[Argument], *, is_virtio: bool) -> None:
    """``-netdev`` into an interface: its type and what it is connected to."""
    kind = bag.take("type") or ""
    reader = _BACK_ENDS.get(kind)
    if reader is None:
        raise UnreadableError(f"-netdev {kind}")
    bag.drop("id")
    reader(line, bag, node, used, is_virtio)
    if bag.pairs:
        raise UnreadableError(f"-netdev {kind}: {', '.join(bag.keys)}")


def _tap(line: Line, bag: Bag, node: Node, used: list[Argument], is_virtio: bool) -> None:
    fds = [fd for key in ("fd", "fds") for fd in (bag.take(key) or "").split(":") if fd]
    vhost = bag.switch("vhost")
    if line.dialect.old:
        is_virtio = False
    bag.drop("vhostfd", "vhostfds", "vhostforce")
    name = bag.take("ifname")
    script, downscript = bag.take("script"), bag.take("downscript")
    bridge, helper = bag.take("br"), bag.take("helper")
    queues = bag.number("queues") or len(fds)
    put(node, "tune/sndbuf", bag.take("sndbuf"))
    _connect(line, node, fds, name, bridge)
    if (bridge or helper) and node.get("type") == "ethernet":
        line.bridge(node, bridge or "br0", bag)
    for tag, path in (("script", script), ("downscript", downscript)):
        if path not in (None, "no") and node.get("type") == "ethernet":
            put(node, f"{tag}/@path", path)
    if (is_virtio and vhost is False) or (is_virtio and vhost is None):
        put(node, "driver/@name", "qemu")
    if queues > 1:
        put(node, "driver/@queues", queues)


def _connect(line: Line, node: Node, fds: list[str], name: str | None, bridge: str | None) -> None:
    """Which kind of tap it is: the command line knows a descriptor or a name, the host what it is connected to."""
    node.set("type", "ethernet")
    if bridge is not None:
        line.bridge(node, bridge)
        return
    number = int(fds[0]) if fds and fds[0].isdigit() and len(fds[0]) < 8 else -1
    known = line.known_host.networks.get(number)
    if known is not None:
        node.set("type", known[0])
        node.append(Node("source", dict(known[1])))
        return
    if name is not None:
        node.append(Node("target", {"dev": name, "managed": "no"}))
    if fds:
        line.note(
            "read",
            "a tap device by its descriptor: what it is connected to is not on the command line; "
            "type='ethernet' is neither a bridge nor a network",
        )


def _bridge(line: Line, bag: Bag, node: Node, used: list[Argument], is_virtio: bool) -> None:
    bag.drop("helper")
    line.bridge(node, bag.take("br") or "br0")
    if is_virtio:
        put(node, "driver/@name", "qemu")


def _user(line: Line, bag: Bag, node: Node, used: list[Argument], is_virtio: bool) -> None:
    node.set("type", "user")
    net, prefix = bag.take("net"), bag.take("ipv6-prefix")
    length = bag.take("ipv6-prefixlen")
    if net is not None and net != _DEFAULT_NET:
        address, _, bits = net.partition("/")
        node.add("ip", {"family": "ipv4", "address": address, **({"prefix": _prefix(bits)} if bits else {})})
    if prefix is not None:
        node.add("ip", {"family": "ipv6", "address": prefix, **({"prefix": length} if length else {})})
    for key in ("ipv4", "ipv6"):
        if bag.peek(key) == "on":
            bag.drop(key)
    forwards = bag.texts("hostfwd")
    if forwards and not line.dialect.passt:
        raise UnreadableError("ports are forwarded by passt, which this QEMU can not be connected to")
    if forwards:
        node.add("backend", {"type": "passt"})
        for forward in forwards:
            _forward(node, forward)
        line.note(
            "changed",
            f"hostfwd={forwards[0]}: libvirt forwards ports with passt (QEMU 7.2), which has to be installed; "
            "the guest gets the host's own address",
        )


def _prefix(bits: str) -> str:
    """``24`` or ``255.255.255.0``."""
    if "." not in bits:
        return bits
    try:
        return str(ipaddress.IPv4Network(f"0.0.0.0/{bits}").prefixlen)
    except ValueError:
        raise UnreadableError(f"{bits} is no network mask") from None


def _forward(node: Node, text: str) -> None:
    """``tcp:HOSTADDR:HOSTPORT-GUESTADDR:GUESTPORT`` as ``<portForward>``.  Raises ``UnreadableError``."""
    outer, dash, inner = text.partition("-")
    protocol, _, rest = outer.partition(":")
    address, port = host_and_port(rest)
    _guest, _, guest_port = inner.rpartition(":")
    if protocol not in ("tcp", "udp", "") or not dash or not port.isdigit() or not guest_port.isdigit():
        raise UnreadableError(f"hostfwd={text}")
    forward = Node("portForward", {"proto": protocol or "tcp"})
    if address:
        forward.set("address", address)
    span = forward.add("range", {"start": port})
    if guest_port != port:
        span.set("to", guest_port)
    node.append(forward)


def _socket(line: Line, bag: Bag, node: Node, used: list[Argument], is_virtio: bool) -> None:
    kinds = {"listen": "server", "connect": "client", "mcast": "mcast", "udp": "udp"}
    key = next((name for name in kinds if bag.has(name)), None)
    if key is None:
        raise UnreadableError("-netdev socket with a descriptor")
    node.set("type", kinds[key])
    address, port = host_and_port(bag.take(key) or "")
    source = node.add("source", {"address": address.strip(":"), "port": port})
    if not source.get("address"):
        source.drop("address")
    local = bag.take("localaddr")
    if local is not None:
        if key != "udp":
            raise UnreadableError("-netdev socket,mcast with localaddr")
        address, port = host_and_port(local)
        source.add("local", {"address": address, "port": port})


def _vhost_user(line: Line, bag: Bag, node: Node, used: list[Argument], is_virtio: bool) -> None:
    chardev = line.find(("-chardev",), bag.take("chardev"))
    used.append(chardev)
    node.set("type", "vhostuser")
    queues = bag.number("queues") or 1
    path = chardev.bag.was("path") or ""
    if "/passt/" in path:
        line.use(chardev)
        node.add("source", {"type": "unix", "path": path, "mode": "client"})
        node.discard("source")
        node.add("backend", {"type": "passt"})
    else:
        source = unix_source(line, chardev)
        source.attrib.setdefault("mode", "client")
        node.append(source)
    if queues > 1:
        put(node, "driver/@queues", queues)


def _vdpa(line: Line, bag: Bag, node: Node, used: list[Argument], is_virtio: bool) -> None:
    node.set("type", "vdpa")
    node.add("source", {"dev": opened_file(line, bag.take("vhostdev") or "")})
    queues = bag.number("queues") or 1
    if queues > 1:
        put(node, "driver/@queues", queues)


def _stream(line: Line, bag: Bag, node: Node, used: list[Argument], is_virtio: bool) -> None:
    """passt, which libvirt talks to over a socket of its own."""
    path = bag.take("addr.path") or ""
    server = bag.switch("server")
    if bag.take("addr.type") != "unix" or server or "/passt/" not in path:
        raise UnreadableError("-netdev stream that is not libvirt's passt")
    bag.drop("reconnect-ms", "reconnect")
    node.set("type", "user")
    node.add("backend", {"type": "passt"})


_BACK_ENDS: dict[str, Callable[[Line, Bag, Node, list[Argument], bool], None]] = {
    "bridge": _bridge,
    "socket": _socket,
    "stream": _stream,
    "tap": _tap,
    "user": _user,
    "vhost-user": _vhost_user,
    "vhost-vdpa": _vdpa,
}

# -- legacy spellings -------------------------------------------------------------------------------

#: properties of -nic and -net nic that are the card's
_CARD_KEYS = {"macaddr": "mac", "mac": "mac", "addr": "addr", "bootindex": "bootindex"}


def read_nics(line: Line) -> None:
    """``-nic``, ``-net nic`` with ``-net user`` and the like; where none is given QEMU has a card of its own."""
    given = line.all("-nic", "-net", "-netdev")
    line.read_each("-nic", _read_nic)
    _read_net(line)
    if line.has_defaults and not given and _usual_card(line):
        _default_card(line)


def _default_card(line: Line) -> None:
    model = _usual_card(line)
    node = Node("interface", {"type": "user"})
    put(node, "mac/@address", line.buses.generated_mac())
    put(node, "model/@type", model or None)
    if line.board.is_x86 or line.board.is_arm_virt:
        line.buses.wait_for_slot(node, rank=1)
    line.add(node)
    line.note("read", f"QEMU has a network card where none is named: {model}, with user networking")


def _read_nic(line: Line, argument: Argument, bag: Bag) -> None:
    if bag.peek("type") == "none":
        bag.pairs = []
        return
    node = Node("interface", {"type": "user"})
    card = _take_card(line, bag)
    used = [argument]
    put(node, "mac/@address", card["mac"])
    read_backend(line, bag, node, used, is_virtio=card["model"].startswith("virtio"))
    _finish_nic(line, node, card, used)


def _usual_card(line: Line) -> str:
    """The card that a machine has where none is named; ``""``: its QEMU decides."""
    if line.dialect.old:
        return ""
    board = line.board
    if board.is_pseries:
        return "spapr-vlan"
    if board.is_x86 and board.machine != "microvm":
        return "e1000e" if board.is_q35 else "e1000"
    has_one = board.is_arm_virt or board.is_riscv_virt or board.is_loongarch_virt or board.is_ccw
    return "virtio" if has_one else ""


def _take_card(line: Line, bag: Bag) -> dict[str, str]:
    """What -nic says of the card itself."""
    model = bag.take("model") or _usual_card(line)
    mac = bag.take("mac", "macaddr") or line.buses.generated_mac()
    bag.drop("vlan", "name", "vectors")
    return {"model": model, "mac": mac, "addr": bag.take("addr") or ""}


def _finish_nic(line: Line, node: Node, card: dict[str, str], used: list[Argument]) -> None:
    model = card["model"]
    base = split_driver(_NIC_MODELS.get(model, model))[0]
    put(node, "model/@type", "virtio" if base == "virtio-net" else model or None)
    if card["addr"] and line.board.has_pci:
        bag = used[0].bag
        pci_place(line, Bag(bag.what, bag.place, [("addr", card["addr"])]), node)
    elif line.board.has_pci and not line.board.is_ccw:
        line.buses.wait_for_slot(node, rank=1)
    line.add(node, *used)


def _read_net(line: Line) -> None:
    """``-net nic`` and ``-net user`` (``tap``, ``socket``, ``bridge``), joined by QEMU's hub (``vlan=``)."""
    arguments = line.all("-net")
    if not arguments:
        return
    hubs: dict[str, tuple[list[Argument], list[Argument]]] = {}
    for argument in arguments:
        kind = argument.bag.peek("type")
        if kind == "none":
            line.use(argument)
            continue
        cards, ends = hubs.setdefault(argument.bag.peek("vlan") or "0", ([], []))
        if argument.bag.peek("netdev") and kind == "nic":
            line.read_one(argument, _read_board_card)
        else:
            (cards if kind == "nic" else ends).append(argument)
    for cards, ends in hubs.values():
        for number, card in enumerate(cards):
            end = ends[number] if number < len(ends) else ends[-1] if ends else None
            line.read_one(card, _hub(end))


def drop_unused(line: Line) -> None:
    """``-net`` ends that no card is on."""
    for end in line.all("-net"):
        if end.bag.peek("type") != "nic":
            line.use(end)
            line.note("lost", "-net without a network card: the guest sees nothing of it", end)


def _hub(end: Argument | None) -> Callable[[Line, Argument, Bag], None]:
    """A reader of a ``-net nic``, which is connected to another ``-net``."""

    def read(line: Line, card: Argument, bag: Bag) -> None:
        node = Node("interface", {"type": "user"})
        bag.drop("type")
        found = _take_card(line, bag)
        put(node, "mac/@address", found["mac"])
        if end is None:
            raise UnreadableError("-net nic that is connected to nothing")
        if end.read:
            end.bag.reset()
        other = line.use(end)
        other.drop("vlan", "name")
        used = [card, end]
        read_backend(line, other, node, used, is_virtio=found["model"].startswith("virtio"))
        if bag.pairs:
            raise UnreadableError(f"-net nic: {', '.join(bag.keys)}")
        _finish_nic(line, node, found, used)

    return read


def _read_board_card(line: Line, argument: Argument, bag: Bag) -> None:
    """``-net nic,netdev=``: a card that is part of the board."""
    bag.drop("type", "id")
    node = Node("interface", {"type": "user"})
    put(node, "mac/@address", bag.take("macaddr") or line.buses.generated_mac())
    found = line.find(("-netdev",), bag.take("netdev"))
    used = [argument, found]
    model = bag.take("model")
    read_backend(line, line.use(found), node, used, is_virtio=False)
    put(node, "model/@type", model)
    if bag.pairs:
        raise UnreadableError(f"-net nic: {', '.join(bag.keys)}")
    line.add(node, *used)
