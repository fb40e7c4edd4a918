"""``<interface>``: a network card and what it is connected to.

https://libvirt.org/formatdomain.html#network-interfaces
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from qemushim.board import Board
from qemushim.command.option import Option
from qemushim.devices.address import TYPES as ADDRESS_TYPES
from qemushim.devices.address import Address
from qemushim.devices.base import Device
from qemushim.devices.interface_check import check_document, check_interface
from qemushim.devices.netdev import SUPPORTED_TYPES, interface_arguments
from qemushim.document.fields import (
    Choice,
    Field,
    Integer,
    Long,
    Many,
    One,
    OnOff,
    Positive,
    Switch,
    Text,
    Unsigned,
)
from qemushim.document.item import Item, Schema
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned, plain_address
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Context, Define
    from qemushim.host import Host

TYPES = (
    *("user", "ethernet", "vhostuser", "server", "client", "mcast", "network", "bridge", "internal"),
    *("direct", "hostdev", "udp", "vdpa", "null", "vds"),
)
#: types whose tap may be opened through another device file than the usual one
_CUSTOM_TAP_TYPES = ("network", "bridge", "ethernet")
#: types whose traffic libvirt can filter
_FILTERED_TYPES = ("ethernet", "network", "bridge")

#: models that are spelled one way, however a document spells them
KNOWN_MODELS = (
    *("netfront", "rtl8139", "virtio", "e1000", "e1000e", "igb", "virtio-transitional"),
    *("virtio-non-transitional", "usb-net", "spapr-vlan", "lan9118", "scm91c111", "vlance", "vmxnet"),
    *("vmxnet2", "vmxnet3", "Am79C970A", "82540EM", "82545EM", "82543GC"),
)
_MODEL_SPELLINGS = {model.lower(): model for model in KNOWN_MODELS}
#: what a guest gets that has no better choice, in order of preference
_DEFAULT_CARDS = (("rtl8139", "rtl8139"), ("e1000", "e1000"), ("virtio-net-pci", "virtio"))

#: interface type → attributes of ``<source>`` that it has
_SOURCE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "bridge": ("bridge",),
    "client": ("address", "port"),
    "direct": ("dev", "mode"),
    "internal": ("name",),
    "mcast": ("address", "port"),
    "network": ("network", "portgroup"),
    "server": ("address", "port"),
    "udp": ("address", "port"),
    "user": ("dev",),
    "vdpa": ("dev",),
    "vds": ("switchid", "portid", "portgroupid", "connectionid"),
    "vhostuser": ("type", "path", "mode", "dev"),
}
#: interface type → children of ``<source>`` that it has
_SOURCE_CHILDREN: dict[str, tuple[str, ...]] = {
    "ethernet": ("ip", "route"),
    "hostdev": ("address",),
    "udp": ("local",),
    "vhostuser": ("reconnect",),
}
#: QEMU's own limit of queues of a tap device
MAX_QUEUES = 1024
#: names of host devices that libvirt makes up; what a document has of them is of an earlier start
_GENERATED_NAMES = ("vnet", "macvtap", "macvlan")


_MAC_LENGTH = len("52:54:00:12:34:56")


@lru_cache(1024)
def _canonical_mac(raw: str) -> str:
    parts = raw.split(":")
    if len(parts) != 6 or any(not 1 <= len(part) <= 2 for part in parts):
        raise ValueError(raw)
    return ":".join(f"{int(part, 16):02x}" for part in parts)


class Mac(Field[Any]):
    """A MAC address: six bytes, written with two digits each."""

    def read(self, raw: str) -> str:
        if len(raw) > _MAC_LENGTH:
            raise ValueError(raw)
        return _canonical_mac(raw)

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.xml(f"unable to parse mac address '{raw}'", place, "such as 52:54:00:12:34:56")


class Ip(Item):
    """``<ip>``: an address of the guest (or, in ``<source>``, of the host's end)."""

    tag = "ip"

    address = Text("@address")
    family = Choice("@family", ("ipv4", "ipv6"))
    prefix = Unsigned("@prefix", 0).says("Invalid prefix value '{}' in <ip>", "XML error")
    peer = Text("@peer")


class Route(Item):
    tag = "route"

    family = Choice("@family", ("ipv4", "ipv6"))
    address = Text("@address")
    netmask = Text("@netmask")
    prefix = Unsigned("@prefix")
    gateway = Text("@gateway")
    metric = Positive("@metric")


class HostDevice(Address):
    """``<address>`` of a card of the host; what it is of another type of interface is not looked at."""

    type = Choice("@type", ADDRESS_TYPES)


class NetSource(Item):
    """``<source>``: what the host's end is connected to, in terms of the type."""

    tag = "source"

    network = Text("@network")
    portgroup = Text("@portgroup")
    kind = Text("@type")
    path = Text("@path")
    bridge = Text("@bridge")
    name = Text("@name")
    address = Text("@address")
    port = Integer("@port").later()
    dev = Text("@dev")
    mode = Choice("@mode", ("vepa", "private", "bridge", "passthrough", "server", "client")).later()
    local_address = Text("local/@address")
    local_port = Unsigned("local/@port")
    host_device = One("address", HostDevice)
    switch_id = Text("@switchid")
    port_id = Long("@portid").later()
    port_group = Text("@portgroupid")
    connection_id = Long("@connectionid").later()
    ips = Many("ip", Ip)
    routes = Many("route", Route)
    reconnect_enabled = Switch("reconnect/@enabled")
    reconnect_timeout = Unsigned("reconnect/@timeout", 0)


class VlanTag(Item):
    tag = "tag"

    id = Unsigned("@id", required=True)
    native = Choice("@nativeMode", ("tagged", "untagged"))


class PortRange(Item):
    tag = "range"

    start = Positive("@start")
    end = Positive("@end")
    to = Positive("@to")
    exclude = Switch("@exclude")


class PortForward(Item):
    """``<portForward>``: ports of the host that lead into the guest."""

    tag = "portForward"

    proto = Choice("@proto", ("tcp", "udp"), required=True)
    address = Text("@address")
    dev = Text("@dev")
    ranges = Many("range", PortRange)


class FilterParameter(Item):
    tag = "parameter"

    name = Text("@name")
    value = Text("@value")


class NetDriver(Item):
    """``<driver>`` of a virtio card, and what it may leave to the host or the guest."""

    tag = "driver"

    name = Choice("@name", ("qemu", "vhost"))
    txmode = Choice("@txmode", ("iothread", "timer"))
    ioeventfd = OnOff("@ioeventfd")
    event_idx = OnOff("@event_idx")
    queues = Unsigned("@queues", 0)
    rx_queue_size = Unsigned("@rx_queue_size", 0)
    tx_queue_size = Unsigned("@tx_queue_size", 0)
    rss = OnOff("@rss")
    rss_hash_report = OnOff("@rss_hash_report")
    iommu = OnOff("@iommu")
    ats = OnOff("@ats")
    packed = OnOff("@packed")
    page_per_vq = OnOff("@page_per_vq")
    host_csum = OnOff("host/@csum")
    host_gso = OnOff("host/@gso")
    host_tso4 = OnOff("host/@tso4")
    host_tso6 = OnOff("host/@tso6")
    host_ecn = OnOff("host/@ecn")
    host_ufo = OnOff("host/@ufo")
    mrg_rxbuf = OnOff("host/@mrg_rxbuf")
    guest_csum = OnOff("guest/@csum")
    guest_tso4 = OnOff("guest/@tso4")
    guest_tso6 = OnOff("guest/@tso6")
    guest_ecn = OnOff("guest/@ecn")
    guest_ufo = OnOff("guest/@ufo")


class HostDriver(Item):
    """``<driver>`` of a card of the host: how the host lets go of it."""

    tag = "driver"

    name = Choice("@name", ("kvm", "vfio", "xen"))
    model = Text("@model")


class Frames(Unsigned["int | None"]):
    """How many frames may wait for one interrupt."""

    def __init__(self, path: str) -> None:
        super().__init__(path)

    def read(self, raw: str) -> int:
        return super().read(raw) if raw else 0

    def wrong(self, raw: str, place: Node) -> ConfigError:
        try:
            parse_unsigned(raw)
        except ValueError:
            return error.plain(f"cannot parse value '{raw}' for coalesce parameter", place, self.advice())
        most = (1 << self.bits) - 1
        message = f"value '{raw}' is too big for coalesce parameter, maximum is '{most}'"
        return error.plain(f"numerical overflow: {message}", place, self.advice())


class Interface(Device):
    """``<interface>``"""

    tag = "interface"
    unused = ()

    type = Choice("@type", TYPES, "user")
    managed = Switch("@managed").later()
    trust_rx_filters = Switch("@trustGuestRxFilters")
    mac = Mac("mac/@address")
    mac_type = Choice("mac/@type", ("generated", "static"))
    mac_check = Switch("mac/@check")
    source = One("source", NetSource)
    vlan_trunk = Switch("vlan/@trunk")
    vlan_tags = Many("vlan/tag", VlanTag)
    port_profile = Choice(
        "virtualport/@type", ("none", "802.1Qbg", "802.1Qbh", "openvswitch", "midonet")
    ).says("unknown virtualport type {}")
    managerid = Unsigned("virtualport/parameters/@managerid")
    typeid = Unsigned("virtualport/parameters/@typeid")
    typeidversion = Unsigned("virtualport/parameters/@typeidversion")
    instanceid = Text("virtualport/parameters/@instanceid")
    interfaceid = Text("virtualport/parameters/@interfaceid")
    profileid = Text("virtualport/parameters/@profileid")
    inbound_average = Long("bandwidth/inbound/@average")
    inbound_peak = Long("bandwidth/inbound/@peak")
    inbound_floor = Long("bandwidth/inbound/@floor")
    inbound_burst = Unsigned("bandwidth/inbound/@burst")
    outbound_average = Long("bandwidth/outbound/@average")
    outbound_peak = Long("bandwidth/outbound/@peak")
    outbound_burst = Unsigned("bandwidth/outbound/@burst")
    isolated = Switch("port/@isolated")
    ips = Many("ip", Ip)
    routes = Many("route", Route)
    port_forwards = Many("portForward", PortForward)
    script = Text("script/@path")
    downscript = Text("downscript/@path")
    backenddomain = Text("backenddomain/@name")
    target = Text("target/@dev")
    target_managed = Switch("target/@managed")
    guest_name = Text("guest/@dev")
    guest_actual = Text("guest/@actual")
    model = Text("model/@type")
    net_driver = One("driver", NetDriver)
    backend = Choice("backend/@type", ("default", "passt"), "default")
    backend_tap = Text("backend/@tap")
    backend_vhost = Text("backend/@vhost")
    backend_log = Text("backend/@logFile")
    filter = Text("filterref/@filter")
    filter_parameters = Many("filterref/parameter", FilterParameter)
    sndbuf = Unsigned("tune/sndbuf").says("sndbuf must be a positive integer", "XML error")
    teaming = Choice("teaming/@type", ("persistent", "transient")).says("unknown teaming type '{}'")
    teaming_persistent = Text("teaming/@persistent")
    link = Choice("link/@state", ("", "up", "down")).says("unknown interface link state '{}'")
    mtu = Unsigned("mtu/@size").says("malformed mtu size", "XML error")
    coalesced_frames = Frames("coalesce/rx/frames/@max")

    __slots__ = ()

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        return _hostdev_schema() if node.attrib.get("type") == "hostdev" else cls.schema

    @property
    def driver(self) -> NetDriver | None:
        """The ``<driver>`` of a virtio card."""
        node = self.node.child("driver") if self.type != "hostdev" else None
        return None if node is None else NetDriver(node)

    # -- what it is ------------------------------------------------------------------------------

    def network_facts(self, host: Host) -> Mapping[str, Any]:
        """What the host says of the network that the interface is on; nothing for other types."""
        if self.type != "network":
            return {}
        return host.find_network(self.host_end.network or "") or {}

    def actual_type(self, host: Host) -> str:
        """The type, or that of the connection which the host's network gives."""
        return self.network_facts(host).get("type", "network") if self.type == "network" else self.type

    def is_hostdev(self, host: Host) -> bool:
        """Whether the guest gets a network card of the host itself."""
        return self.actual_type(host) == "hostdev"

    @property
    def host_end(self) -> NetSource:
        """The ``<source>``; an empty one where there is none."""
        return self.source or NetSource(Node("source", line=self.node.line))

    @property
    def is_virtio(self) -> bool:
        return self.model in ("virtio", "virtio-transitional", "virtio-non-transitional")

    @property
    def has_known_model(self) -> bool:
        return (self.model or "") in KNOWN_MODELS

    @property
    def queues(self) -> int:
        """Pairs of queues, 1 at least."""
        driver = self.driver
        return max(driver.queues, 1) if driver is not None else 1

    # -- definition ------------------------------------------------------------------------------

    def check_document(self, d: Define) -> None:
        check_document(self)

    def complete(self, d: Define) -> None:
        node = self.node
        self._complete_type(d)
        self._complete_mac(d)
        self._complete_source()
        self._complete_model(d)
        self._complete_port_profile(d)
        for ip in (*self.ips, *self.host_end.ips):
            _complete_ip(ip)
        if len(self.vlan_tags) > 1:
            self.vlan_trunk = True
        if (
            self.target is not None
            and self.target.startswith(_GENERATED_NAMES)
            and self.target_managed is not False
            and not d.live
        ):
            self.target = None
        if node.value("link/@state") == "":
            node.discard("link")
        if node.value("backend/@type") == "default":
            node.ensure("backend").drop("type")
        if not self.coalesced_frames:
            node.discard("coalesce")
        if self.type not in _FILTERED_TYPES:
            node.discard("filterref")
        for tag, value in (("mtu", self.mtu), ("filterref", self.filter), ("script", self.script)):
            if not value:
                node.discard(tag)

    def _complete_type(self, d: Define) -> None:
        self.type = self.type
        if self.type == "hostdev":
            self.managed = bool(self.managed)
            if not self.managed:
                self.managed = None
        else:
            self.node.drop("managed")
        # a QEMU without user networking of its own leaves it to passt
        if (
            self.type == "user"
            and self.backend == "default"
            and not d.emulator.qapi("netdev_add/arg-type/+user")
        ):
            self.backend = "passt"

    def _complete_mac(self, d: Define) -> None:
        if self.mac is None:
            interfaces = d.domain.all(Interface)
            number = next(i for i, one in enumerate(interfaces) if one.node is self.node)
            taken = {one.node.value("mac/@address") for one in interfaces}
            # a guest that had fewer or more interfaces may have used the number before
            tries = (
                d.host.new_mac(f"interface {n} of {d.domain.uuid}")
                for n in range(number, number + len(taken) + 1)
            )
            self.mac = next((mac for mac in tries if mac not in taken), None) or d.host.new_mac("interface")

    def _complete_source(self) -> None:
        kind, source = self.type, self.node.child("source")
        if source is None:
            source = Node("source", line=self.node.line)
        kept = _SOURCE_ATTRIBUTES.get(kind, ()) if kind != "user" or self.backend == "passt" else ()
        source.attrib = {name: value for name, value in source.attrib.items() if name in kept}
        source.children = [child for child in source.children if child.tag in _SOURCE_CHILDREN.get(kind, ())]
        if kind == "vds":
            for name in ("portid", "connectionid"):
                source.attrib.setdefault(name, "0")
        if kind == "direct" and source.get("mode") is None:
            source.set("mode", "vepa")
        address = source.child("address")
        if address is not None and kind == "hostdev" and address.get("type") is None:
            address.set("type", "pci")
        if not source.attrib and not source.children:
            self.node.discard("source")

    def _complete_model(self, d: Define) -> None:
        if not self.model:
            self.node.discard("model")
        if self.model is not None:
            self.model = _MODEL_SPELLINGS.get(self.model.lower(), self.model)
        if self.type == "hostdev":
            self._complete_host_driver()
        elif not self.is_virtio:
            # options are read before a card that is virtio by default is known to be one
            self.node.discard("driver")
        if self.model is None:
            self.model = default_model(self, d)
        if not self.is_virtio:
            self.backend_vhost = None
        driver = self.driver
        if driver is not None:
            for name in ("queues", "rx_queue_size", "tx_queue_size"):
                # one pair of queues is what every card has
                if getattr(driver, name) <= (name == "queues"):
                    driver.node.drop(name)

    def _complete_host_driver(self) -> None:
        driver = self.node.child("driver")
        if driver is None:
            return
        if driver.get("name") is None and driver.get("model") is None:
            self.node.remove(driver)
        elif driver.get("name") not in (None, "vfio"):
            raise error.unsupported(
                f"pci backend driver type '{driver.get('name')}' is not supported", driver, "name='vfio'"
            )

    def _complete_port_profile(self, d: Define) -> None:
        kind = self.port_profile
        if kind == "openvswitch" and self.interfaceid is None:
            self.interfaceid = d.host.new_uuid(f"interfaceid of {self.mac}")
        elif kind == "802.1Qbg" and self.typeid is not None and self.instanceid is None:
            self.instanceid = d.host.new_uuid(f"instanceid of {self.mac}")

    # -- checks ----------------------------------------------------------------------------------

    def check(self, d: Define) -> None:
        check_interface(self, d)
        if self.backend == "passt" and not d.emulator.qapi("netdev_add/arg-type/+stream"):
            raise error.unsupported(
                "the passt network backend is not supported with this QEMU binary",
                self.node,
                "QEMU 7.2 or newer",
            )
        if self.port_forwards and (self.backend != "passt" or self.type not in ("user", "vhostuser")):
            raise error.unsupported(
                "The <portForward> element can only be used with the 'passt' backend of interface "
                "type='user' or type='vhostuser'",
                self.node,
                "add <backend type='passt'/>",
            )
        if self.type == "vdpa" and not d.emulator.qapi("netdev_add/arg-type/+vhost-vdpa"):
            raise error.unsupported(
                "vDPA devices are not supported with this QEMU binary", self.node, "QEMU 5.1 or newer"
            )
        driver = self.driver
        if driver is None:
            return
        if driver.queues > MAX_QUEUES:
            raise error.unsupported(
                f"'{driver.queues}' queues are more than QEMU has for a network card",
                driver.node,
                f"up to {MAX_QUEUES}",
            )
        for name in ("rx_queue_size", "tx_queue_size"):
            size = getattr(driver, name)
            if size & (size - 1):
                raise error.unsupported(f"{name} has to be a power of two", driver.node, "such as 512")
        if (driver.rss or driver.rss_hash_report) and not d.emulator.flag("virtio-net.rss"):
            raise error.unsupported(
                "virtio rss is not supported with this QEMU binary",
                driver.node,
                "drop rss=, or QEMU 5.2 or newer",
            )

    def options(self, b: Build) -> Iterator[Option]:
        kind = self.actual_type(b.host)
        if kind != "hostdev" and kind not in SUPPORTED_TYPES:
            raise error.unsupported(
                f"interface type '{kind}' is not supported by QEMU",
                self.node,
                "another type, such as network or bridge",
            )
        if self.backend_tap and self.actual_type(b.host) not in _CUSTOM_TAP_TYPES:
            raise error.unsupported(
                f"interface {self.mac} - custom tap device path is not supported for network interfaces "
                f"of type {self.type}",
                self.node,
                "drop tap=",
            )
        if not self.is_hostdev(b.host):
            yield from interface_arguments(self, b)


@cache
def _hostdev_schema() -> Schema:
    """A card of the host is written with its driver before its source."""
    names = [name for name in Interface.fields if name != "net_driver"]
    at = names.index("source")
    host: Field[Any] = One("driver", HostDriver)
    fields = [Interface.fields[name] for name in names]
    return Schema.of([*fields[:at], host, *fields[at:]])


def default_model(interface: Interface, d: Define) -> str | None:
    """The card that a guest gets where none is named; ``None``: the card is one of the host."""
    if interface.type in ("vdpa", "vhostuser"):
        return "virtio"
    if interface.is_hostdev(d.host):
        return None
    by_board = _board_model(d.board)
    if by_board:
        return by_board
    return next((model for device, model in _DEFAULT_CARDS if d.emulator.has_device(device)), "rtl8139")


def _board_model(board: Board) -> str:
    if board.is_s390 or board.is_loongarch_virt or board.is_riscv_virt or board.is_arm_virt:
        return "virtio"
    if board.is_arm:
        return "scm91c111" if board.machine == "versatilepb" else "lan9118"
    return ""


def _complete_ip(ip: Ip) -> None:
    """The family follows from the address."""
    ip.address = plain_address(ip.address or "")
    ip.family = "ipv6" if ":" in ip.address else "ipv4"
    if not ip.prefix:
        ip.node.drop("prefix")


def hostdev_interfaces(c: Context) -> list[Interface]:
    """The interfaces that are network cards of the host, in document order."""
    return [interface for interface in c.domain.all(Interface) if interface.is_hostdev(c.host)]
