"""What an image needs before its first node: secrets, TLS credentials, the helper of its reservations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.devices.block_image import Image
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build

#: the helper of all images whose reservations libvirt manages
MANAGED_HELPER = "pr-helper0"


# -- names ------------------------------------------------------------------------------------------


def auth_secret(image: Image) -> str | None:
    """The secret object with the password for the server."""
    if image.auth is None or image.kind != "network" or image.nbdkit:
        return None
    return image.auth_name or f"{image.storage_node}-auth-secret0"


def cookie_secret(image: Image) -> str | None:
    """The secret object with the HTTP cookies."""
    if image.nbdkit or not _cookies(image):
        return None
    return f"{image.storage_node}-httpcookie-secret0"


def encryption_secrets(image: Image) -> list[str]:
    """The secret objects with the passphrases of an encrypted image, outermost layer first."""
    if image.encryption is None:
        return []
    owner = image.format_node if image.layered else image.storage_node
    return [f"{owner}-encryption-secret{i}" for i, _ in enumerate(image.encryption.all("secret"))]


def tls_credentials(image: Image, b: Build) -> str | None:
    """The TLS credentials of a connection to an NBD or VxHS server; ``ConfigError`` where another is to have some."""
    default = {"nbd": b.host.config.nbd_tls, "vxhs": b.host.config.vxhs_tls}.get(image.protocol)
    wanted = image.source.get("tls")
    if default is None and wanted == "yes":
        message = f"TLS transport is not supported for disk protocol '{image.protocol}'"
        raise error.unsupported(message, image.source, "drop tls=")
    if default is None or wanted == "no" or (wanted is None and not default):
        return None
    return f"obj{image.storage_node}_tls0"


def reservation_helper(image: Image) -> str | None:
    """The object that talks to the helper process of SCSI persistent reservations."""
    reservations = image.source.child("reservations") if image.source.children else None
    if reservations is None:
        return None
    if reservations.get("managed") == "yes":
        return MANAGED_HELPER
    return f"pr-helper-{image.storage_node}"


def _cookies(image: Image) -> list[Node]:
    cookies = image.source.child("cookies") if image.kind == "network" else None
    return cookies.all("cookie") if cookies is not None else []


# -- options ----------------------------------------------------------------------------------------


def secret_options(image: Image, b: Build) -> Iterator[Option]:
    """Everything that has to exist before the image's nodes, in libvirt's order."""
    source = image.source
    helper = reservation_helper(image)
    if helper is not None and helper != MANAGED_HELPER:
        path = source.value("reservations/source/@path")
        yield b.object(
            {"qom-type": "pr-manager-helper", "id": helper, "path": path},
            source,
            "a helper for persistent reservations",
        )
    auth = auth_secret(image)
    if auth is not None and image.auth is not None:
        kind = "ceph" if image.protocol == "rbd" else "iscsi"
        yield b.secret(auth, find_secret(image.auth.child("secret"), kind, b), image.auth)
    cookies = cookie_secret(image)
    if cookies is not None:
        text = "; ".join(f"{cookie.get('name')}={cookie.text.strip()}" for cookie in _cookies(image))
        yield b.secret(cookies, text.encode(), source)
    yield from _tls_options(image, b)
    if image.encryption is not None:
        for name, node in zip(encryption_secrets(image), image.encryption.all("secret"), strict=True):
            yield b.secret(name, find_secret(node, "volume", b), node)


def find_secret(secret: Node | None, kind: str, b: Build) -> bytes:
    """The plain secret that the host keeps for a ``<secret>`` of the document."""
    reference = (secret.get("uuid") or secret.get("usage") or "") if secret is not None else ""
    return b.host.find_secret(kind, reference)


def _tls_options(image: Image, b: Build) -> Iterator[Option]:
    name = tls_credentials(image, b)
    if name is None:
        return
    config = b.host.config
    directory, secret = {
        "nbd": (config.nbd_tls_x509_cert_dir, config.nbd_tls_x509_secret_uuid),
        "vxhs": (config.vxhs_tls_x509_cert_dir, config.vxhs_tls_x509_secret_uuid),
    }[image.protocol]
    password = None
    if secret:
        password = f"{name}-secret0"
        yield b.secret(password, b.host.find_secret("tls", secret), image.source)
    yield b.tls_credentials(
        name, directory, server=False, verify=True, password=password, source=image.source
    )


def managed_pr_options(b: Build) -> Iterator[Option]:
    """``pr-helper0``, where any disk or SCSI device of the host has its reservations managed."""
    for disk in b.domain.lists["disk"]:
        reservations = managed_reservations(disk.node)
        if reservations is not None:
            yield managed_pr_option(reservations, b)
            return


def managed_reservations(disk: Node) -> Node | None:
    """The ``<reservations>`` of a disk or an image below that libvirt manages."""
    holder: Node | None = disk
    while holder is not None:
        reservations = holder.find("source/reservations")
        if reservations is not None and reservations.get("managed") == "yes":
            return reservations
        holder = holder.child("backingStore")
    return None


def managed_pr_option(reservations: Node, b: Build) -> Option:
    """``pr-helper0``."""
    properties = {"qom-type": "pr-manager-helper", "id": MANAGED_HELPER, "path": managed_socket(b)}
    return b.object(properties, reservations, "persistent reservations, managed by libvirt")


def managed_socket(b: Build) -> str:
    """Where the helper of managed reservations listens."""
    return f"{b.domain_dir}/{MANAGED_HELPER}.sock"
