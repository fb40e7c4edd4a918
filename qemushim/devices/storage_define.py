"""Completing a source: what libvirt fills in, what it does not store, what it refuses to read."""

from __future__ import annotations

from qemushim.devices.label import complete_labels
from qemushim.devices.storage import PORTS, HostAddress
from qemushim.document.node import Node
from qemushim.document.units import canonical_uuid, parse_unsigned, unit_bytes
from qemushim.errors import error

#: type of source → the attributes that it has
ATTRIBUTES = {
    "file": frozenset({"file", "fdgroup", "startupPolicy"}),
    "block": frozenset({"dev", "startupPolicy"}),
    "dir": frozenset({"dir", "startupPolicy"}),
    "network": frozenset({"protocol", "name", "query", "tls", "tlsHostname", "startupPolicy"}),
    "volume": frozenset({"pool", "volume", "mode", "startupPolicy"}),
    "nvme": frozenset({"type", "managed", "namespace", "startupPolicy"}),
    "vhostuser": frozenset({"type", "path", "startupPolicy"}),
    "vhostvdpa": frozenset({"dev", "startupPolicy"}),
}
#: children that every type has
_COMMON = frozenset({"slices", "seclabel", "auth", "encryption", "reservations", "dataStore"})
_NETWORK = (
    *("host", "snapshot", "config", "initiator", "ssl", "cookies", "readahead", "timeout"),
    *("reconnect", "knownHosts", "identity"),
)
#: type of source → the children that it has besides
CHILDREN = {
    "network": _COMMON.union(_NETWORK),
    "nvme": _COMMON | {"address"},
    "vhostuser": _COMMON | {"reconnect"},
}
_ALL_ATTRIBUTES = frozenset().union(*ATTRIBUTES.values())
_ALL_CHILDREN = frozenset().union(*CHILDREN.values())
#: type of source → what belongs to other types, and is not stored
_FOREIGN_ATTRIBUTES = {kind: _ALL_ATTRIBUTES - own for kind, own in ATTRIBUTES.items()}
_FOREIGN_CHILDREN = {kind: _ALL_CHILDREN - CHILDREN.get(kind, _COMMON) for kind in ATTRIBUTES}
#: the protocols whose sources are named POOL/IMAGE
_SPLIT_NAMES = frozenset({"gluster", "rbd"})


def complete_source(source: Node, kind: str) -> None:
    """Complete a ``<source>`` of the type ``kind``.  Raises ``ConfigError``."""
    if not _FOREIGN_ATTRIBUTES[kind].isdisjoint(source.attrib):
        source.drop(*(_FOREIGN_ATTRIBUTES[kind] & source.attrib.keys()))
    complete = _COMPLETE.get(kind)
    if source.children:
        foreign = _FOREIGN_CHILDREN[kind]
        source.children = [child for child in source.children if child.tag not in foreign]
    if complete is not None:
        complete(source)
    if not source.children:
        return
    for child in tuple(source.children):
        further = _CHILD.get(child.tag)
        if further is not None:
            further(child)
    complete_labels(source)


def _complete_network(source: Node) -> None:
    protocol = source.get("protocol")
    if protocol is None:
        raise error.xml("Missing required attribute 'protocol' in element 'source'", source)
    name = source.get("name")
    if not name and protocol != "nbd":
        raise error.xml("missing name for disk source", source, "name='…' says which image of the server")
    if protocol in _SPLIT_NAMES and (name or "").find("/") < 1:
        raise error.xml(
            f"can't split path '{name}' into pool name and image name", source, "name it POOL/IMAGE"
        )
    complete_network_name(source)
    for server in source.all("host"):
        complete_server(server, protocol)
    if source.child("ssl") is not None or source.child("cookies") is not None:
        check_cookies(source)


def complete_network_name(source: Node) -> None:
    """An iSCSI source names its LUN: the first where it does not."""
    name = source.get("name") or ""
    if source.get("protocol") == "iscsi" and "/" not in name:
        source.set("name", f"{name}/0")


def complete_server(server: Node, protocol: str) -> None:
    """A server is reached over TCP, at the port of the protocol (if it has one), unless the document says otherwise.

    Raises ``ConfigError``.
    """
    transport = server.get("transport") or "tcp"
    if transport == "unix":
        server.drop("name", "port")
        if server.get("socket") is None:
            raise error.xml("missing socket for unix transport", server, "socket='/path'")
        return
    if server.get("socket") is not None:
        raise error.xml(f"transport '{transport}' does not support socket attribute", server)
    if not server.get("name"):
        raise error.xml("missing name for host", server, "name='host.example.org'")
    if transport == "tcp":
        server.drop("transport")
    port = PORTS.get(protocol)
    if port and not server.get("port"):
        server.set("port", port)


#: what a cookie's name can not hold (RFC 6265), and its value
_NAME_CHARS = frozenset(' ()<>@,;:\\"/[]?={}\t\n')
_VALUE_CHARS = frozenset(' ",;\\\t\n')


def check_cookies(source: Node) -> None:
    """Raise ``ConfigError`` where a cookie is malformed or given twice."""
    seen: set[str] = set()
    cookies = source.child("cookies")
    for cookie in cookies.all("cookie") if cookies is not None else ():
        name, value = cookie.get("name"), cookie.text.strip()
        if not name:
            raise error.xml("missing cookie name", cookie)
        if not value:
            raise error.xml(f"missing value for cookie '{name}'", cookie)
        if name in seen:
            raise error.xml(f"duplicate cookie '{name}'", cookie)
        if _NAME_CHARS & set(name):
            raise error.xml("cookie name contains invalid characters", cookie)
        bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        if _VALUE_CHARS & set(bare):
            raise error.xml(f"value of cookie '{name}' contains invalid characters", cookie)
        seen.add(name)


