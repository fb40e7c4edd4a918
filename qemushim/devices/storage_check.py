"""What an image can not be: refused in libvirt's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.block_image import Image, disk_image
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.devices.disk import Disk

#: protocol → the type of the secret that its password is
SECRET_TYPES = {"iscsi": "iscsi", "rbd": "ceph"}
#: protocols whose servers ask for no password that QEMU could give
_WITHOUT_LOGIN = frozenset({"gluster", "nbd", "nfs", "sheepdog", "vxhs"})
#: what a secret of a server may be
KNOWN_SECRETS = ("volume", "ceph", "iscsi", "tls", "vtpm")
#: formats that are encrypted
ENCRYPTED_FORMATS = frozenset({"raw", "qcow2"})


def check_chain(disk: Disk, d: Define) -> None:
    """Raise ``ConfigError`` where an image of a disk's chain can not be had."""
    top = disk_image(disk, disk.type, disk.node.child("source"))
    for image in top.chain():
        _check_format(image, d)
        _check_encryption(image, d)
        if image.auth is not None:
            check_auth_secret(image.auth, image.protocol)
        _check_source(image, d)


def _check_format(image: Image, d: Define) -> None:
    place = image.source
    if image.format == "fat" and image.kind != "volume":
        if image.kind != "dir":
            message = "storage format 'fat' is supported only with 'dir' storage type"
            raise error.unsupported(message, place, "type='dir'")
        if not image.readonly:
            message = "virtual FAT storage can't be accessed in read-write mode"
            raise error.unsupported(message, place, "add <readonly/>")
    elif image.format == "dir":
        raise error.unsupported(
            "'directory' storage format is not directly supported by QEMU, use 'dir' disk type instead",
            place,
            "<disk type='dir'> with <driver type='fat'/>",
        )
    elif image.format == "iso":
        raise error.unsupported(
            "storage format 'iso' is not directly supported by QEMU, use 'raw' instead", place, "type='raw'"
        )
    elif image.format == "cow":
        raise error.unsupported("'cow' storage format is not supported", place, "type='qcow2'")
    elif image.kind == "dir":
        raise error.unsupported(
            "storage type 'dir' requires use of storage format 'fat'", place, "type='fat'"
        )
    if image.data is not None and image.format != "qcow2":
        raise error.unsupported(
            "'dataStore' is only supported with 'qcow2' images", place, "<driver type='qcow2'/>"
        )
    if image.metadata_cache and image.format != "qcow2":
        message = "metadata cache max size control is supported only with qcow2 images"
        raise error.unsupported(message, place, "drop <metadata_cache>")
    if image.settings.discard_no_unref is not None and not d.emulator.qapi(
        "blockdev-add/arg-type/+qcow2/discard-no-unref"
    ):
        raise error.unsupported(
            "'discard_no_unref' is not supported by this QEMU binary",
            place,
            "drop discard_no_unref=, or QEMU 8.1 or newer",
        )


def _check_encryption(image: Image, d: Define) -> None:
    encryption = image.encryption
    if encryption is None:
        return
    kind, engine = encryption.get("format"), encryption.get("engine")
    if kind in ("default", "qcow"):
        raise error.unsupported("old qcow/qcow2 encryption is not supported", encryption, "format='luks'")
    if engine == "librbd":
        _check_librbd(image, d)
    elif image.format not in ENCRYPTED_FORMATS:
        raise error.unsupported(
            "encryption is supported only with 'raw' and 'qcow2' image format",
            encryption,
            "<driver type='qcow2'/>",
        )
    elif kind in ("luks2", "luks-any"):
        raise error.unsupported(
            f"'{kind}' is currently not supported by the qemu encryption engine", encryption, "format='luks'"
        )
    elif encryption.child("cipher") is not None:
        message = "supplying <cipher> for domain disk definition is unnecessary"
        raise error.unsupported(message, encryption, "drop <cipher>: the image knows it")
    elif len(encryption.all("secret")) > 1:
        message = "qemu encryption engine expects only a single secret"
        raise error.unsupported(message, encryption, "keep one <secret>")


