"""Devices that join, change or leave a guest that runs: the monitor commands for it, and the document that results.

Pure: nothing is sent.  ``plan_attach``, ``plan_detach`` and ``plan_update`` make a ``Plan``; somebody else holds its
conversation with QEMU.

    plan = plan_attach(guest, "<disk …>", emulator, host)
    guest = plan.carry_out(lambda command: monitor.execute(command.execute, command.arguments))
"""

from __future__ import annotations

from qemushim.hotplug.attach import plan_attach
from qemushim.hotplug.detach import find_device, plan_detach
from qemushim.hotplug.live import LiveGuest
from qemushim.hotplug.plan import Conversation, Plan, QmpCommand
from qemushim.hotplug.update import plan_update

__all__ = [
    "Conversation",
    "LiveGuest",
    "Plan",
    "QmpCommand",
    "find_device",
    "plan_attach",
    "plan_detach",
    "plan_update",
]
