"""The way in to libvirt: ``qemushim.open`` and ``qemushim.wrap``.  Only here may libvirt-python be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qemushim.errors import DriverError

if TYPE_CHECKING:
    from qemushim.driver.connection import Connection
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host


def wrap(
    conn: Any,
    *,
    emulator: str | Emulator | None = None,
    host: Host | None = None,
    strict: bool = False,
) -> Connection:
    """A connection of libvirt-python, whose guests keep their addresses.

    ``emulator``: the QEMU that runs the guests, where it is not to be found out (a version, a path, an ``Emulator``);
    ``host``: the facts of its host.  ``strict``: refuse to define what would be another machine for the guest.
    """
    from qemushim.driver.connection import Connection

    return Connection(conn, emulator=emulator, host=host, strict=strict)


def open(  # noqa: A001
    uri: str | None = None,
    *,
    emulator: str | Emulator | None = None,
    host: Host | None = None,
    strict: bool = False,
) -> Connection:
    """Connect to libvirt and ``wrap`` the connection; ``uri`` as for ``libvirt.open``.

    Raises ``libvirt.libvirtError``; ``DriverError`` where libvirt-python is not installed.
    """
    try:
        import libvirt
    except ModuleNotFoundError as problem:
        hint = "pip install 'qemushim[libvirt]', or apt-get install python3-libvirt"
        raise DriverError("libvirt-python is not installed", hint=hint) from problem
    return wrap(libvirt.open(uri), emulator=emulator, host=host, strict=strict)
