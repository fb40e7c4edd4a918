"""Where the bytes of an image are: storage nodes and URLs, back to ``<source>``.

The inverse of ``qemushim.devices.block_protocols``.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, unquote, urlsplit

from qemushim.devices.block_secrets import MANAGED_HELPER
from qemushim.devices.storage import PORTS
from qemushim.document.node import Node
from qemushim.errors import ConfigError
from qemushim.fromargv.line import Line, put, yes_no
from qemushim.fromargv.secrets import (
    drop_credentials,
    fd_group,
    new_secret,
    opened_file,
    plain_secret,
    secret_reference,
)
from qemushim.fromargv.syntax import NOWHERE, Bag, UnreadableError, json_pairs

Found = tuple[str, Node]


def read_storage(line: Line, bag: Bag, driver: str) -> Found:
    """Type of the source, and the source, of a node of a protocol.  Raises ``UnreadableError``."""
    return PROTOCOLS[driver](line, bag)


# -- on the host ------------------------------------------------------------------------------------


def _file(line: Line, bag: Bag) -> Found:
    return "file", _local(line, bag, "file")


def _device(line: Line, bag: Bag) -> Found:
    return "block", _local(line, bag, "dev")


def _local(line: Line, bag: Bag, attribute: str) -> Node:
    path = bag.take("filename") or ""
    group = fd_group(line, path)
    source = Node("source", {attribute: opened_file(line, path, quiet=bool(group))})
    if group:
        source.set("fdgroup", group)
    helper = bag.take("pr-manager")
    if helper == MANAGED_HELPER:
        source.add("reservations", {"managed": "yes"})
        line.managed_reservations = True
    elif helper is not None:
        found = line.use(line.object(helper))
        reservations = source.add("reservations", {"managed": "no"})
        reservations.add("source", {"type": "unix", "path": found.take("path") or "", "mode": "client"})
    return source


def _vvfat(line: Line, bag: Bag) -> Found:
    bag.drop("floppy", "rw", "fat-type")
    return "dir", Node("source", {"dir": bag.take("dir") or ""})


def _nvme(line: Line, bag: Bag) -> Found:
    source = Node("source", {"type": "pci", "managed": "no", "namespace": bag.take("namespace") or "1"})
    source.append(host_address(bag.take("device") or ""))
    return "nvme", source


def host_address(text: str) -> Node:
    """``0000:03:00.0`` (the domain may be missing) as ``<address>``.  Raises ``UnreadableError``."""
    parts = text.replace(".", ":").split(":")
    if len(parts) == 3:
        parts.insert(0, "0")
    try:
        domain, bus, slot, function = (int(part, 16) for part in parts)
    except ValueError:
        raise UnreadableError(f"{text} is no address of a PCI device") from None
    return Node(
        "address",
        {
            "domain": f"{domain:#06x}",
            "bus": f"{bus:#04x}",
            "slot": f"{slot:#04x}",
            "function": f"{function:#x}",
        },
    )


def _vdpa(line: Line, bag: Bag) -> Found:
    return "vhostvdpa", Node("source", {"dev": opened_file(line, bag.take("path") or "")})


# -- servers ----------------------------------------------------------------------------------------


def _network(protocol: str, name: str | None) -> Node:
    return Node("source", {"protocol": protocol, **({"name": name} if name is not None else {})})


def _server(source: Node, bag: Bag, key: str) -> None:
    """One ``<host>`` from ``key.…``; unknown parts stay."""
    kind = bag.take(f"{key}.type") or "inet"
    if kind == "unix":
        source.add("host", {"transport": "unix", "socket": bag.take(f"{key}.path", f"{key}.socket") or ""})
    elif kind in ("inet", "tcp"):
        host = source.add("host", {"name": bag.take(f"{key}.host") or ""})
        put(host, "@port", bag.take(f"{key}.port"))
    else:
        raise UnreadableError(f"a server of type {kind}")


def _servers(source: Node, bag: Bag) -> None:
    number = 0
    while any(key.startswith(f"server.{number}.") for key in bag.keys):
        _server(source, bag, f"server.{number}")
        number += 1


def _nbd(line: Line, bag: Bag) -> Found:
    source = _network("nbd", bag.take("export"))
    if bag.has("host") or bag.has("path"):
        path = bag.take("path")
        host = {"name": bag.take("host") or "", "port": bag.take("port") or "10809"}
        source.add("host", {"transport": "unix", "socket": path} if path else host)
    else:
        _server(source, bag, "server")
    _credentials(line, bag, source)
    put(source, "@tlsHostname", bag.take("tls-hostname"))
    delay = bag.take("reconnect-delay")
    put(source, "reconnect/@delay", delay)
    return "network", source


def _credentials(line: Line, bag: Bag, source: Node) -> None:
    credentials = bag.take("tls-creds")
    source.set("tls", "yes" if credentials is not None else "no") if credentials or line.says_tls else None
    if credentials is not None:
        drop_credentials(line, credentials)


def _rbd(line: Line, bag: Bag) -> Found:
    source = _network("rbd", f"{bag.take('pool') or ''}/{bag.take('image') or ''}")
    _servers(source, bag)
    put(source, "snapshot/@name", bag.take("snapshot"))
    put(source, "config/@file", bag.take("conf"))
    user, secret = bag.take("user"), bag.take("key-secret")
    bag.below("auth-client-required")
    if user is not None or secret is not None:
        auth = source.add("auth", {"username": user or "admin"})
        auth.add("secret", {"type": "ceph", **secret_reference(line, secret, "ceph")})
    layers: list[str] = []
    prefix = "encrypt"
    kind = ""
    while any(key.startswith(f"{prefix}.") for key in bag.keys):
        kind = bag.take(f"{prefix}.format") or kind
        layers.append(bag.take(f"{prefix}.key-secret") or "")
        prefix += ".parent"
    if layers:
        encryption = source.add("encryption", {"format": kind, "engine": "librbd"})
        for layer in layers:
            encryption.add("secret", {"type": "passphrase", **secret_reference(line, layer, "volume")})
    return "network", source


def _iscsi(line: Line, bag: Bag) -> Found:
    lun = bag.take("lun") or "0"
    bag.drop("transport")
    source = _network("iscsi", f"{bag.take('target') or ''}/{lun}")
    host, port = host_and_port(bag.take("portal") or "")
    source.add("host", {"name": host, **({"port": port} if port else {})})
    put(source, "initiator/iqn/@name", bag.take("initiator-name"))
    user, secret = bag.take("user"), bag.take("password-secret")
    if user is not None:
        auth = source.add("auth", {"username": user})
        auth.add("secret", {"type": "iscsi", **secret_reference(line, secret, "iscsi")})
    return "network", source


def host_and_port(text: str) -> tuple[str, str]:
    """``host:port``, ``[::1]:port``."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, colon, port = text.rpartition(":")
    return (host, port) if colon else (text, "")


