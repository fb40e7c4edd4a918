"""Completing a source: what libvirt fills in, what it does not store, what it refuses to read."""

from __future__ import annotations

from qemushim.devices.label import complete_labels
from qemushim.devices.storage import PORTS, HostAddress, Server, Source
from qemushim.document.node import Node
from qemushim.document.units import TooLargeError, canonical_uuid, to_bytes
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
SPLIT_NAMES = frozenset({"gluster", "rbd"})


#: what is looked at once it is clear that it belongs to the type of the source
_LATE = tuple(field for field in Source.fields.values() if field.late)


def complete_source(source: Node, kind: str) -> None:
    """Complete a ``<source>`` of the type ``kind``.  Raises ``ConfigError``."""
    if not _FOREIGN_ATTRIBUTES[kind].isdisjoint(source.attrib):
        source.drop(*(_FOREIGN_ATTRIBUTES[kind] & source.attrib.keys()))
    complete = _COMPLETE.get(kind)
    for field in _LATE:
        if field.attribute in source.attrib:
            field.__get__(Source(source), Source)
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
        raise error.xml(
            "Missing required attribute 'protocol' in element 'source'",
            source,
            "protocol='nbd', 'rbd', 'iscsi', …",
        )
    name = source.get("name")
    if name is None and protocol != "nbd":
        raise error.xml("missing name for disk source", source, "name='…' says which image of the server")
    if protocol in SPLIT_NAMES and (name or "").find("/") < 1:
        raise error.xml(
            f"can't split path '{name}' into pool name and image name", source, "name it POOL/IMAGE"
        )
    complete_network_name(source)
    for server in source.all("host"):
        complete_server(server, protocol)
    reconnect = source.child("reconnect")
    if reconnect is not None:
        reconnect.drop("timeout", "enabled")
    identity = source.child("identity")
    if protocol == "ssh" and identity is not None:
        if identity.get("username") is None:
            message = "Missing required attribute 'username' in element 'identity'"
            raise error.xml(message, identity, "username='me'")
        if not identity.attrib.keys() & {"keyfile", "agentsock"}:
            raise error.xml(
                "element 'identity' requires either 'keyfile' or 'agentsock' attribute",
                identity,
                "say one of them",
            )
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
        raise error.xml(
            f"transport '{transport}' does not support socket attribute",
            server,
            "transport='unix', or no socket=",
        )
    if server.get("name") is None:
        raise error.xml("missing name for host", server, "name='host.example.org'")
    _ = Server(server).port
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
        name, value = cookie.get("name"), cookie.text
        if not name:
            raise error.xml("missing cookie name", cookie, "<cookie name='…'>")
        if not value:
            raise error.xml(f"missing value for cookie '{name}'", cookie, "<cookie name='…'>value</cookie>")
        if name in seen:
            raise error.xml(f"duplicate cookie '{name}'", cookie, "keep one")
        if _NAME_CHARS & set(name):
            raise error.xml(f"cookie name '{name}' contains invalid characters", cookie, "letters and digits")
        bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        if _VALUE_CHARS & set(bare):
            raise error.xml(
                f"value of cookie '{name}' contains invalid characters",
                cookie,
                "no blanks, commas, semicolons",
            )
        seen.add(name)


def _complete_nvme(source: Node) -> None:
    if source.get("type") is None:
        raise error.xml("missing 'type' attribute to disk source", source, "type='pci'")
    if source.get("type") != "pci":
        raise error.xml(f"unsupported source type '{source.get('type')}'", source, "type='pci'")
    if source.get("namespace") is None:
        message = "Missing required attribute 'namespace' in element 'source'"
        raise error.xml(message, source, "namespace='1' is the first")
    if Source(source).namespace == 0:
        raise error.unsupported("NVMe namespace can't be zero", source, "namespace='1' is the first")
    address = source.child("address")
    if address is None:
        raise error.xml(
            "NVMe disk source is missing address",
            source,
            "<address domain='0' bus='1' slot='0' function='0'/>",
        )
    source.attrib.setdefault("managed", "yes")
    HostAddress(address).fill()


def _complete_vhost_user(source: Node) -> None:
    if source.get("type") is None:
        raise error.xml("missing 'type' attribute for vhostuser disk source", source, "type='unix'")
    if source.get("type") != "unix":
        raise error.xml("invalid 'type' attribute for vhostuser disk source", source, "type='unix'")
    if not source.get("path"):
        raise error.xml(
            "missing 'path' attribute for vhost-user disk source", source, "path='/run/disk.sock'"
        )
    reconnect = source.child("reconnect")
    if reconnect is not None:
        reconnect.drop("delay")


def _complete_volume(source: Node) -> None:
    """Pool and volume belong together."""
    if len(source.attrib.keys() & {"pool", "volume"}) == 1:
        raise error.xml(
            "'pool' and 'volume' must be specified together for 'pool' type source",
            source,
            "pool='default' volume='disk.img'",
        )


def _complete_vdpa(source: Node) -> None:
    if source.get("dev") is None:
        message = "Missing required attribute 'dev' in element 'source'"
        raise error.xml(message, source, "dev='/dev/vhost-vdpa-0'")


_COMPLETE = {
    "network": _complete_network,
    "nvme": _complete_nvme,
    "vhostuser": _complete_vhost_user,
    "vhostvdpa": _complete_vdpa,
    "volume": _complete_volume,
}


# -- children ---------------------------------------------------------------------------------------


