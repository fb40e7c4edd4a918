"""The monitor of a guest, whichever language it speaks."""

from __future__ import annotations

import os
import time
from typing import Protocol

from qemushim.driver.hmp import HumanMonitor
from qemushim.driver.pciinfo import PciRecord
from qemushim.driver.process import Process
from qemushim.driver.qmpmonitor import TIMEOUT, QmpMonitor
from qemushim.errors import MonitorError

#: the languages: QMP, and the text that people type
QMP, HUMAN = "qmp", "human"
#: seconds between two looks whether QEMU has made its socket
_POLL = 0.02


class Monitor(Protocol):
    """What both can do.  Everything raises ``MonitorError`` where QEMU refuses, is gone, or says nothing in time."""

    def status(self) -> str:
        """``running``, ``paused``, ``prelaunch``, ``shutdown`` …"""

    def resume(self) -> None: ...

    def pause(self) -> None: ...

    def powerdown(self) -> None:
        """Press the guest's power button."""

    def quit(self) -> None:
        """End QEMU."""

    def close(self) -> None: ...


class TextMonitor(HumanMonitor):
    """The human monitor, for a guest as a whole."""

    def status(self) -> str:
        said = self.command("info status")
        words = said.partition("VM status:")[2].split()
        if not words:
            raise MonitorError(f"monitor '{self.path}' does not tell its status: {said.strip()}")
        # “paused (prelaunch)”: the reason says more
        return words[1].strip("()") if len(words) > 1 and words[0] == "paused" else words[0]

    def resume(self) -> None:
        self.command("cont")

    def pause(self) -> None:
        self.command("stop")

    def powerdown(self) -> None:
        self.command("system_powerdown")

    def quit(self) -> None:
        self.last("quit")

    def cards(self) -> list[PciRecord]:
        return self.pci()

    def terminals(self) -> str:
        return self.command("info chardev")


def open_monitor(
    dialect: str, path: str, timeout: float = TIMEOUT, process: Process | None = None
) -> QmpMonitor | TextMonitor:
    """Connect; ``timeout`` is in seconds, but nobody waits for a ``process`` that ends.  Raises ``MonitorError``."""
    deadline = time.monotonic() + timeout
    while process is not None and not os.path.exists(path):
        if not process.alive:
            raise MonitorError("QEMU ended before it opened its monitor")
        if time.monotonic() >= deadline:
            raise MonitorError(f"no monitor appears at '{path}' within {timeout:g} seconds")
        time.sleep(_POLL)
    return QmpMonitor(path, timeout) if dialect == QMP else TextMonitor(path, timeout)


__all__ = ["HUMAN", "QMP", "Monitor", "TextMonitor", "open_monitor"]
