"""The human monitor over its UNIX socket: commands in, their text out, in bounded time.

The monitor was made for a terminal: it repeats every byte that it is sent, with escape sequences that move
the cursor, and says ``(qemu)`` when it is ready.  https://www.qemu.org/docs/master/system/monitor.html
"""

from __future__ import annotations

import re
import socket
import time
from types import TracebackType
from typing import Self

from qemushim.devices.address import PciAddress
from qemushim.driver import sockets
from qemushim.driver.pciinfo import PciRecord, read_drive_added, read_pci, read_pci_added
from qemushim.errors import MonitorError

PROMPT = b"(qemu) "
#: seconds until a monitor that says nothing is given up
TIMEOUT = 10.0
#: bytes of one reply: far more than any command of interest says
_MOST = 8 * 1024 * 1024
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: what QEMU before 0.10 says to arguments in the later form
_OLD_SYNTAX = "invalid char in expression"


def clean_reply(raw: bytes) -> str:
    """What a command said: without its echo, without the prompt behind it, with plain line ends."""
    text = raw.decode("utf-8", "replace")
    _echo, _, body = text.partition("\n")
    body = body.removesuffix(PROMPT.decode())
    return _ESCAPE.sub("", body).replace("\r", "")


class HumanMonitor:
    """A connection to one monitor; closes itself at the end of a ``with`` block."""

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        """Connect, waiting for the socket to appear.  Raises ``MonitorError`` when the time is over."""
        self.path = path
        self.timeout = timeout
        deadline = time.monotonic() + timeout
        self._socket = self._connect(deadline)
        try:
            #: what the monitor said first
            self.banner = self._read(deadline, PROMPT).decode("utf-8", "replace")
        except MonitorError:
            self.close()
            raise

    def _connect(self, deadline: float) -> socket.socket:
        while True:
            try:
                return sockets.connect(self.path, max(deadline - time.monotonic(), 0.01))
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as problem:
                if time.monotonic() >= deadline:
                    raise MonitorError(
                        f"no monitor answers at '{self.path}': {problem.strerror}"
                    ) from problem
                time.sleep(0.02)
            except OSError as problem:
                raise MonitorError(f"cannot connect to monitor '{self.path}': {problem}") from problem

    def _read(self, deadline: float, end: bytes) -> bytes:
        """All up to and with ``end``, after which the monitor is silent."""
        data = bytearray()
        while not data.endswith(end):
            left = deadline - time.monotonic()
            if left <= 0:
                raise MonitorError(f"monitor '{self.path}' did not answer within {self.timeout:g} seconds")
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError as problem:
                raise MonitorError(f"cannot read from monitor '{self.path}': {problem}") from problem
            if not chunk:
                raise MonitorError(f"monitor '{self.path}' closed the connection")
            data += chunk
            if len(data) > _MOST:
                raise MonitorError(f"monitor '{self.path}' said more than {_MOST} bytes")
        return bytes(data)

    def command(self, text: str) -> str:
        """What the monitor says to one command.  Raises ``MonitorError``."""
        if "\n" in text or "\r" in text:
            raise MonitorError("a monitor command is one line")
        deadline = time.monotonic() + self.timeout
        self._write(text)
        return clean_reply(self._read(deadline, b"\n" + PROMPT))

    def last(self, text: str) -> None:
        """A command after which the monitor is gone.  Raises ``MonitorError`` where it stays."""
        deadline = time.monotonic() + self.timeout
        self._write(text)
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if not self._socket.recv(65536):
                    return
            except ConnectionResetError:
                return
            except OSError:
                break
        raise MonitorError(f"monitor '{self.path}' is still there after '{text}'")

    def _write(self, text: str) -> None:
        try:
            self._socket.settimeout(self.timeout)
            self._socket.sendall(text.encode() + b"\n")
        except OSError as problem:
            raise MonitorError(f"cannot write to monitor '{self.path}': {problem}") from problem

    def pci(self) -> list[PciRecord]:
        """The cards of the guest."""
        return read_pci(self.command("info pci"))

    def pci_add(self, what: str) -> PciAddress:
        """Plug a card in (``nic model=virtio``).  Raises ``MonitorError`` where QEMU did not."""
        reply = self._either(f"pci_add pci_addr=auto {what}", f"pci_add 0 {what}")
        address = read_pci_added(reply)
        if address is None:
            raise MonitorError(f"QEMU did not add the card: {reply.strip() or 'no reply'}")
        return address

    def drive_add(self, address: PciAddress, what: str) -> tuple[int, int]:
        """Attach a drive to a controller; bus and unit that it got.  Raises ``MonitorError``."""
        place = f"{address.domain}:{address.bus}:{address.slot}"
        reply = self._either(f"drive_add pci_addr={place} {what}", f"drive_add {place} {what}")
        unit = read_drive_added(reply)
        if unit is None:
            raise MonitorError(f"QEMU did not add the drive: {reply.strip() or 'no reply'}")
        return unit

    def _either(self, text: str, older: str) -> str:
        """The reply to a command; where it is not understood, to its older form."""
        reply = self.command(text)
        return self.command(older) if _OLD_SYNTAX in reply else reply

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
