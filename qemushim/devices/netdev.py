"""The arguments of a network card: its back end (``-netdev``) and the card itself.

https://www.qemu.org/docs/master/system/devices/net.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import virtio_properties
from qemushim.devices.bootindex import boot_index, boot_loadparm
from qemushim.devices.charsource import socket_chardev
from qemushim.devices.placement import address_properties, rom_properties, virtio_driver, zpci_options

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.devices.interface import Interface, NetDriver

Properties = dict[str, Value]

#: types whose back end is a tap device that libvirt opens
TAP_TYPES = ("network", "bridge", "ethernet", "direct")
#: seconds after which passt is tried again
PASST_RECONNECT = 5
#: field of ``<driver>`` → property of the card, for what may be left to the host or the guest
OFFLOADS = (
    ("csum", "host_csum"),
    ("gso", "host_gso"),
    ("host_tso4", "host_tso4"),
    ("host_tso6", "host_tso6"),
    ("host_ecn", "host_ecn"),
    ("host_ufo", "host_ufo"),
    ("mrg_rxbuf", "mrg_rxbuf"),
    ("guest_csum", "guest_csum"),
    ("guest_tso4", "guest_tso4"),
    ("guest_tso6", "guest_tso6"),
    ("guest_ecn", "guest_ecn"),
    ("guest_ufo", "guest_ufo"),
)


def interface_arguments(interface: Interface, b: Build) -> Iterator[Option]:
    """The back end, then the card."""
    yield from _BACK_ENDS[interface.actual_type(b.host)](interface, b)
    yield from zpci_options(interface, b)
    yield _card(interface, b)


# -- back ends -------------------------------------------------------------------------------------


def _netdev(interface: Interface, b: Build, properties: Properties, rule: str) -> Option:
    return b.netdev({**properties, "id": f"host{interface.alias}"}, interface.node, rule)


def _many(name: str, numbers: list[int | str]) -> Properties:
    """``fd`` for one descriptor, ``fds`` for several."""
    if len(numbers) == 1:
        return {name: str(numbers[0])}
    return {f"{name}s": ":".join(map(str, numbers))}


def _tap(interface: Interface, b: Build) -> Iterator[Option]:
    kind, numbers = interface.actual_type(b.host), b.host.descriptors
    first = numbers.bridge if kind in ("network", "bridge") else numbers.tap
    queues = range(interface.queues)
    target = interface.target or ""
    taps = [b.pass_fd(_nth(first, queue), "tap", target, interface.alias) for queue in queues]
    properties: Properties = {"type": "tap", **_many("fd", taps)}
    if b.host.vhost_net and _wants_vhost(interface):
        path = interface.backend_vhost or "/dev/vhost-net"
        helpers = [b.pass_fd(_nth(numbers.vhost_net, q), "vhost-net", path, interface.alias) for q in queues]
        properties |= {"vhost": True, **_many("vhostfd", helpers)}
    properties["sndbuf"] = interface.sndbuf
    yield _netdev(interface, b, properties, "a tap device that libvirt opens")


def _nth(first: int | None, queue: int) -> int | None:
    return None if first is None else first + queue


def _wants_vhost(interface: Interface) -> bool:
    """Whether the host's kernel moves the packets: for virtio, unless the user wants QEMU to."""
    driver = interface.driver
    return interface.is_virtio and (driver is None or driver.name != "qemu")


def passt_socket(interface: Interface, b: Build) -> str:
    """Where the interface's passt listens."""
    return f"{b.host.paths.run}/passt/{b.short_name}-{interface.alias}.socket"


def _user(interface: Interface, b: Build) -> Iterator[Option]:
    if interface.backend == "passt":
        yield _netdev(interface, b, _passt_stream(interface, b), "user networking by passt")
        return
    if b.host.slirp_helper and not b.emulator.qapi("netdev_add/arg-type/+user"):
        fd = b.pass_fd(b.host.descriptors.slirp, "slirp", "", interface.alias)
        yield _netdev(interface, b, {"type": "socket", "fd": str(fd)}, "user networking by a helper")
        return
    properties: Properties = {"type": "user"}
    for ip in interface.ips:
        if ip.family == "ipv6":
            properties |= {"ipv6-prefix": ip.address, "ipv6-prefixlen": ip.prefix or None}
        else:
            properties["net"] = f"{ip.address}/{ip.prefix}" if ip.prefix else ip.address
    yield _netdev(interface, b, properties, "networking by QEMU itself, without rights on the host")


def _passt_stream(interface: Interface, b: Build) -> Properties:
    properties: Properties = {
        "type": "stream",
        "addr": {"type": "unix", "path": passt_socket(interface, b)},
        "server": False,
    }
    if b.emulator.qapi("netdev_add/arg-type/+stream/reconnect-ms"):
        properties["reconnect-ms"] = PASST_RECONNECT * 1000
    elif b.emulator.qapi("netdev_add/arg-type/+stream/reconnect"):
        properties["reconnect"] = PASST_RECONNECT
    return properties