def _curl(line: Line, bag: Bag) -> Found:
    kind, source = read_url(line, bag.take("url") or "")
    verify = bag.switch("sslverify")
    put(source, "ssl/@verify", yes_no(verify))
    put(source, "timeout/@seconds", bag.take("timeout"))
    put(source, "readahead/@size", bag.take("readahead"))
    cookies = bag.take("cookie-secret")
    if cookies is not None:
        _cookies(line, cookies, source)
    user, secret = bag.take("username"), bag.take("password-secret")
    if user is not None:
        auth = source.add("auth", {"username": user})
        auth.add("secret", {"type": "iscsi", **secret_reference(line, secret, "iscsi")})
    return kind, source


def _cookies(line: Line, name: str, source: Node) -> None:
    """Cookies are a secret, which may stand there in plain text (base64)."""
    text = plain_secret(line, name)
    if text is None:
        line.note("secret", f"the HTTP cookies ({name}) are encrypted: add them as <cookies>")
        return
    for part in text.split("; "):
        key, _, value = part.partition("=")
        source.ensure("cookies").add("cookie", {"name": key}, text=value)


def _ssh(line: Line, bag: Bag) -> Found:
    source = _network("ssh", bag.take("path"))
    _server(source, bag, "server")
    put(source, "identity/@username", bag.take("user"))
    return "network", source


def _gluster(line: Line, bag: Bag) -> Found:
    source = _network("gluster", f"{bag.take('volume') or ''}/{(bag.take('path') or '').lstrip('/')}")
    _servers(source, bag)
    bag.drop("debug", "logfile")
    return "network", source


def _nfs(line: Line, bag: Bag) -> Found:
    source = _network("nfs", bag.take("path"))
    _server(source, bag, "server")
    for attribute in ("user", "group"):
        number = bag.take(attribute)
        put(source, f"identity/@{attribute}", None if number is None else f"+{number}")
    return "network", source


def _vxhs(line: Line, bag: Bag) -> Found:
    source = _network("vxhs", bag.take("vdisk-id"))
    _server(source, bag, "server")
    _credentials(line, bag, source)
    return "network", source


PROTOCOLS: dict[str, Callable[[Line, Bag], Found]] = {
    "file": _file,
    "gluster": _gluster,
    "host_cdrom": _device,
    "host_device": _device,
    "iscsi": _iscsi,
    "nbd": _nbd,
    "nfs": _nfs,
    "nvme": _nvme,
    "rbd": _rbd,
    "ssh": _ssh,
    "virtio-blk-vhost-vdpa": _vdpa,
    "vvfat": _vvfat,
    "vxhs": _vxhs,
    **dict.fromkeys(("http", "https", "ftp", "ftps", "tftp"), _curl),
}


# -- names of QEMU's ----------------------------------------------------------------------------------


