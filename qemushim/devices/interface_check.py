"""What is wrong with an ``<interface>`` whatever the machine, the emulator and the host are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.document.node import Node
from qemushim.document.units import ip_version
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.devices.interface import Interface, Ip

#: interface type → attributes of ``<source>`` that it can not do without
_REQUIRED = {
    "bridge": ("bridge",),
    "direct": ("dev",),
    "internal": ("name",),
    "network": ("network",),
    "vdpa": ("dev",),
}
#: interface type → attributes that its socket can not do without
_SOCKET_REQUIRED = {
    "client": ("port", "address"),
    "mcast": ("port", "address"),
    "server": ("port",),
    "udp": ("port", "address"),
}


def check_document(interface: Interface) -> None:
    """Raise ``ConfigError`` where the element contradicts itself or lacks what its type needs."""
    node, mac, model = interface.node, interface.mac, interface.model
    if mac is not None and int(mac[:2], 16) & 1:
        raise error.xml(f"expected unicast mac address, found multicast '{mac}'", node)
    _check_source(interface)
    if model is not None and not (model.replace("-", "").replace("_", "").isalnum() and model.isascii()):
        raise error.xml("Model name contains invalid characters", node)
    for ip in (*interface.ips, *interface.host_end.ips):
        _check_ip(ip)
    if len(interface.vlan_tags) > 1 and interface.vlan_trunk is False:
        raise error.xml(
            "invalid \"trunk='no'\" in <vlan> - trunk='yes' is required for more than one vlan tag", node
        )


def _check_source(interface: Interface) -> None:
    kind, source = interface.type, interface.host_end.node
    for attribute in _REQUIRED.get(kind, ()):
        if not source.get(attribute):
            raise error.xml(f"Missing required attribute '{attribute}' in element 'source'", source)
    for attribute in _SOCKET_REQUIRED.get(kind, ()):
        if not source.get(attribute):
            raise error.xml(f"No <source> '{attribute}' attribute specified with socket interface", source)
    if kind == "vhostuser" and interface.backend != "passt":
        _check_socket(source)


def _check_socket(source: Node) -> None:
    if source.get("type", "unix") != "unix":
        kind = source.get("type")
        raise error.unsupported(f"Type='{kind}' unsupported for <interface type='vhostuser'>", source)
    if not source.get("path"):
        raise error.xml("No <source> 'path' attribute specified with <interface type='vhostuser'/>", source)
    if source.get("mode") not in ("client", "server"):
        raise error.xml(
            "Wrong <source> 'mode' attribute specified with <interface type='vhostuser'/>",
            source,
            "'client' or 'server'",
        )


def _check_ip(ip: Ip) -> None:
    try:
        version = ip_version(ip.address or "")
    except ValueError:
        raise error.xml(f"Invalid IP address '{ip.address or ''}' in <ip>", ip.node) from None
    if ip.family is not None and ip.family != f"ipv{version}":
        raise error.xml(f"family='{ip.family}' does not match address '{ip.address}'", ip.node)
