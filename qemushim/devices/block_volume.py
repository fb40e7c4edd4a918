"""A volume of a storage pool as what it is: a file, a device, a directory, an image at a server.

https://libvirt.org/formatstorage.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qemushim.devices.storage import PORTS
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.devices.disk import Disk

#: type of volume → the attribute of a source that holds its path
_ATTRIBUTES = {"file": "file", "block": "dev", "dir": "dir"}
#: what a volume's own source adds to the real one
_KEPT = frozenset({"encryption", "seclabel", "slices", "reservations", "dataStore"})


def resolve_source(disk: Disk, b: Build) -> tuple[str, Node | None]:
    """The type and the source of a disk, those of the pool's volume where it names one.

    ``Host.find_volume`` answers with ``type`` (``file``, ``block``, ``dir``, ``network``) and ``path``; for a
    pool at a server also with ``pool_type``, ``protocol``, ``device``, ``hosts`` (``name``, ``port``) and
    ``auth`` (``username``, ``type``, ``uuid`` or ``usage``).
    Raises ``ConfigError`` where the host has no such volume.
    """
    source, kind = disk.node.child("source"), disk.node.attrib.get("type", "file")
    if kind != "volume" or source is None:
        return kind, source
    if source.get("pool") is None:
        message = "name in virStoragePoolLookupByName must not be NULL"
        raise error.plain(message, source, "pool='default' volume='disk.img'")
    pool, name = source.get("pool") or "", source.get("volume") or ""
    found = b.host.find_volume(pool, name)
    if found is None:
        raise error.plain(
            f"Storage volume not found: no storage vol with matching name '{name}'",
            source,
            f"in the pool '{pool}'",
        )
    kind, real = _real(source, name, found)
    real.line = source.line
    real.children.extend(child for child in source.children if child.tag in _KEPT)
    return kind, real


def _real(source: Node, name: str, found: Mapping[str, Any]) -> tuple[str, Node]:
    mode = source.get("mode")
    is_iscsi = found.get("pool_type") == "iscsi"
    if mode is not None and not is_iscsi:
        raise error.xml(
            "disk source mode is only valid when storage pool is of iscsi type", source, "drop mode="
        )
    if mode == "direct":
        return "network", _iscsi(name, found)
    kind = str(found["type"])
    if kind in _ATTRIBUTES:
        return kind, Node("source", {_ATTRIBUTES[kind]: str(found["path"])})
    node = Node("source", {"protocol": str(found.get("protocol") or ""), "name": str(found["path"])})
    _add_servers(node, found)
    return "network", node


def _iscsi(name: str, found: Mapping[str, Any]) -> Node:
    """QEMU itself logs in at the server; the volume ``unit:HOST:BUS:LUN`` says which LUN."""
    lun = name.rpartition(":")[2]
    node = Node("source", {"protocol": "iscsi", "name": f"{found.get('device') or ''}/{lun}"})
    _add_servers(node, found)
    for server in node.all("host"):
        server.attrib.setdefault("port", str(PORTS["iscsi"]))
    return node


def _add_servers(node: Node, found: Mapping[str, Any]) -> None:
    for host in found.get("hosts") or ():
        node.add("host", {key: str(value) for key, value in host.items() if value})
    auth = found.get("auth")
    if auth:
        secret = {key: str(auth[key]) for key in ("type", "uuid", "usage") if auth.get(key)}
        node.add("auth", {"username": str(auth["username"])}).add("secret", secret)
