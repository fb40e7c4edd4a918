"""Domain documents from wherever they are: files, folders, a libvirt connection."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from qemushim.errors import ConfigError, DriverError

#: ``qemu:///system``, ``qemu+ssh://host/system``, ``test:///default``
_URI = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.DOTALL)
#: what a domain document begins with, behind comments and a declaration
_DOMAIN = re.compile(rb"\A(?:\xef\xbb\xbf)?(?:\s|<\?.*?\?>|<!--.*?-->)*<domain\b", re.DOTALL)


def documents(place: str) -> Iterator[tuple[str, bytes]]:
    """(name, text) of every domain of a file, a folder (its ``*.xml``) or a libvirt URI, by name.

    Of a folder, files that hold something else (networks, snapshots) are passed over.  Raises ``ConfigError`` or
    ``DriverError``.
    """
    if _URI.fullmatch(place):
        yield from _of_connection(place)
    elif os.path.isdir(place):
        for name in sorted(os.listdir(place)):
            path = os.path.join(place, name)
            if name.endswith(".xml") and os.path.isfile(path):
                text = _read(path)
                if _DOMAIN.match(text):
                    yield path, text
    else:
        yield place, _read(place)


def how_many(place: str) -> int:
    """How many documents that may be, without reading one; of a connection 0: it is not asked for that.

    Raises ``ConfigError`` where there is no such place.
    """
    if _URI.fullmatch(place):
        return 0
    if not os.path.exists(place):
        raise ConfigError("cannot read the document: No such file or directory", file=place)
    return sum(name.endswith(".xml") for name in os.listdir(place)) if os.path.isdir(place) else 1


def _read(path: str) -> bytes:
    from qemushim.document.parse import MAX_BYTES

    try:
        with open(path, "rb") as file:
            # one byte more, so that the parser says that it is too large
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(f"cannot read the document: {reason}", file=path) from None


def _of_connection(uri: str) -> list[tuple[str, bytes]]:
    try:
        import libvirt
    except ImportError:
        hint = "pip install 'qemushim[libvirt]', or: virsh dumpxml --inactive NAME > NAME.xml"
        raise DriverError("a libvirt URI needs the Python module of libvirt", hint=hint) from None
    # it would print every error beside raising it
    libvirt.registerErrorHandler(_ignore, None)
    try:
        connection = libvirt.openReadOnly(uri)
        try:
            found = [
                (f"{uri}#{domain.name()}", domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).encode())
                for domain in connection.listAllDomains()
            ]
        finally:
            connection.close()
    except libvirt.libvirtError as problem:
        raise DriverError(
            f"{uri}: {problem.get_error_message()}", hint="try: virsh -c URI list --all"
        ) from None
    return sorted(found)


def _ignore(context: Any, error: Any) -> None:
    """What libvirt says is raised, too."""