def _complete_nvme(source: Node) -> None:
    if source.get("type") is None:
        raise error.xml("Missing required attribute 'type' in element 'source'", source)
    if source.get("type") != "pci":
        raise error.xml(f"unsupported source type '{source.get('type')}'", source, "type='pci'")
    if source.get("namespace") is None:
        raise error.xml("missing 'namespace' attribute to disk source", source)
    address = source.child("address")
    if address is None:
        raise error.xml("NVMe disk source is missing address", source)
    source.attrib.setdefault("managed", "yes")
    HostAddress(address).fill()


def _complete_vhost_user(source: Node) -> None:
    if source.get("type") != "unix":
        raise error.xml("invalid disk source type for vhostuser", source, "type='unix'")
    if not source.get("path"):
        raise error.xml("missing 'path' attribute for vhost-user disk source", source)
    reconnect = source.child("reconnect")
    if reconnect is not None:
        reconnect.drop("delay")


def _complete_volume(source: Node) -> None:
    """Pool and volume belong together."""
    if source.attrib.keys() & {"pool", "volume"} and not (source.get("pool") and source.get("volume")):
        raise error.xml("'pool' and 'volume' must be specified together for 'pool' type source", source)


_COMPLETE = {
    "network": _complete_network,
    "nvme": _complete_nvme,
    "vhostuser": _complete_vhost_user,
    "volume": _complete_volume,
}


# -- children ---------------------------------------------------------------------------------------


def complete_secret(secret: Node) -> None:
    """A reference to a secret is a UUID or a usage, and not both.  Raises ``ConfigError``."""
    uuid, usage = secret.get("uuid"), secret.get("usage")
    if uuid is None and usage is None:
        raise error.xml("missing secret uuid or usage attribute", secret)
    if uuid is not None:
        if usage is not None:
            raise error.xml("either secret uuid or usage expected", secret)
        found = canonical_uuid(uuid)
        if found is None:
            raise error.xml(f"invalid secret uuid '{uuid}'", secret)
        secret.set("uuid", found)


def complete_auth(auth: Node) -> None:
    """A user name and a secret of a known type.  Raises ``ConfigError``."""
    if not auth.get("username"):
        raise error.xml("missing username for auth", auth)
    secret = auth.child("secret")
    if secret is None:
        raise error.xml("missing <secret> element in auth", auth)
    complete_secret(secret)


def complete_encryption(encryption: Node) -> None:
    """QEMU encrypts where the document does not say who; every secret is a passphrase."""
    if encryption.get("format") is None:
        raise error.xml("Missing required attribute 'format' in element 'encryption'", encryption)
    encryption.attrib.setdefault("engine", "qemu")
    for secret in encryption.all("secret"):
        if secret.get("type") is None:
            raise error.xml("unknown volume encryption secret type", secret)
        if secret.get("type") != "passphrase":
            raise error.xml(f"unknown volume encryption secret type {secret.get('type')}", secret)
        complete_secret(secret)


def _complete_reservations(reservations: Node) -> None:
    if reservations.get("managed") is None:
        raise error.xml("Missing required attribute 'managed' in element 'reservations'", reservations)
    if reservations.get("managed") == "yes":
        return
    source = reservations.child("source")
    for name, what in (("type", "type"), ("path", "path"), ("mode", "mode")):
        if source is None or source.get(name) is None:
            raise error.xml(f"missing connection {what} for <reservations>", reservations)


def _complete_slices(slices: Node) -> None:
    kept = [node for node in slices.all("slice") if node.get("type") == "storage"]
    for node in kept:
        for name in ("offset", "size"):
            if node.get(name) is None:
                raise error.xml(f"Missing required attribute '{name}' in element 'slice'", node)
        if parse_unsigned(node.attrib["size"]) == 0:
            raise error.xml(
                "Invalid value for attribute 'size' in element 'slice': Zero is not permitted", node
            )
    slices.children = kept[:1]


def _complete_data_store(store: Node) -> None:
    kind = store.get("type")
    if kind is None:
        raise error.xml("Missing required attribute 'type' in element 'dataStore'", store)
    source = store.child("source")
    if source is not None:
        complete_source(source, kind)


_CHILD = {
    "auth": complete_auth,
    "dataStore": _complete_data_store,
    "encryption": complete_encryption,
    "reservations": _complete_reservations,
    "slices": _complete_slices,
}


# -- backing images ---------------------------------------------------------------------------------


def complete_backing(store: Node) -> None:
    """Complete a chain of ``<backingStore>`` from here down.  Raises ``ConfigError``."""
    node: Node | None = store
    while node is not None:
        kind = node.get("type")
        if kind is None:
            # the end of the chain
            node.children = []
            node.attrib = {}
            return
        image_format = node.child("format")
        name = image_format.get("type") if image_format is not None else None
        if image_format is None or name is None:
            raise error.xml("missing disk backing store format", node)
        source = node.child("source")
        if source is None or not source.attrib:
            raise error.xml("missing disk backing store source", node)
        complete_metadata_cache(image_format)
        complete_source(source, kind)
        node = node.child("backingStore")


def complete_metadata_cache(holder: Node) -> None:
    """The size of the metadata cache is kept in bytes."""
    cache = holder.child("metadata_cache")
    size = cache.child("max_size") if cache is not None else None
    if size is None:
        return
    try:
        number = parse_unsigned(size.text) * unit_bytes(size.get("unit") or "bytes")
    except ValueError:
        raise error.xml(f"Invalid value '{size.text.strip()}' for element 'max_size'", size) from None
    size.text = str(number)
    size.attrib = {"unit": "bytes"}
