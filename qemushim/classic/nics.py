"""Network interfaces: defaults, the NIC, and what it is connected to on the host."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qemushim.classic.context import QEMU_0_10, Classic, ClassicBuild, Keys
from qemushim.classic.document import Interface
from qemushim.command.command import Descriptor
from qemushim.command.option import Option
from qemushim.errors import error

#: interface type → the attributes of its source
_SOURCES = {
    "bridge": ("bridge",),
    "client": ("address", "port"),
    "direct": ("dev", "mode"),
    "ethernet": ("dev",),
    "internal": ("name",),
    "mcast": ("address", "port"),
    "network": ("network",),
    "server": ("address", "port"),
    "user": (),
}
#: those without which there is no interface
_REQUIRED = {**_SOURCES, "direct": ("dev",), "ethernet": (), "server": ("port",)}
#: interface type → key of ``socket``
_SOCKETS = {"client": "connect", "server": "listen", "mcast": "mcast"}
#: types whose tap the caller opens and passes by number
_TAPS = ("bridge", "direct", "network")

_MODEL = re.compile("[A-Za-z0-9_]+")
_IFNAME = re.compile(r"[A-Za-z0-9_.:-]+")
#: names that libvirt itself gives to taps
_OWN_IFNAME = "vnet"
#: NIC models that plain QEMU 0.9.1 has not got
_NOT_IN_091 = ("e1000", "virtio")


# -- defaults ------------------------------------------------------------------------------------------------


def complete_interfaces(c: Classic) -> None:
    """Every interface's MAC, and nothing in its source but what its type has."""
    for number, interface in enumerate(c.domain.devices.interfaces):
        interface.mac = interface.mac or c.host.new_mac(f"interface {number} of {c.domain.uuid}")
        if interface.model and not _MODEL.fullmatch(interface.model):
            raise error.argument(
                "Model name contains invalid characters", interface.node, "letters, digits and _"
            )
        if interface.ifname.startswith(_OWN_IFNAME) or not _IFNAME.fullmatch(interface.ifname):
            interface.node.discard("target")
        _complete_source(interface)


def _complete_source(interface: Interface) -> None:
    kind = interface.type
    source = interface.node.child("source")
    if source is not None:
        source.attrib = {name: source.attrib[name] for name in _SOURCES[kind] if source.get(name)}
        source.children.clear()
        if not source.attrib:
            interface.node.remove(source)
            source = None
    for name in _REQUIRED[kind]:
        if source is None or name not in source.attrib:
            raise error.internal(
                f"No <source> '{name}' attribute specified with <interface type='{kind}'/>",
                interface.node,
                f"<source {name}='…'/>",
            )
    if kind == "direct" and interface.mode is None:
        interface.mode = "vepa"


# -- arguments -----------------------------------------------------------------------------------------------


def interface_options(b: ClassicBuild) -> Iterator[Option]:
    """The NICs, each with its back end, in the order of the document; where there is none, that is said."""
    interfaces = b.domain.devices.interfaces
    if not interfaces and not b.has("device"):
        yield b.option("-net", "none", None, "without it this QEMU makes a NIC")
    paired = b.has("device")
    for number, interface in enumerate(interfaces):
        if interface.model in _NOT_IN_091:
            what = f"NIC model '{interface.model}'"
            b.require(QEMU_0_10, what, interface.node, "use rtl8139, ne2k_pci or pcnet")
        netdev = paired and b.has("netdev")
        vlan: Keys = [] if netdev else [("vlan", number)]
        if not paired:
            yield _legacy_nic(b, interface, vlan)
            yield _back_end(b, interface, "-net", vlan)
        elif netdev:
            yield _back_end(b, interface, "-netdev", vlan)
            yield _nic_device(b, interface, vlan)
        else:
            yield _nic_device(b, interface, vlan)
            yield _back_end(b, interface, "-net", vlan)


def _legacy_nic(b: ClassicBuild, interface: Interface, vlan: Keys) -> Option:
    pairs = [
        ("macaddr", interface.mac),
        *vlan,
        ("model", interface.model or None),
        ("name", b.alias(interface) or None),
    ]
    return b.pairs("-net", pairs, interface.node, "a NIC, in a slot that QEMU chooses", head="nic")


def _nic_device(b: ClassicBuild, interface: Interface, vlan: Keys) -> Option:
    driver = {"": "rtl8139", "virtio": "virtio-net-pci"}.get(interface.model, interface.model)
    alias = b.alias(interface)
    link = vlan or [("netdev", f"host{alias}")]
    pairs = [*link, ("id", alias), ("mac", interface.mac), *b.place(interface)]
    return b.device(driver, pairs, interface.node, "the guest's side of an interface")


def _back_end(b: ClassicBuild, interface: Interface, flag: str, vlan: Keys) -> Option:
    """``-net HOST,…`` or ``-netdev HOST,…``"""
    alias = b.alias(interface)
    name = f"host{alias}" if alias else None
    head, keys = _host_side(b, interface)
    pairs: Keys = [*keys, *vlan, ("id" if flag == "-netdev" else "name", name)]
    if flag == "-netdev" and head == "tap":
        pairs += _vhost(b, interface)
    return b.pairs(flag, pairs, interface.node, "the host's side of an interface", head=head)


def _host_side(b: ClassicBuild, interface: Interface) -> tuple[str, Keys]:
    kind = interface.type
    if kind in _TAPS:
        number = b.next_descriptor(b.host.descriptors.tap, b.taps)
        b.taps += 1
        target = interface.network or interface.bridge or interface.dev or ""
        b.command.descriptors.append(Descriptor(number, "tap", target, b.alias(interface)))
        return "tap", [("fd", number)]
    if kind == "ethernet":
        return "tap", [("ifname", interface.ifname or None), ("script", interface.script)]
    if kind in _SOCKETS:
        return "socket", [(_SOCKETS[kind], f"{interface.peer}:{interface.port}")]
    # an internal network is one of other hypervisors
    return "user", []


def _vhost(b: ClassicBuild, interface: Interface) -> Keys:
    """The kernel's own back end, where the guest runs on KVM and the document does not ask for QEMU's."""
    capable = b.has("vnet-host") or b.has("vhost-net")
    refused = interface.node.value("driver/@name") == "qemu" or b.domain.type != "kvm"
    if not capable or refused or interface.type not in _TAPS or interface.model != "virtio":
        return []
    number = b.next_descriptor(b.host.descriptors.vhost_net, b.taps - 1)
    b.command.descriptors.append(Descriptor(number, "vhost-net", "/dev/vhost-net", b.alias(interface)))
    return [("vhost", True), ("vhostfd", number)]
