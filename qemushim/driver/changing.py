"""Devices of a guest of our own that come and go: planned for both of its documents, announced, said to QEMU, stored.

Whatever ends in between is found by whoever looks next (``resolve``): a change that QEMU has made is stored then, and
of one that it has not, nothing is left.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qemushim.compare.abi import describe
from qemushim.context import Build
from qemushim.devices.base import Device
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.document.writer import keep
from qemushim.driver.descriptors import Opened
from qemushim.driver.monitor import TextMonitor
from qemushim.driver.ownhost import own_host
from qemushim.driver.plug import plan_joining, the_device, without
from qemushim.driver.qmpmonitor import QmpMonitor
from qemushim.driver.readback import read_back
from qemushim.driver.site import Site
from qemushim.driver.starting import connection_of, emulator_of
from qemushim.driver.state import Folder, Pending, Running
from qemushim.driver.verify import peripherals, verify
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError, DriverError, MonitorError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.hotplug.attach import plan_attach
from qemushim.hotplug.detach import plan_detach
from qemushim.hotplug.live import LiveGuest
from qemushim.hotplug.plan import Plan, QmpCommand

#: seconds that a guest has to let go of a device
PATIENCE = 5.0
#: where the master key is, beside the monitor
_KEY = "master-key.aes"


class Here(Site):
    """Where guests of our own run: on this machine, with the emulator that is named."""

    def __init__(self, emulator: Emulator, host: Host) -> None:
        self._emulator = emulator
        self._host = host
        self.kind, self.uri = "QEMU", ""

    def emulator(self, guest: Guest, stored: Guest | None = None) -> Emulator:
        assert isinstance(self._emulator, Emulator)
        return self._emulator

    def trim(self, guest: Guest) -> None:
        """Nobody stands between who knows every device: nothing is taken out."""


class Changes:
    """Changes of one guest, whose lock is held."""

    def __init__(
        self, folder: Folder, running: Running | None, host: Host, secrets: Mapping[str, bytes] | None = None
    ) -> None:
        self.folder = folder
        self.running = running
        key = b""
        if running is not None and running.monitor:
            path = Path(running.monitor).with_name(_KEY)
            key = path.read_bytes() if path.exists() else b""
        self.host = own_host(host, folder, running.id if running is not None else -1, key, secrets or {})

    # -- documents -----------------------------------------------------------------------------------------------

    def _stored(self) -> Guest | None:
        text = self.folder.definition()
        return None if text is None else Guest.from_xml(text, str(self.folder.definition_path))

    def _live(self) -> LiveGuest:
        assert self.running is not None
        return LiveGuest.of(Guest.from_xml(self.running.live), nodes=self.running.nodes)

    def _emulator(self, guest: Guest) -> Emulator:
        binary = self.running.binary if self.running is not None else ""
        return emulator_of(guest, self.host, binary, legacy=self.folder.legacy)

    # -- attach --------------------------------------------------------------------------------------------------

    def attach(
        self, monitor: QmpMonitor | TextMonitor | None, text: str, *, config: bool, file: str = ""
    ) -> str:
        """One device more, for the running guest where there is a monitor, and for the definition; its XML."""
        parse(text, file)
        stored = self._stored()
        if monitor is None:
            return self._attach_stored(stored, text, file)
        qmp = _able(monitor)
        live = self._live()
        emulator = self._emulator(live)
        into = "both" if config and stored is not None else "live"
        joining = plan_joining(text, Here(emulator, self.host), stored, live, into=into)
        plans, after = self._plans(live, joining.live, emulator)
        known = {device.alias for device in live.domain.every()}
        new = [device for device in after.domain.every() if device.alias not in known]
        what = describe(new[-1]) if new else "a device"
        pending = Pending(
            "attach", _devices(plans), what, [_sent(c) for p in reversed(plans) for c in p.rollback]
        )
        definition = (
            joining.definition.to_xml() if joining.definition is not None and into == "both" else None
        )
        self._announce(pending, definition, after, gained=pending.devices)
        with Opened() as opened:
            try:
                after = self._carry_out(qmp, plans, opened, after)
            except MonitorError:
                self.folder.abandon()
                raise
            for alias, name in opened.taps.items():
                for interface in after.domain.lists["interface"]:
                    if interface.alias == alias and name:
                        interface.node.ensure("target").set("dev", name)
        self._conclude(after)
        return joining.live[-1]

    def _attach_stored(self, stored: Guest | None, text: str, file: str) -> str:
        if stored is None:
            raise DriverError(f"guest '{self.folder.name}' has no definition", hint="qemushim run FILE")
        emulator = self._emulator(stored)
        if emulator.classic:
            definition, device = stored.joined(text, emulator, self.host, file=file)
            self.folder.store(definition=definition.to_xml())
            return keep(device.node)
        live = self._live() if self.running is not None else None
        joining = plan_joining(text, Here(emulator, self.host), stored, live, into="config")
        assert joining.definition is not None
        self.folder.store(definition=joining.definition.to_xml())
        return joining.config[-1]

    def _plans(
        self, live: LiveGuest, texts: Sequence[str], emulator: Emulator
    ) -> tuple[list[Plan], LiveGuest]:
        """One for each device, in turn; and the guest behind the last."""
        plans = []
        for text in texts:
            plans.append(plan_attach(live, text, emulator, self.host))
            live = plans[-1].document
        return plans, live

    def _carry_out(
        self, monitor: QmpMonitor, plans: Sequence[Plan], opened: Opened, after: LiveGuest
    ) -> LiveGuest:
        """Say all of them, or take all of them back."""
        send = self._sender(monitor, opened, after)
        done: list[Plan] = []
        guest = after
        for plan in plans:
            try:
                guest = plan.carry_out(send)
            except MonitorError:
                for one in reversed(done):
                    _say_all(monitor, [_sent(command) for command in one.rollback])
                raise
            done.append(plan)
        return guest

    # -- detach --------------------------------------------------------------------------------------------------

    def detach(
        self,
        monitor: QmpMonitor | TextMonitor | None,
        name: str,
        *,
        config: bool,
        patience: float | None = None,
    ) -> str:
        """One device less; what it was."""
        stored = self._stored()
        if monitor is None:
            if stored is None:
                raise DriverError(f"guest '{self.folder.name}' has no definition", hint="qemushim run FILE")
            text = keep(_named(stored, name).node) if not _is_xml(name) else name
            device = the_device(text, stored)
            self.folder.store(definition=without(stored, device).to_xml())
            return describe(device)
        qmp = _able(monitor)
        live = self._live()
        device = the_device(name, live) if _is_xml(name) else _named(live, name)
        emulator = self._emulator(live)
        plan = plan_detach(live, keep(device.node), emulator, self.host)
        definition = None
        if config and stored is not None:
            twin = _twin(device, stored)
            definition = without(stored, twin).to_xml() if twin is not None else None
        awaited = [command.awaits for command in plan.commands if command.awaits]
        # of what has no device in the guest everything can be said once more
        left = plan.leftovers if awaited else plan.commands
        pending = Pending("detach", awaited, describe(device), [_sent(command) for command in left])
        self._announce(pending, definition, plan.document, lost=awaited)
        try:
            with Opened() as opened:
                after = plan.carry_out(
                    self._sender(qmp, opened, live, PATIENCE if patience is None else patience)
                )
        except (MonitorError, DriverError):
            self.folder.abandon()
            raise
        self._conclude(after)
        return pending.what

    # -- what was left undone ------------------------------------------------------------------------------------

    def resolve(self, monitor: QmpMonitor) -> list[str]:
        """Finish or forget a change that was interrupted, and note which devices the guest has given back since.

        Raises ``MonitorError``.
        """
        notes = []
        pending = self.folder.pending()
        if pending is not None:
            notes.append(self._resolve_pending(monitor, pending))
            self.running = self.folder.running()
        else:
            self.folder.abandon()
        running = self.running
        if running is None or not running.devices:
            return notes
        gone = set(running.devices) - peripherals(monitor)
        for alias in sorted(gone):
            notes += self._departed(monitor, alias)
        if gone:
            self.folder.store(running=running)
        return notes

    def _resolve_pending(self, monitor: QmpMonitor, pending: Pending) -> str:
        wanted = set(pending.devices)
        present = peripherals(monitor) & wanted
        attach = pending.operation == "attach"
        if (bool(wanted) and present == wanted) if attach else not present:
            if not attach:
                _say_all(monitor, pending.leftovers)
            self.folder.commit()
            return f"{pending.operation} of {pending.what} had been interrupted, and is complete now"
        if attach:
            _say_all(monitor, pending.leftovers)
        self.folder.abandon()
        return f"{pending.operation} of {pending.what} had been interrupted, and did not take place"

    def _departed(self, monitor: QmpMonitor, alias: str) -> list[str]:
        """A device that the guest let go of after nobody waited any more."""
        running = self.running
        assert running is not None
        running.devices = [name for name in running.devices if name != alias]
        live = self._live()
        device = next((device for device in live.domain.every() if device.alias == alias), None)
        if device is None:
            return []
        plan = plan_detach(live, keep(device.node), self._emulator(live), self.host)
        _say_all(monitor, [_sent(command) for command in plan.leftovers])
        running.live, running.nodes = plan.document.to_xml(), plan.document.nodes
        return [f"the guest has let go of {describe(device)}; its definition still has it"]

    # -- storing -------------------------------------------------------------------------------------------------

    def _announce(
        self,
        pending: Pending,
        definition: str | None,
        after: LiveGuest,
        *,
        gained: Sequence[str] = (),
        lost: Sequence[str] = (),
    ) -> None:
        """Put on the disk what is about to be done, and what will be then."""
        running = self.running
        assert running is not None
        running.devices = sorted((set(running.devices) | set(gained)) - set(lost))
        running.live, running.nodes = after.to_xml(), max(running.nodes, after.nodes)
        self.folder.prepare(pending, definition=definition, running=running)

    def _conclude(self, after: LiveGuest) -> None:
        """QEMU has done it: with what it told on the way, the documents are replaced."""
        running = self.running
        assert running is not None
        live = after.to_xml()
        if live != running.live:
            running.live = live
            self.folder.prepare_again(running)
        self.folder.commit()

    # -- looking -------------------------------------------------------------------------------------------------

    def verify(self, monitor: QmpMonitor, counts: dict[str, int]) -> list[str]:
        """Where devices are not where the live document says; ``counts`` gets how many are, by type of address."""
        live = self._live()
        verdict = verify(monitor, Build(live.domain, self._emulator(live), self.host))
        counts.clear()
        counts.update(verdict.checked)
        return [str(difference) for difference in verdict.differences]

    def verify_human(self, monitor: TextMonitor) -> list[str]:
        assert self.running is not None
        result = read_back(parse(self.running.live), monitor.cards())
        return [str(difference) for difference in result.differences]

    # -- saying --------------------------------------------------------------------------------------------------

    def _sender(
        self, monitor: QmpMonitor, opened: Opened, guest: LiveGuest, patience: float = PATIENCE
    ) -> Callable[[QmpCommand], Any]:
        """What says one command to QEMU, with the descriptor that goes with it, and waits for what it takes."""

        def send(command: QmpCommand) -> Any:
            if command.descriptor is None:
                answer = monitor.execute(command.execute, command.arguments)
            else:
                answer = self._hand_over(monitor, command, opened, guest)
            if command.awaits:
                _await_departure(monitor, command.awaits, patience)
            return answer

        return send

    def _hand_over(self, monitor: QmpMonitor, command: QmpCommand, opened: Opened, guest: LiveGuest) -> Any:
        assert command.descriptor is not None
        try:
            number = opened.open_one(command.descriptor, lambda alias: connection_of(guest.domain, alias))
        except DriverError as problem:
            # what was done before is to be taken back, as for a refusal of QEMU's
            raise MonitorError(problem.message, hint=problem.hint) from problem
        try:
            return monitor.execute_with(number, command.execute, command.arguments)
        finally:
            os.close(number)


def _await_departure(monitor: QmpMonitor, alias: str, patience: float) -> None:
    """Wait until the guest has let go of a device.  Raises ``DriverError`` where it does not."""

    def concerns(event: Mapping[str, Any]) -> bool:
        return event["event"] in ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR") and (
            event["data"].get("device") == alias
        )

    event = monitor.wait_event(concerns, patience)
    if event is None and alias in peripherals(monitor):
        raise DriverError(
            f"the guest has not let go of '{alias}' within {patience:g} seconds",
            hint="it may be busy, not have booted yet, or lack ACPI; it may still do so: ask again",
        )
    if event is not None and event["event"] != "DEVICE_DELETED":
        raise DriverError(f"the guest refuses to let go of '{alias}'", hint="something in the guest uses it")


def _say_all(monitor: QmpMonitor, commands: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Say commands whatever QEMU says to each; those to devices are waited for."""
    for command, arguments in commands:
        try:
            monitor.execute(command, arguments)
            if command == "device_del":
                _await_departure(monitor, str(arguments["id"]), PATIENCE)
        except (MonitorError, DriverError):
            continue