def _internal(interface: Interface, b: Build) -> Iterator[Option]:
    yield _netdev(interface, b, {"type": "user"}, "networking by QEMU itself, without rights on the host")


def _socket(key: str) -> Callable[[Interface, Build], Iterator[Option]]:
    def options(interface: Interface, b: Build) -> Iterator[Option]:
        source = interface.host_end
        properties: Properties = {"type": "socket", key: f"{source.address or ''}:{source.port}"}
        if key == "udp":
            properties["localaddr"] = f"{source.local_address or ''}:{source.local_port}"
        yield _netdev(interface, b, properties, "a tunnel to another QEMU")

    return options


def _vhost_user(interface: Interface, b: Build) -> Iterator[Option]:
    source = interface.host_end
    chardev = f"char{interface.alias}"
    if interface.backend == "passt":
        path = passt_socket(interface, b)
        yield socket_chardev(b, chardev, path, interface.node, reconnect=PASST_RECONNECT)
    else:
        server = source.mode == "server"
        again = None
        if not server and source.reconnect_enabled is not None:
            again = source.reconnect_timeout if source.reconnect_enabled else 0
        yield socket_chardev(b, chardev, source.path or "", interface.node, server=server, reconnect=again)
    properties: Properties = {"type": "vhost-user", "chardev": chardev, "queues": _several(interface)}
    yield _netdev(interface, b, properties, "a switch in another process")


def _vdpa(interface: Interface, b: Build) -> Iterator[Option]:
    path = interface.host_end.dev or ""
    fd = b.pass_fd(b.host.descriptors.vdpa, "vhost-vdpa", path, interface.alias)
    fd_set = b.new_fd_set()
    yield b.add_fd(fd_set, fd, f"{interface.alias}-vdpa", interface.node)
    properties: Properties = {
        "type": "vhost-vdpa",
        "vhostdev": f"/dev/fdset/{fd_set}",
        "queues": _several(interface),
    }
    yield _netdev(interface, b, properties, "a card of the host that moves the packets itself")


def _several(interface: Interface) -> int | None:
    return interface.queues if interface.queues > 1 else None


#: (actual) interface type → what makes its back end
_BACK_ENDS: dict[str, Callable[[Interface, Build], Iterator[Option]]] = {
    **dict.fromkeys(TAP_TYPES, _tap),
    "client": _socket("connect"),
    "internal": _internal,
    "mcast": _socket("mcast"),
    "server": _socket("listen"),
    "udp": _socket("udp"),
    "user": _user,
    "vdpa": _vdpa,
    "vhostuser": _vhost_user,
}
#: types that QEMU has a back end for
SUPPORTED_TYPES = frozenset(_BACK_ENDS)


# -- the card --------------------------------------------------------------------------------------


def _card(interface: Interface, b: Build) -> Option:
    if b.board.is_arm and interface.address_type not in ("pci", "virtio-mmio"):
        # the board has a card built in, which is connected rather than added
        legacy = {
            "macaddr": interface.mac,
            "netdev": f"host{interface.alias}",
            "model": interface.model,
            "id": interface.alias,
        }
        return b.pairs("-net", "nic", legacy, interface.node, "the network card of the board")
    head: Properties = {"driver": interface.model}
    if interface.is_virtio:
        head = {"driver": virtio_driver("virtio-net", interface, b), **_virtio(interface)}
    return b.device(
        {
            **head,
            "netdev": f"host{interface.alias}",
            "id": interface.alias,
            "mac": interface.mac,
            "bootindex": boot_index(interface, b),
            "loadparm": boot_loadparm(interface, b),
            **address_properties(interface, b),
            **rom_properties(interface),
        },
        interface.node,
        f"a network card of model {interface.model}",
    )


def _virtio(interface: Interface) -> Properties:
    """What only virtio cards have."""
    found: Properties = dict(virtio_properties(interface))
    driver = interface.driver
    if driver is not None:
        found |= _driver_properties(driver)
    if interface.queues > 1:
        found["mq"] = True
        # two vectors for each pair of queues, one for configuration changes, one for control
        found["vectors"] = 2 * interface.queues + 2 if interface.address_type != "ccw" else None
    if driver is not None:
        found |= {
            "rx_queue_size": driver.rx_queue_size or None,
            "tx_queue_size": driver.tx_queue_size or None,
            "rss": driver.rss,
            "hash": driver.rss_hash_report,
        }
    found["host_mtu"] = interface.mtu or None
    found["failover"] = True if interface.teaming == "persistent" else None
    return found


def _driver_properties(driver: NetDriver) -> Properties:
    txmodes = {"iothread": "bh", "timer": "timer"}
    return {
        "tx": txmodes.get(driver.txmode or ""),
        "ioeventfd": driver.ioeventfd,
        "event_idx": driver.event_idx,
        **{name: getattr(driver, field) for name, field in OFFLOADS},
    }
