"""What a command line only refers to: secrets, TLS credentials, open files.

A secret is never put into the document, and never printed: the document names a secret of libvirt's, and the user is
told which, so that none is lost.
"""

from __future__ import annotations

import base64
import binascii

from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line
from qemushim.fromargv.syntax import UnreadableError
from qemushim.host import nominal_uuid

#: ids of secrets that libvirt makes for itself
MASTER_KEY = "masterKey0"


def secret_reference(line: Line, name: str | None, kind: str) -> dict[str, str]:
    """``uuid=`` of the libvirt secret that stands for a ``-object secret``; the user is told of it.

    Raises ``UnreadableError`` where there is no such object.
    """
    if not name:
        raise UnreadableError("a secret without a name")
    argument = _object(line, name)
    bag = line.use(argument)
    where = _where(argument)
    bag.drop("qom-type", "id", "data", "file", "keyid", "iv", "format")
    found = {"uuid": nominal_uuid(f"secret {name}")}
    line.note(
        "secret",
        f"{name}: {where}; libvirt is to keep it as the {kind} secret {found['uuid']} "
        "(virsh secret-define, virsh secret-set-value)",
        argument,
    )
    return found


def _where(argument: Argument) -> str:
    bag = argument.bag
    if bag.was("keyid"):
        return "it is encrypted with a key that only the running guest has"
    if bag.was("file"):
        return f"it is in the file {bag.was('file')}"
    return f"it is in the clear in argument {argument.root.place.index} of the command"


def _object(line: Line, name: str) -> Argument:
    """A secret, which several devices may share.  Raises ``UnreadableError`` where there is none of that id."""
    found = line.known("-object", name)
    if found is None:
        raise UnreadableError(f"there is no -object secret {name}")
    return found


def new_secret(line: Line, what: str, kind: str, *, known: bool) -> dict[str, str]:
    """A reference to a secret that has no object: it is in a URL (``known``), or not there at all."""
    uuid = nominal_uuid(f"secret {what}")
    where = "is in the clear in the URL" if known else "is not on the command line"
    line.note("secret", f"{what}: its password {where}; libvirt is to keep it as the {kind} secret {uuid}")
    return {"uuid": uuid}


def plain_secret(line: Line, name: str) -> str | None:
    """The text of a secret that is in the clear, ``None`` where it is encrypted or in a file."""
    argument = _object(line, name)
    bag = line.use(argument)
    text, encoded = bag.was("data"), bag.was("format") == "base64"
    encrypted = bag.was("keyid") is not None
    bag.drop("qom-type", "id", "data", "file", "keyid", "iv", "format")
    if text is None or encrypted:
        return None
    if not encoded:
        return text
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def drop_credentials(line: Line, name: str) -> None:
    """TLS credentials, which are qemu.conf's in libvirt."""
    argument = line.object(name)
    bag = line.use(argument)
    password = bag.take("passwordid")
    if password:
        line.use(line.object(password)).drop("qom-type", "id", "data", "file", "keyid", "iv", "format")
    line.note(
        "changed",
        f"{name}: TLS certificates are set in qemu.conf (here: {bag.take('dir') or 'no directory'})",
        argument,
    )
    bag.drop("qom-type", "id", "endpoint", "verify-peer", "priority")


def fd_group(line: Line, path: str) -> str:
    """The group of descriptors that a disk's image was opened with, ``""`` where the host knows none."""
    if not path.startswith("/dev/fdset/"):
        return ""
    fds = {
        argument.bag.was("fd")
        for argument in line.every("-add-fd")
        if argument.bag.was("set") == path.removeprefix("/dev/fdset/")
    }
    for name, (numbers, _) in line.host.fd_groups.items():
        if {str(number) for number in numbers} == fds:
            return name
    return ""


def opened_file(line: Line, path: str, *, quiet: bool = False) -> str:
    """A path; for ``/dev/fdset/N``, which is a descriptor that QEMU got and made another of, a name to be replaced."""
    if not path.startswith("/dev/fdset/"):
        return path
    what = path.removeprefix("/dev/fdset/")
    for argument in line.every("-add-fd"):
        if argument.bag.was("set") == path.removeprefix("/dev/fdset/"):
            argument.read = True
            what = argument.bag.was("opaque") or what
    if not quiet:
        line.note(
            "lost",
            f"{path}: what it is open on is not on the command line; put its path in place of /unknown/{what}",
        )
    return f"/unknown/{what}"
