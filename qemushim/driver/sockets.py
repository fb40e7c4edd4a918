"""UNIX sockets below paths of any length: the kernel takes 108 bytes, a user's state folder may be deeper."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator

#: bytes of an address, with the one behind it
_LONGEST = 108
#: connections that wait until QEMU takes them
_BACKLOG = 8


@contextlib.contextmanager
def reachable(path: str) -> Iterator[str]:
    """An address for the path that is short enough, whatever its folder is called.  Raises ``OSError``."""
    if len(os.fsencode(path)) < _LONGEST:
        yield path
        return
    folder, name = os.path.split(path)
    descriptor = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def listen(path: str, mode: int = 0o600) -> int:
    """A descriptor that listens at the path; a socket that an earlier guest left there goes.  Raises ``OSError``."""
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(server):
        # the mode of the socket is that of the file which ``bind`` makes
        os.fchmod(server.fileno(), mode)
        with reachable(path) as address:
            _remove_dead(address)
            server.bind(address)
        server.listen(_BACKLOG)
        return server.detach()


def connect(path: str, timeout: float) -> socket.socket:
    """A connection to the path; ``timeout`` in seconds.  Raises ``OSError``."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        with reachable(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def _remove_dead(address: str) -> None:
    """Remove a socket that nobody listens on any more; ``bind`` refuses whatever else is there."""
    try:
        # any file refuses connections
        if not stat.S_ISSOCK(os.stat(address).st_mode):
            return
    except OSError:
        return
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
        except OSError:
            pass