def _check_librbd(image: Image, d: Define) -> None:
    encryption = image.encryption
    assert encryption is not None
    ask = d.emulator.qapi
    if not ask("blockdev-add/arg-type/+rbd/encrypt"):
        raise error.unsupported(
            "librbd encryption is not supported by this QEMU binary", encryption, "QEMU 6.1 or newer"
        )
    if encryption.get("format") == "luks-any" and not ask(
        "blockdev-add/arg-type/+rbd/encrypt/format/^luks-any"
    ):
        raise error.unsupported(
            "luks-any encryption is not supported by this QEMU binary",
            encryption,
            "format='luks', or QEMU 8.0 or newer",
        )
    if len(encryption.all("secret")) > 1 and not ask("blockdev-add/arg-type/+rbd/encrypt/parent"):
        raise error.unsupported(
            "librbd encryption layering is not supported by this QEMU binary", encryption, "QEMU 8.0 or newer"
        )


def check_auth_secret(auth: Node, protocol: str) -> None:
    """Raise ``ConfigError`` unless the password's secret is of the type that the protocol asks for."""
    if protocol in _WITHOUT_LOGIN:
        message = f"authentication is not supported for protocol '{protocol}'"
        raise error.unsupported(message, auth, "drop <auth>")
    wanted, secret = SECRET_TYPES.get(protocol), auth.child("secret")
    if secret is None or wanted is None:
        return
    given = secret.get("type")
    if given not in KNOWN_SECRETS:
        shown = "<null>" if given is None else given
        raise error.unsupported(f"unknown secret type '{shown}'", secret, f"type='{wanted}'")
    if given != wanted:
        raise error.unsupported(f"invalid secret type '{given}'", secret, f"type='{wanted}'")


def _check_nfs(image: Image) -> None:
    servers = image.source.all("host")
    if len(servers) != 1:
        message = "'nfs' protocol requires the usage of exactly one host"
        raise error.unsupported(message, image.source, "keep one <host>")
    [server] = servers
    if (server.get("transport") or "tcp") != "tcp":
        raise error.unsupported("'nfs' host must use TCP protocol", server, "drop transport=")
    if server.get("port") is not None:
        raise error.unsupported("port cannot be specified in 'nfs' protocol host", server, "drop port=")


def _check_source(image: Image, d: Define) -> None:
    source, ask = image.source, d.emulator.qapi
    if image.kind == "nvme" and not ask("blockdev-add/arg-type/+nvme"):
        raise error.unsupported(
            "NVMe disks are not supported with this QEMU binary", source, "QEMU 2.12 or newer"
        )
    if image.kind == "vhostvdpa" and not ask("blockdev-add/arg-type/+virtio-blk-vhost-vdpa/$fdset"):
        raise error.unsupported(
            "vhostvdpa disk is not supported with this QEMU binary", source, "QEMU 8.1 or newer"
        )
    if image.settings.io == "io_uring" and not ask("blockdev-add/arg-type/+file/aio/^io_uring"):
        raise error.unsupported(
            "io uring is not supported by this QEMU binary", source, "io='threads' or 'native'"
        )
    if source.child("reservations") is not None and not d.emulator.has_object("pr-manager-helper"):
        raise error.unsupported(
            "reservations not supported with this QEMU binary", source, "QEMU 3.0 or newer"
        )
    if image.kind != "network":
        return
    if image.protocol == "sheepdog":
        raise error.unsupported(
            "'sheepdog' protocol is no longer supported by any hypervisor driver",
            source,
            "QEMU 6.1 dropped it",
        )
    if image.protocol == "nfs":
        _check_nfs(image)
    if image.protocol == "tftp":
        message = "'tftp' protocol is not supported with this QEMU binary"
        raise error.unsupported(message, source, "QEMU 2.9 dropped it")
    if source.get("tlsHostname") is not None:
        if image.protocol != "nbd":
            message = "'tlsHostname' field is supported only with NBD disks"
            raise error.unsupported(message, source, "drop tlsHostname=")
        if not ask("blockdev-add/arg-type/+nbd/tls-hostname"):
            raise error.unsupported(
                "'tlsHostname' field is not supported by this QEMU",
                source,
                "drop tlsHostname=, or QEMU 7.0 or newer",
            )
