"""How QEMU reaches the bytes of an image: the properties of its storage node, by type of source and protocol.

https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#object-QMP-block-core.BlockdevOptions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qemushim.devices.block_image import Image
from qemushim.devices.block_secrets import (
    auth_secret,
    cookie_secret,
    encryption_secrets,
    reservation_helper,
    tls_credentials,
)
from qemushim.devices.storage import PORTS, HostAddress
from qemushim.document.node import Node
from qemushim.document.units import parse_integer
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build

Properties = dict[str, Any]


def storage_properties(image: Image, b: Build) -> Properties:
    """``driver`` and what it needs to find the bytes; absent ones are None."""
    if image.nbdkit:
        socket = f"{b.domain_dir}/nbdkit-{image.storage_node}.socket"
        return {"driver": "nbd", "server": {"type": "unix", "path": socket}}
    if image.kind == "network":
        protocol = _PROTOCOLS.get(image.protocol)
        if protocol is None:
            raise error.xml(
                "missing network source protocol type", image.source, f"one of: {', '.join(_PROTOCOLS)}"
            )
        return protocol(image, b)
    if image.kind not in _KINDS:
        pool, volume = (image.source.get(name, "(null)") for name in ("pool", "volume"))
        message = f"storage source pool '{pool}' volume '{volume}' is not translated"
        raise error.internal(message, image.source, "name the volume's own file or server")
    return _KINDS[image.kind](image, b)


# -- sources on the host ----------------------------------------------------------------------------


def _fd_set(image: Image) -> str:
    return f"/dev/fdset/{image.fd_set}"


def _file(image: Image, b: Build) -> Properties:
    place = "file" if image.kind == "file" else "dev"
    path = image.source.get(place)
    if not path and image.fd_set < 0:
        message = "argument key 'filename' must not have null value"
        raise error.internal(message, image.source, f"{place}='/path'")
    driver = "file" if image.kind == "file" else "host_cdrom" if image.host_cdrom else "host_device"
    return {
        "driver": driver,
        "filename": _fd_set(image) if image.fd_set >= 0 else path,
        "aio": image.settings.io or None,
        "pr-manager": reservation_helper(image),
    }


def _dir(image: Image, b: Build) -> Properties:
    path = image.source.get("dir")
    return {"driver": "vvfat", "dir": path, "floppy": image.drive == "floppy", "rw": not image.readonly}


def _nvme(image: Image, b: Build) -> Properties:
    address = image.source.child("address")
    namespace = parse_integer(image.source.get("namespace") or "0")
    return {"driver": "nvme", "device": str(HostAddress(address or Node("address"))), "namespace": namespace}


def _vdpa(image: Image, b: Build) -> Properties:
    path = _fd_set(image) if image.fd_set >= 0 else image.source.get("dev")
    return {"driver": "virtio-blk-vhost-vdpa", "path": path}


_KINDS: dict[str, Callable[[Image, Build], Properties]] = {
    "file": _file,
    "block": _file,
    "dir": _dir,
    "nvme": _nvme,
    "vhostvdpa": _vdpa,
}


# -- servers ----------------------------------------------------------------------------------------


def _servers(image: Image) -> list[Node]:
    return image.source.all("host")


def _port(server: Node, protocol: str) -> str:
    return server.get("port") or str(PORTS[protocol])


def _socket(server: Node, protocol: str) -> Properties:
    """A server as ``SocketAddress``."""
    if server.get("transport") == "rdma":
        message = "transport protocol 'rdma' is not yet supported"
        raise error.internal(message, server, "drop transport=")
    if server.get("transport") == "unix":
        return {"type": "unix", "path": server.get("socket")}
    return {"type": "inet", **_inet(server, protocol)}


def _inet(server: Node, protocol: str) -> Properties:
    if (server.get("transport") or "tcp") != "tcp":
        message = "only TCP protocol can be converted to InetSocketAddress"
        raise error.internal(message, server, "drop transport=")
    return {"host": server.get("name"), "port": _port(server, protocol)}


def _only(image: Image, message: str) -> Node:
    servers = _servers(image)
    if len(servers) != 1:
        raise error.internal(message, image.source, "name one <host>")
    return servers[0]


def _user(image: Image) -> str | None:
    return image.auth.get("username") if image.auth is not None else None


def _name(image: Image) -> str:
    return image.source.get("name") or ""


# -- protocols --------------------------------------------------------------------------------------


def _nbd(image: Image, b: Build) -> Properties:
    server = _only(image, "nbd protocol accepts only one host")
    return {
        "driver": "nbd",
        "server": _socket(server, "nbd"),
        "export": image.source.get("name"),
        "tls-creds": tls_credentials(image, b),
        "tls-hostname": image.source.get("tlsHostname"),
        "reconnect-delay": parse_integer(image.source.value("reconnect/@delay") or "0") or None,
    }


def _rbd(image: Image, b: Build) -> Properties:
    pool, _, name = _name(image).partition("/")
    servers = [_inet(server, "rbd") for server in _servers(image)]
    encrypt: Properties | None = None
    encryption = image.encryption
    if encryption is not None and encryption.get("engine") == "librbd":
        for secret in reversed(encryption_secrets(image)):
            layer: Properties = {"format": encryption.get("format"), "key-secret": secret}
            if encrypt is not None:
                layer["parent"] = encrypt
            encrypt = layer
    return {
        "driver": "rbd",
        "pool": pool,
        "image": name,
        "snapshot": image.source.value("snapshot/@name"),
        "conf": image.source.value("config/@file"),
        "server": servers or None,
        "encrypt": encrypt,
        "user": _user(image),
        "auth-client-required": ["cephx", "none"] if image.auth is not None else None,
        "key-secret": auth_secret(image),
    }


def _iscsi(image: Image, b: Build) -> Properties:
    server = _only(image, "iSCSI protocol accepts only one host")
    target, _, lun = _name(image).partition("/")
    if lun and not (lun.isascii() and lun.isdigit()):
        raise error.internal(f"cannot parse target for lunStr '{target}'", image.source, "TARGET/NUMBER")
    host = server.get("name") or ""
    if ":" in host:
        host = f"[{host}]"
    return {
        "driver": "iscsi",
        "portal": f"{host}:{server.get('port') or 0}",
        "target": target,
        "lun": int(lun or "0"),
        "transport": "tcp",
        "user": _user(image),
        "password-secret": auth_secret(image),
        "initiator-name": image.source.value("initiator/iqn/@name"),
    }


def _curl(image: Image, b: Build) -> Properties:
    server = _only(image, f"protocol '{image.protocol}' accepts only one host")
    source = image.source
    host = server.get("name") or ""
    if ":" in host:
        host = f"[{host}]"
    path, query = _name(image).removeprefix("/"), source.get("query")
    url = f"{image.protocol}://{host}:{_port(server, image.protocol)}/{path}" + (f"?{query}" if query else "")
    verify = source.value("ssl/@verify")
    return {
        "driver": image.protocol,
        "url": url,
        "username": _user(image),
        "password-secret": auth_secret(image),
        "sslverify": verify == "yes" if verify else None,
        "cookie-secret": cookie_secret(image),
        "timeout": parse_integer(source.value("timeout/@seconds") or "0") or None,
        "readahead": parse_integer(source.value("readahead/@size") or "0") or None,
    }


def _ssh(image: Image, b: Build) -> Properties:
    server = _only(image, "ssh protocol accepts only one host")
    user = _user(image) or image.source.value("identity/@username")
    return {"driver": "ssh", "path": _name(image), "server": _inet(server, "ssh"), "user": user}


def _gluster(image: Image, b: Build) -> Properties:
    volume, _, path = _name(image).partition("/")
    return {
        "driver": "gluster",
        "volume": volume,
        "path": path,
        "server": [_socket(server, "gluster") for server in _servers(image)],
        "debug": b.host.config.gluster_debug_level,
    }


def _nfs(image: Image, b: Build) -> Properties:
    server = _only(image, "nfs protocol accepts only one host")
    source = image.source
    return {
        "driver": "nfs",
        "server": {"host": server.get("name"), "type": "inet"},
        "path": _name(image),
        "user": _number(source.value("identity/@user")),
        "group": _number(source.value("identity/@group")),
    }


def _number(identity: str | None) -> int | None:
    """``+1234`` is the number of a user; a name means nothing to a server."""
    if not identity:
        return None
    digits = identity.removeprefix("+")
    return int(digits) if digits.isascii() and digits.isdigit() else None


def _vxhs(image: Image, b: Build) -> Properties:
    if not b.emulator.qapi("blockdev-add/arg-type/+vxhs"):
        message = "VxHS protocol is not supported with this QEMU binary"
        raise error.unsupported(message, image.source, "QEMU 5.2 dropped it")
    server = _only(image, "VxHS protocol accepts only one host")
    return {
        "driver": "vxhs",
        "tls-creds": tls_credentials(image, b),
        "vdisk-id": _name(image),
        "server": _inet(server, "vxhs"),
    }


def _sheepdog(image: Image, b: Build) -> Properties:
    raise error.unsupported(
        "'sheepdog' protocol is no longer supported by any hypervisor driver",
        image.source,
        "QEMU 6.1 dropped it",
    )


_PROTOCOLS: dict[str, Callable[[Image, Build], Properties]] = {
    "nbd": _nbd,
    "rbd": _rbd,
    "iscsi": _iscsi,
    "http": _curl,
    "https": _curl,
    "ftp": _curl,
    "ftps": _curl,
    "tftp": _curl,
    "ssh": _ssh,
    "gluster": _gluster,
    "nfs": _nfs,
    "vxhs": _vxhs,
    "sheepdog": _sheepdog,
}
