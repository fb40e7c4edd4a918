"""What is wrong with an ``<interface>``: refused in libvirt's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.sharedmem import require_shared_memory
from qemushim.document.node import Node
from qemushim.document.units import plain_address
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.devices.interface import Interface, Ip, Route

#: interface type → attributes of ``<source>`` that it can not do without
_REQUIRED = {
    "bridge": ("bridge",),
    "client": ("address", "port"),
    "direct": ("dev",),
    "internal": ("name",),
    "mcast": ("address", "port"),
    "network": ("network",),
    "server": ("port",),
    "udp": ("address", "port"),
    "vdpa": ("dev",),
    "vds": ("switchid",),
    "vhostuser": ("path",),
}
#: types that have an MTU, can be isolated from others on the bridge, have a port of a switch
_MTU_TYPES = ("network", "ethernet", "bridge", "vhostuser")
_ISOLATED_TYPES = ("network", "bridge")
_PORT_TYPES = ("network", "bridge", "direct", "hostdev")
#: type of virtual port → parameters that it can not do without
_PORT_PARAMETERS = {
    "802.1Qbg": ("managerid", "typeid", "typeidversion"),
    "802.1Qbh": ("profileid",),
    "midonet": ("interfaceid",),
}
#: lengths of network prefixes that QEMU's user networking takes
_USER_PREFIXES = range(4, 28)
_USER_PREFIX_V6 = 64
_LAST_VLAN = 4095


# -- whatever the machine, the emulator and the host are ----------------------------------------------


def check_document(interface: Interface) -> None:
    """Raise ``ConfigError`` where the element contradicts itself or lacks what its type needs."""
    node, mac, model = interface.node, interface.mac, interface.model
    if mac is not None and int(mac[:2], 16) & 1:
        message = f"expected unicast mac address, found multicast '{mac}'"
        raise error.xml(message, node, "the first byte is even: 52:54:00:…")
    _check_source(interface)
    if interface.port_profile is None and node.child("virtualport") is not None:
        _check_port_type(interface)
    if model and not (model.isascii() and model.replace("-", "a").replace("_", "a").isalnum()):
        raise error.argument("Model name contains invalid characters", node, "letters, digits, - and _")
    for ip in (*interface.ips, *interface.host_end.ips):
        _check_ip(ip)
    for route in interface.routes:
        _check_route(route, "guest interface")
    for route in interface.host_end.routes:
        _check_route(route, "interface host IP")
    for forward in interface.port_forwards:
        if forward.address is not None and not _is_address(forward.address):
            message = f"Invalid address '{forward.address}' in <portForward>"
            raise error.xml(message, forward.node, "an IP address of the host")
    _check_vlan(interface)
    _check_port(interface)


def _check_source(interface: Interface) -> None:
    kind, source = interface.type, interface.node.child("source")
    if kind == "hostdev":
        address = source.child("address") if source is not None else None
        if address is None or address.get("type") is None:
            message = "unknown host device source address type '(null)'"
            raise error.unsupported(message, interface.node, "<source><address type='pci' …/></source>")
        return
    required = _REQUIRED.get(kind, ())
    if kind == "vhostuser" and interface.backend == "passt":
        return
    if source is None and required and kind != "vhostuser":
        example = " ".join(f"{name}='…'" for name in required)
        message = f"interface type='{kind}' requires a 'source' element"
        raise error.xml(message, interface.node, f"<source {example}/>")
    end = interface.host_end
    for attribute in required:
        if end.node.get(attribute) is None:
            raise _missing(attribute, "source", end.node)
    if "port" in required:
        _ = end.port
    if kind == "direct" and end.mode in ("client", "server"):
        message = f"Invalid value for attribute 'mode' in element 'source': '{end.mode}'."
        raise error.xml(message, end.node, "one of: vepa, private, bridge, passthrough")
    if kind == "udp":
        local = end.node.child("local")
        if local is None:
            message = f"'<local>' element missing for '{kind}' socket interface"
            raise error.xml(message, end.node, "<local address='127.0.0.1' port='5000'/>")
        for attribute in ("address", "port"):
            if local.get(attribute) is None:
                raise _missing(attribute, "local", local)
    if kind == "vhostuser":
        _check_socket(end.node)


def _missing(attribute: str, tag: str, node: Node) -> ConfigError:
    message = f"Missing required attribute '{attribute}' in element '{tag}'"
    return error.xml(message, node, f"<{tag} {attribute}='…'/>")


def _check_socket(source: Node) -> None:
    kind, mode = source.get("type", "unix"), source.get("mode", "")
    if kind != "unix":
        message = f"Type='{kind}' unsupported for <interface type='vhostuser'>"
        raise error.unsupported(message, source, "type='unix'")
    if mode and mode not in ("client", "server"):
        message = "Wrong <source> 'mode' attribute specified with <interface type='vhostuser'/>"
        raise error.xml(message, source, "'client' or 'server'")
    reconnect = source.child("reconnect")
    if mode == "server" and reconnect is not None and reconnect.get("enabled") is not None:
        message = "'reconnect' attribute is not supported when source mode='server' for <interface type='vhostuser'>"
        raise error.unsupported(message, reconnect, "mode='client', or no <reconnect>")


def _is_address(text: str) -> bool:
    try:
        plain_address(text)
    except ValueError:
        return False
    return True


def _check_ip(ip: Ip) -> None:
    address = ip.address
    if address is None:
        raise error.xml("Missing required address in <ip>", ip.node, "address='10.0.2.15'")
    try:
        version = 6 if ":" in plain_address(address) else 4
    except ValueError:
        version = 0
    if ip.family not in (None, f"ipv{version}") or not version:
        message = f"Invalid address '{address}' in <ip>"
        raise error.xml(message, ip.node, "an IP address of the family that is named")
    if ip.prefix > (128 if version == 6 else 32):
        raise error.xml(f"Invalid prefix value '{ip.prefix}' in <ip>", ip.node, "bits of the network's part")
    if ip.peer is not None and not _is_address(ip.peer):
        raise error.argument(f"Invalid peer '{ip.peer}' in <ip>", ip.node, "an IP address")


def _check_route(route: Route, where: str) -> None:
    """A route is a network and the gateway to it."""
    node = route.node

    def fail(words: str, hint: str) -> ConfigError:
        return error.xml(f"{where}: {words} in route definition", node, hint)

    if route.address is None:
        raise fail("Missing required address attribute", "address='10.0.0.0' prefix='8' gateway='…'")
    if route.gateway is None:
        raise fail("Missing required gateway attribute", "gateway='10.0.2.2'")
    given = (("network", route.address), ("netmask", route.netmask), ("gateway", route.gateway))
    for what, address in given:
        if address is not None and not _is_address(address):
            raise fail(f"Bad {what} address '{address}'", "an IP address")
    if route.netmask is not None and route.prefix is not None:
        message = f"{where}: Route definition cannot have both a prefix and a netmask"
        raise error.xml(message, node, "drop one of the two")


def _check_vlan(interface: Interface) -> None:
    vlan = interface.node.child("vlan")
    if vlan is None:
        return
    if not interface.vlan_tags:
        message = "missing tag id - each <vlan> must have at least one <tag id='n'/> subelement"
        raise error.xml(message, vlan, "<tag id='42'/>")
    for tag in interface.vlan_tags:
        if (tag.id or 0) > _LAST_VLAN:
            message = f"vlan tag id {tag.id} too large (maximum {_LAST_VLAN})"
            raise error.xml(message, tag.node, f"1 to {_LAST_VLAN}")
    if len(interface.vlan_tags) > 1 and interface.vlan_trunk is False:
        message = "invalid \"trunk='no'\" in <vlan> - trunk='yes' is required for more than one vlan tag"
        raise error.xml(message, vlan, "trunk='yes'")


def _check_port_type(interface: Interface) -> None:
    """A port of a switch says of which kind the switch is."""
    if interface.type in _PORT_TYPES and interface.type != "network":
        node = interface.node.child("virtualport")
        raise error.xml("missing required virtualport type", node, "type='openvswitch'")


def _check_port(interface: Interface) -> None:
    node = interface.node.child("virtualport")
    if node is None:
        return
    if interface.type not in _PORT_TYPES:
        message = f"<virtualport> element unsupported for <interface type='{interface.type}'>"
        raise error.unsupported(message, node, f"one of: {', '.join(_PORT_TYPES)}")
    kind = interface.port_profile or ""
    for name in _PORT_PARAMETERS.get(kind, ()) if interface.type != "network" else ():
        if node.value(f"parameters/@{name}") is None:
            raise error.xml(
                f"missing {name} in <virtualport type='{kind}'>", node, f"<parameters {name}='…'/>"
            )


# -- with what there is -------------------------------------------------------------------------------


def check_interface(interface: Interface, d: Define) -> None:
    """Raise ``ConfigError`` where the interface can not be had, whatever the emulator is."""
    node, kind = interface.node, interface.type
    if interface.backend == "passt" and kind not in ("user", "vhostuser"):
        message = "The 'passt' backend can only be used with interface type='user' or type='vhostuser'"
        raise error.unsupported(message, node, "type='user'")
    _check_addresses(interface)
    if kind == "vhostuser":
        require_shared_memory("interface", d.domain, node)
    if kind == "vdpa" and interface.model != "virtio":
        shown = interface.model if interface.has_known_model else "unknown"
        message = f"invalid model for interface of type '{kind}': '{shown}' - must be 'virtio'"
        raise error.unsupported(message, node, "<model type='virtio'/>")
    if interface.target_managed is False and kind != "ethernet":
        message = f"unmanaged target dev is not supported on interfaces of type '{kind}'"
        raise error.unsupported(message, node.child("target"), "type='ethernet', or no managed=")
    _check_teaming(interface)
    if interface.mtu and kind not in _MTU_TYPES:
        message = f"setting MTU on interface type {kind} is not supported yet"
        raise error.unsupported(message, node.child("mtu"), f"one of: {', '.join(_MTU_TYPES)}")
    if interface.isolated is not None and kind not in _ISOLATED_TYPES:
        message = (
            f"interface {interface.mac} - <port isolated='yes'/> is not supported for network interfaces "
            f"with type='{kind}'"
        )
        raise error.unsupported(message, node.child("port"), "type='network' or 'bridge'")
    _check_bandwidth(interface)


def _check_addresses(interface: Interface) -> None:
    """Addresses of the guest's end are what QEMU's own network gives out, those of the host's end a tap's."""
    node, kind = interface.node, interface.type
    if interface.ips and kind != "user" and not (kind == "vhostuser" and interface.backend == "passt"):
        message = "Invalid attempt to set network interface guest-side IP address info, not supported by QEMU"
        raise error.unsupported(message, interface.ips[0].node, "type='user', or an address set in the guest")
    if interface.routes:
        message = "Invalid attempt to set network interface guest-side IP route, not supported by QEMU"
        raise error.unsupported(message, interface.routes[0].node, "set routes in the guest")
    if (interface.host_end.ips or interface.host_end.routes) and kind != "ethernet":
        message = (
            "Invalid attempt to set network interface host-side IP route and/or address info on interface of "
            f"type '{kind}'. This is only supported on interfaces of type 'ethernet'"
        )
        raise error.unsupported(message, node.child("source"), "type='ethernet'")
    seen: set[str | None] = set()
    for ip in interface.ips:
        if ip.family in seen:
            name = "IPv6" if ip.family == "ipv6" else "IPv4"
            message = f"Only one {name} address per interface is allowed"
            raise error.unsupported(message, ip.node, "keep one")
        seen.add(ip.family)
        if ip.family == "ipv6" and ip.prefix not in (0, _USER_PREFIX_V6):
            message = f"unsupported IPv6 address prefix='{ip.prefix}' - must be {_USER_PREFIX_V6}"
            raise error.unsupported(message, ip.node, f"prefix='{_USER_PREFIX_V6}'")
        if ip.family == "ipv4" and ip.prefix and ip.prefix not in _USER_PREFIXES:
            message = f"invalid prefix, must be in range of {_USER_PREFIXES[0]}-{_USER_PREFIXES[-1]}"
            raise error.xml(message, ip.node, "prefix='24'")


def _check_teaming(interface: Interface) -> None:
    """Two cards that act as one: a virtio card that stays, and one of the host that may go."""
    node = interface.node.child("teaming")
    if node is None:
        return
    if interface.teaming == "persistent" and interface.teaming_persistent is not None:
        message = "teaming persistent attribute not allowed if teaming type is 'persistent'"
        raise error.unsupported(message, node, "drop persistent=")
    if interface.teaming == "transient":
        if interface.teaming_persistent is None:
            message = "teaming persistent attribute must be set if teaming type is 'transient'"
            raise error.unsupported(message, node, "persistent='ua-…', the alias of the other card")
        if interface.type not in ("hostdev", "network"):
            message = f"virtio-net teaming transient interface must be type='hostdev', not '{interface.type}'"
            raise error.unsupported(message, interface.node, "type='hostdev'")


def _check_bandwidth(interface: Interface) -> None:
    bandwidth = interface.node.child("bandwidth")
    for tag in ("inbound", "outbound"):
        node = bandwidth.child(tag) if bandwidth is not None else None
        if node is None:
            continue
        if node.get("average") is None and node.get("floor") is None:
            raise error.plain(
                "Missing mandatory average or floor attributes", node, "average='1000', in KiB/s"
            )
        if node.get("floor") is not None and interface.type != "network":
            message = "floor attribute is not supported for this config"
            raise error.unsupported(message, node, "drop floor=")