def _sent(command: QmpCommand) -> tuple[str, dict[str, Any]]:
    return command.execute, dict(command.arguments)


def _devices(plans: Sequence[Plan]) -> list[str]:
    """Ids of the devices that QEMU is going to have."""
    return [
        str(command.arguments["id"])
        for plan in plans
        for command in plan.commands
        if command.execute == "device_add" and "id" in command.arguments
    ]


def _able(monitor: QmpMonitor | TextMonitor) -> QmpMonitor:
    if isinstance(monitor, QmpMonitor):
        return monitor
    raise DriverError(
        "a guest that was started by flags can't be changed while it runs",
        hint="--config changes its definition, for the next start",
    )


def _is_xml(text: str) -> bool:
    return text.lstrip().startswith("<")


def _named(guest: Guest, name: str) -> Device:
    """The device of that alias, target or MAC.  Raises ``ConfigError`` where there is none, or several."""
    if not _is_xml(name):
        paths = ("alias/@name", "target/@dev", "mac/@address")
        found = [
            d for d in guest.domain.every() if name in (d.alias, *(d.node.value(path) for path in paths))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"several devices are called '{name}'", hint="say its XML")
    raise ConfigError(
        f"device not found: none of guest '{guest.name}' is called '{name}'",
        hint="say an alias, a target, a MAC, or its XML; qemushim show lists them",
    )


def _twin(device: Device, stored: Guest) -> Device | None:
    """The device of the definition that a live one is; ``None`` where the definition has it not."""
    node: Node = device.node.copy()
    alias = node.value("alias/@name") or ""
    if not alias.startswith("ua-"):
        node.discard("alias")
    try:
        return the_device(keep(node), stored)
    except ConfigError:
        return None