def complete_secret(secret: Node) -> None:
    """A reference to a secret is a UUID or a usage, and not both.  Raises ``ConfigError``."""
    uuid, usage = secret.get("uuid"), secret.get("usage")
    if uuid is None and usage is None:
        raise error.xml("missing secret uuid or usage attribute", secret, "uuid='…' or usage='…'")
    if uuid is not None:
        if usage is not None:
            raise error.xml("either secret uuid or usage expected", secret, "drop one of the two")
        found = canonical_uuid(uuid)
        if found is None:
            raise error.xml(f"invalid secret uuid '{uuid}'", secret, "the UUID of a secret of the host")
        secret.set("uuid", found)


def complete_auth(auth: Node) -> None:
    """A user name and a secret of a known type.  Raises ``ConfigError``."""
    if not auth.get("username"):
        raise error.xml("missing username for auth", auth, "username='me'")
    secret = auth.child("secret")
    if secret is None:
        raise error.xml("Missing <secret> element in auth", auth, "<secret type='ceph' uuid='…'/>")
    complete_secret(secret)


def complete_encryption(encryption: Node) -> None:
    """QEMU encrypts where the document does not say who; every secret is a passphrase."""
    if not encryption.get("format"):
        raise error.xml("unknown volume encryption format", encryption, "format='luks'")
    encryption.attrib.setdefault("engine", "qemu")
    for secret in encryption.all("secret"):
        if not secret.get("type"):
            raise error.xml("unknown volume encryption secret type", secret, "type='passphrase'")
        if secret.get("type") != "passphrase":
            message = f"unknown volume encryption secret type {secret.get('type')}"
            raise error.unsupported(message, secret, "type='passphrase'")
        complete_secret(secret)
    cipher, ivgen = encryption.child("cipher"), encryption.child("ivgen")
    if cipher is not None and encryption.get("format") == "luks" and not cipher.get("name"):
        raise error.xml("cipher info missing 'name' attribute", cipher, "drop <cipher>: the image knows it")
    if ivgen is not None and encryption.get("format") == "luks":
        if cipher is None:
            message = "ivgen element found, but cipher is missing"
            raise error.xml(message, ivgen, "drop <ivgen>: the image knows it")
        if not ivgen.get("name"):
            raise error.xml("missing ivgen info name string", ivgen, "drop <ivgen>: the image knows it")


#: attribute of the helper's socket → what it is called, and the only value that it can have (an example of a path)
_CONNECTION = (
    ("type", "connection type", "unix"),
    ("path", "path", "/run/pr-helper.sock"),
    ("mode", "connection mode", "client"),
)


def _complete_reservations(reservations: Node) -> None:
    if reservations.get("managed") is None:
        raise error.xml(
            "Missing required attribute 'managed' in element 'reservations'",
            reservations,
            "managed='yes', or 'no' with a <source>",
        )
    if reservations.get("managed") == "yes":
        return
    source = reservations.child("source")
    for name, what, only in _CONNECTION:
        given = source.get(name) if source is not None else None
        if not given:
            raise error.xml(f"missing {what} for <reservations/>", reservations, f"<source {name}='{only}'/>")
        if name != "path" and given != only:
            raise error.xml(f"unsupported {what} for <reservations/>: {given}", source, f"{name}='{only}'")


def _complete_slices(slices: Node) -> None:
    kept = [node for node in slices.all("slice") if node.get("type") == "storage"]
    for node in kept:
        if node.get("offset") is None or node.get("size") is None:
            message = "missing offset or size attribute of slice"
            raise error.xml(message, node, "both, in bytes: offset='0' size='1048576'")
    slices.children = kept[:1]


def _complete_data_store(store: Node) -> None:
    kind = store.get("type")
    if kind is None:
        raise error.xml("Missing required attribute 'type' in element 'dataStore'", store, "type='file'")
    form, source = store.child("format"), store.child("source")
    if form is None or not form.get("type"):
        raise error.xml("missing data file store format", store, "<format type='raw'/>")
    if form.get("type") != "raw":
        raise error.unsupported("only 'raw' images supported as <dataStore>", form, "type='raw'")
    if source is None:
        raise error.xml("missing disk data file store source", store, "<source file='…'/>")
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
        if image_format is None or not name:
            raise error.xml("missing disk backing store format", node, "<format type='qcow2'/>")
        source = node.child("source")
        if source is None:
            raise error.xml("missing disk backing store source", node, "<source file='…'/>")
        complete_metadata_cache(image_format)
        complete_source(source, kind)
        node = node.child("backingStore")


def complete_metadata_cache(holder: Node) -> None:
    """The size of the metadata cache is kept in bytes."""
    cache = holder.child("metadata_cache")
    size = cache.child("max_size") if cache is not None else None
    if cache is None or size is None:
        return
    if not size.text:
        holder.remove(cache)
        return
    try:
        number = to_bytes(size.text, size.get("unit"), "bytes")
    except TooLargeError as reason:
        raise error.plain(f"numerical overflow: {reason}", size, "less than 16 EiB") from None
    except ValueError as reason:
        if "unknown suffix" in str(reason):
            raise error.argument(str(reason), size, "bytes, KiB, MiB, …") from None
        # a disk's own <driver> is where libvirt reads from, a <format> is one step below
        place = f"./{'format/' * (holder.tag == 'format')}metadata_cache/max_size"
        message = f"Invalid value '{size.text}' for element or attribute '{place}'"
        raise error.xml(message, size, "a number") from None
    size.text = str(number)
    size.attrib = {"unit": "bytes"}
