"""What a guest's process inherits, really opened: listening sockets, taps, the kernel's helpers, files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterable
from types import TracebackType

from qemushim.command.command import Descriptor
from qemushim.driver import sockets
from qemushim.driver.taps import Connection, open_taps
from qemushim.errors import DriverError

#: ``VHOST_VSOCK_SET_GUEST_CID``, and the numbers that guests may have
_SET_CID = 0x4008AF60
_CIDS = range(3, 1 << 16)
_VSOCK = "/dev/vhost-vsock"

#: kind → what to do where it can't be had
_HINTS = {
    "listen": "the folder must be there and your own",
    "tpm": "the TPM must be readable and writable for you",
    "vhost-net": "load the module vhost_net, or <driver name='qemu'/>",
    "vhost-scsi": "load the module vhost_scsi",
    "vhost-vdpa": "the device must be readable and writable for you",
    "vsock": "load the module vhost_vsock",
}
#: kind → the program that would have to be run for it
_HELPERS = {"vhost-user": "passt", "slirp": "slirp-helper", "migration": "the source of the migration"}


class Opened:
    """Descriptors by their numbers for QEMU; closed at the end of a ``with`` block, when QEMU has its own."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        #: device → the tap that it got
        self.taps: dict[str, str] = {}
        #: opened before it was known under which number it goes (``kind`` → descriptor)
        self._held: dict[str, int] = {}
        self._queues: dict[str, list[int]] = {}

    def open(self, wanted: Iterable[Descriptor], connection_of: Callable[[str], Connection]) -> None:
        """Open all of them.  ``connection_of``: device → what it is connected to.  Raises ``DriverError``."""
        for one in wanted:
            if one.number not in self.numbers:
                self.numbers[one.number] = self.open_one(one, connection_of)

    def open_one(self, one: Descriptor, connection_of: Callable[[str], Connection]) -> int:
        """Open one, for the caller to close.  Raises ``DriverError``."""
        try:
            return self._open(one, connection_of)
        except OSError as problem:
            raise DriverError(
                f"cannot open '{one.target}' for {one.user or 'the guest'}: {problem.strerror}",
                hint=_HINTS.get(one.kind, ""),
            ) from problem

    def open_vsock(self) -> int:
        """Take the first guest context id that no other guest has.  Raises ``DriverError``."""
        try:
            descriptor = os.open(_VSOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError as problem:
            raise DriverError(
                f"cannot open '{_VSOCK}': {problem.strerror}", hint=_HINTS["vsock"]
            ) from problem
        self._held["vsock"] = descriptor
        for cid in _CIDS:
            try:
                fcntl.ioctl(descriptor, _SET_CID, struct.pack("Q", cid))
                return cid
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise DriverError(f"cannot use '{_VSOCK}': {problem.strerror}") from problem
        raise DriverError("every context id of a vsock is taken")

    def _open(self, one: Descriptor, connection_of: Callable[[str], Connection]) -> int:
        if one.kind in self._held:
            return self._held.pop(one.kind)
        if one.kind == "listen":
            return sockets.listen(one.target)
        if one.kind == "tap":
            return self._tap(one.user, connection_of)
        if one.kind in _HELPERS:
            raise DriverError(
                f"{one.user or 'the guest'} needs {_HELPERS[one.kind]}, which qemushim does not run",
                hint="another back end needs no helper",
            )
        return os.open(one.target, os.O_RDWR | os.O_CLOEXEC)

    def _tap(self, user: str, connection_of: Callable[[str], Connection]) -> int:
        if not self._queues.get(user):
            self.taps[user], self._queues[user] = open_taps(connection_of(user))
        return self._queues[user].pop(0)

    def close(self) -> None:
        every = [*self.numbers.values(), *self._held.values(), *(d for q in self._queues.values() for d in q)]
        for descriptor in every:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.numbers.clear()
        self._held.clear()
        self._queues.clear()

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