def read_url(line: Line, text: str) -> Found:
    """A path, or what QEMU calls images elsewhere.  https://www.qemu.org/docs/master/system/images.html"""
    scheme, colon, rest = text.partition(":")
    if text.startswith("json:"):
        return _from_json(line, rest)
    if not colon or "/" in scheme or len(scheme) < 2:
        return _from_path(line, text)
    if scheme in ("fat", "host_device", "host_cdrom", "file"):
        return _prefixed(line, scheme, rest)
    if scheme == "nbd" and not rest.startswith("//"):
        return "network", _old_nbd(rest)
    if scheme == "rbd":
        return "network", _old_rbd(line, rest)
    base = scheme.partition("+")[0]
    if base in PORTS and rest.startswith("//"):
        return "network", _from_url(line, text, scheme)
    return _from_path(line, text)


def _from_path(line: Line, path: str) -> Found:
    path = opened_file(line, path)
    if path.startswith("/dev/") and not path.startswith(("/dev/shm/", "/dev/fdset/")):
        return "block", Node("source", {"dev": path})
    return "file", Node("source", {"file": path})


def _from_json(line: Line, text: str) -> Found:
    try:
        bag = Bag("file=json:", NOWHERE, json_pairs(text, "file=json:", NOWHERE))
    except ConfigError as problem:
        problem.hint = 'commas within an option are written twice: file=json:{"driver":"file",,…}'
        raise
    if not any(key == "driver" for key in bag.keys) and bag.has("file.driver"):
        bag = Bag(bag.what, bag.place, bag.below("file"))
    driver = bag.take("driver") or "file"
    if driver not in PROTOCOLS:
        raise UnreadableError(f"file=json: of driver {driver}")
    found = read_storage(line, bag, driver)
    if bag.pairs:
        raise UnreadableError(f"file=json: {', '.join(bag.keys)}")
    return found


def _prefixed(line: Line, scheme: str, rest: str) -> Found:
    if scheme == "fat":
        return "dir", Node("source", {"dir": rest.removeprefix("floppy:").removeprefix("rw:").lstrip(":")})
    if scheme == "file":
        return _from_path(line, rest.removeprefix("//"))
    return "block", Node("source", {"dev": rest})


def _old_nbd(rest: str) -> Node:
    """``nbd:HOST:PORT:exportname=NAME``, ``nbd:unix:PATH``."""
    rest, _, name = rest.partition(":exportname=")
    source = _network("nbd", name or None)
    if rest.startswith("unix:"):
        source.add("host", {"transport": "unix", "socket": rest.removeprefix("unix:")})
    else:
        host, port = host_and_port(rest)
        source.add("host", {"name": host, "port": port or "10809"})
    return source


def _old_rbd(line: Line, rest: str) -> Node:
    """``rbd:POOL/IMAGE@SNAPSHOT:id=USER:key=KEY:mon_host=A\\:6789\\;B\\:6789:conf=FILE``."""
    parts = [part.replace("\0", ":") for part in rest.replace("\\:", "\0").split(":")]
    name, _, snapshot = parts[0].partition("@")
    source = _network("rbd", name)
    settings = dict(part.partition("=")[::2] for part in parts[1:])
    for server in settings.pop("mon_host", "").replace("\\;", ";").split(";"):
        if server:
            host, port = host_and_port(server.replace("\\", ""))
            source.add("host", {"name": host, **({"port": port} if port else {})})
    put(source, "snapshot/@name", snapshot or None)
    put(source, "config/@file", settings.pop("conf", None))
    user = settings.pop("id", None)
    key = settings.pop("key", None)
    settings.pop("auth_supported", None)
    if user is not None:
        auth = source.add("auth", {"username": user})
        auth.add(
            "secret",
            {"type": "ceph", **new_secret(line, f"rbd {name} {user}", "ceph", known=key is not None)},
        )
    if settings:
        raise UnreadableError(f"rbd: {', '.join(settings)}")
    return source


def _from_url(line: Line, text: str, scheme: str) -> Node:
    """``PROTOCOL://USER@HOST:PORT/NAME?…``"""
    protocol, _, transport = scheme.partition("+")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as problem:
        raise UnreadableError(f"{text}: {problem}") from None
    query = dict(parse_qsl(url.query)) if protocol not in ("http", "https") else {}
    name = unquote(url.path)
    if protocol != "ssh" and protocol != "nfs":
        name = name.removeprefix("/")
    source = _network(protocol, name or None)
    if transport == "unix":
        source.add("host", {"transport": "unix", "socket": query.get("socket", "")})
    else:
        host = source.add("host", {"name": url.hostname or ""})
        put(host, "@port", port)
    if protocol in ("http", "https") and url.query:
        source.set("query", url.query)
    if url.username and protocol == "ssh":
        put(source, "identity/@username", url.username)
    elif url.username:
        user, _, password = url.username.partition("%")
        kind = "ceph" if protocol == "rbd" else "iscsi"
        auth = source.add("auth", {"username": user})
        known = bool(password or url.password)
        auth.add(
            "secret",
            {"type": kind, **new_secret(line, f"{protocol} {user}@{url.hostname}", kind, known=known)},
        )
    return source
