"""What is told to a QEMU between its start and the guest's: what a command line has no words for.

https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qemushim.context import Build
from qemushim.devices.memballoon import Memballoon
from qemushim.driver.verify import PERIPHERAL, Asked
from qemushim.hotplug.settings import start_commands
from qemushim.machine.domain import Domain

Commands = Iterator[tuple[str, dict[str, Any]]]

#: what ends a guest → (action of QEMU's, lifecycle word → what QEMU is to do)
_ACTIONS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("on_poweroff", "shutdown", {}),
    ("on_reboot", "reboot", {"destroy": "shutdown"}),
    ("on_crash", "panic", {"preserve": "pause"}),
)
_USUAL = {"shutdown": "poweroff", "reboot": "reset", "panic": "shutdown"}
#: words that would need somebody to start the guest anew
_ANEW = {"on_poweroff": ("restart", "rename-restart"), "on_crash": ("restart", "coredump-restart")}
#: ids of a CPU's place, the outermost first
_PLACE = ("socket-id", "die-id", "cluster-id", "core-id", "thread-id")


def finish(monitor: Asked, b: Build) -> list[str]:
    """Tell QEMU everything; notes on what can not be had.  Raises ``MonitorError``."""
    for command, arguments in _lifecycle(b):
        monitor.execute(command, arguments)
    for told in start_commands(b.domain, b.host):
        monitor.execute(told.execute, dict(told.arguments))
    for command, arguments in _balloon(b.domain):
        monitor.execute(command, arguments)
    _plug_processors(monitor, b.domain)
    return list(_notes(b.domain))


def _lifecycle(b: Build) -> Commands:
    """What QEMU is to do by itself, as nobody listens all the time."""
    if not b.emulator.qapi("set-action"):
        return
    actions = {
        action: words.get(str(getattr(b.domain, element) or ""), _USUAL[action])
        for element, action, words in _ACTIONS
    }
    yield "set-action", actions


def _notes(domain: Domain) -> Iterator[str]:
    for element, words in _ANEW.items():
        word = getattr(domain, element)
        if word in words and not (element == "on_crash" and not domain.lists["panic"]):
            yield f"<{element}>{word}</{element}>: the guest is not started anew, it ends"


def _balloon(domain: Domain) -> Commands:
    """The memory that the guest begins with, and how often it is to say what it has."""
    for device in domain.all(Memballoon):
        if device.model == "none":
            continue
        if device.stats_period:
            path = f"{PERIPHERAL}/{device.alias}"
            yield (
                "qom-set",
                {"path": path, "property": "guest-stats-polling-interval", "value": device.stats_period},
            )
        current, most = domain.current_memory, domain.memory
        if current is not None and most is not None and current < most:
            yield "balloon", {"value": current * 1024}


def _plug_processors(monitor: Asked, domain: Domain) -> None:
    """Processors that the guest may give back are plugged in one by one."""
    states = domain.vcpus.vcpus if domain.vcpus is not None else []
    wanted = [state.id for state in states if state.enabled and state.hotpluggable]
    if not wanted:
        return
    entries = sorted(
        monitor.execute("query-hotpluggable-cpus"),
        key=lambda entry: [entry["props"].get(name, 0) for name in _PLACE],
    )
    first = 0
    for entry in entries:
        if first in wanted and "qom-path" not in entry:
            monitor.execute("device_add", {"driver": entry["type"], "id": f"vcpu{first}", **entry["props"]})
        first += entry["vcpus-count"]


__all__ = ["finish"]
