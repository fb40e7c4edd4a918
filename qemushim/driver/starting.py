"""How a guest of our own is started: from a document to a QEMU that waits for ``cont``, all or nothing."""

from __future__ import annotations

import contextlib
import os
import secrets as random
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qemushim.classic.predict import predict
from qemushim.command.command import Command
from qemushim.command.layout import shell
from qemushim.context import Build
from qemushim.devices.address import PciAddress
from qemushim.devices.interface import Interface
from qemushim.document.item import Item
from qemushim.driver.descriptors import Opened
from qemushim.driver.finish import finish
from qemushim.driver.legacy import flag_emulator, todays_flags
from qemushim.driver.live import complete_live, write_classic_terminals, write_terminals
from qemushim.driver.monitor import HUMAN, QMP, TextMonitor, open_monitor
from qemushim.driver.ownhost import (
    KEY_BYTES,
    copy_nvram,
    make_folders,
    make_huge,
    own_host,
    require_images,
    require_sockets,
    with_free_ports,
    write_key,
)
from qemushim.driver.process import GRACE, Keeper, describe_end, host_start, process_of, start_kept
from qemushim.driver.qmpmonitor import QmpMonitor
from qemushim.driver.readback import read_back
from qemushim.driver.state import Folder, Running, next_id, storing
from qemushim.driver.taps import Connection
from qemushim.driver.verify import verify
from qemushim.emulator.model import Emulator
from qemushim.errors import DriverError, MonitorError, ShimError
from qemushim.guest import Guest, located
from qemushim.host import Host
from qemushim.machine.domain import Domain

#: seconds until QEMU must have answered: it may have to fill a lot of memory first
PATIENCE = 60.0
#: seconds until a QEMU that hung up has ended
_LAST_WORDS = 1.0
#: how often a start is tried that fails for a port which somebody else took meanwhile, and how QEMU says so
_TRIES, _TAKEN = 3, "Address already in use"
#: bytes of a log that the next start puts aside
_LOG_BYTES = 2 << 20


@dataclass
class Request:
    """What is to be started, and how."""

    guest: Guest
    host: Host
    #: path of the binary; ``""``: the document's, or the host's for the architecture
    binary: str = ""
    legacy: bool = False
    detached: bool = False
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    #: seconds
    patience: float = PATIENCE


@dataclass
class Started:
    """A QEMU that waits for its guest to be let run."""

    running: Running
    keeper: Keeper
    definition: Guest
    #: planned and actual addresses that differ, a line each
    differences: list[str] = field(default_factory=list)
    #: address type → how many devices sit where they were planned to
    checked: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def emulator_of(guest: Guest, host: Host, binary: str = "", *, legacy: bool = False) -> Emulator:
    """What the guest's binary can do.  Raises ``EmulatorError``."""
    node = guest.domain.node
    arch = guest.domain.arch or host.arch
    path = binary or node.value("devices/emulator") or host.emulators.get(arch, "")
    if not path:
        raise DriverError(f"no QEMU for {arch} is known", hint="name one with --qemu or <emulator>")
    return flag_emulator(path) if legacy else Emulator.probe(path)


def define(request: Request, emulator: Emulator, host: Host, stored: str | None) -> Guest:
    """The definition; what the document leaves out stays as it was.  Raises ``ConfigError``, ``DriverError``."""
    guest = request.guest.copy()
    if request.binary:
        guest.domain.node.ensure("devices").ensure("emulator").text = os.path.abspath(request.binary)
    if stored is None:
        return guest.define(emulator, host)
    old = Guest.from_xml(stored, str(request.guest.name))
    if (
        guest.domain.uuid
        and old.domain.uuid
        and guest.domain.uuid.replace("-", "") != old.domain.uuid.replace("-", "")
    ):
        raise DriverError(
            f"operation failed: domain '{guest.name}' already exists with uuid {old.domain.uuid}",
            hint=f"give the guest another name, or forget that one: qemushim forget {guest.name}",
        )
    if emulator.classic:
        _keep_names(guest, old)
        return guest.define(emulator, host)
    return guest.define(emulator, host, past=(old,))


def _keep_names(guest: Guest, old: Guest) -> None:
    """UUID and MACs that the document leaves out, for a QEMU that chooses the places itself."""
    guest.domain.uuid = guest.domain.uuid or old.domain.uuid
    taken = {interface.node.value("mac/@address") for interface in guest.domain.all(Interface)}
    for interface, like in zip(guest.domain.all(Interface), old.domain.all(Interface), strict=False):
        mac = like.node.value("mac/@address")
        same = interface.node.value("model/@type") == like.node.value("model/@type")
        if same and mac and mac not in taken and interface.node.value("mac/@address") is None:
            interface.node.ensure("mac").set("address", mac)


def start(request: Request, folder: Folder) -> Started:
    """Start a guest that is off, up to where it waits for ``cont``; its lock is held.

    Raises ``ConfigError``, ``AddressError``, ``EmulatorError``, ``DriverError`` or ``MonitorError``; then nothing of it
    runs and its folder is as before, but for the log.
    """
    emulator = emulator_of(request.guest, request.host, request.binary, legacy=request.legacy)
    key = random.token_bytes(KEY_BYTES)
    host = own_host(request.host, folder, next_id(folder.home), key, request.secrets)
    definition = define(request, emulator, host, folder.definition())
    shutil.rmtree(folder.run_path, ignore_errors=True)
    for left in reversed(range(_TRIES)):
        work = _Start(request, folder, emulator, with_free_ports(host), definition)
        try:
            with located(request.guest.file):
                return work.run(key)
        except BaseException as problem:
            folder.forget_run(work.running.made)
            # a port that was free may have been taken before QEMU came to it
            if not left or not isinstance(problem, DriverError) or _TAKEN not in problem.hint:
                raise
    raise AssertionError("the last try returns or raises")


class _Start:
    """One start, with what it has to put away when it fails."""

    def __init__(
        self, request: Request, folder: Folder, emulator: Emulator, host: Host, definition: Guest
    ) -> None:
        self.request, self.folder, self.emulator, self.host = request, folder, emulator, host
        self.definition = definition
        self.guest = definition.copy()
        self.build: Build | None = None
        #: where a QEMU that chooses the slots itself is going to put devices
        self.predicted: dict[Item, PciAddress] = {}
        self.running = Running(
            definition.name,
            definition.domain.uuid or "",
            host.domain_id,
            binary="",
            monitor=str(folder.run_path / "monitor.sock"),
            dialect=HUMAN if emulator.classic else QMP,
            boot=host_start(),
            since=time.time(),
            detached=request.detached,
            legacy=request.legacy,
        )

    def run(self, key: bytes) -> Started:
        with Opened() as opened:
            command = self._command(opened)
            self._prepare(command, key)
            opened.open(command.descriptors, self._connection)
            self.running.binary = command.binary
            self.running.live = self._live(opened)
            self.folder.store(running=self.running)
            keeper = self._spawn(command, opened)
        try:
            return self._greet(keeper)
        except MonitorError as problem:
            # a QEMU that hung up is about to end, and its keeper says how
            said = keeper.hear(_LAST_WORDS)
            self._end(keeper)
            raise self._died(said, problem) from problem
        except BaseException:
            self._end(keeper)
            raise

    # -- before ------------------------------------------------------------------------------------------------------

    def _command(self, opened: Opened) -> Command:
        if self.emulator.classic:
            # places are predicted for the devices of the definition, so its own elements must have asked for them
            command = self.definition.start(self.emulator, self.host)
            if self.request.legacy:
                todays_flags(command)
            self.predicted = predict(self.definition.domain.node, command, self.emulator)
            return command
        host = self.host
        if any(vsock.node.value("cid/@auto") == "yes" for vsock in self.guest.domain.lists["vsock"]):
            host = self.host = host._replace(vsock_cid=opened.open_vsock())
        self.build = self.guest.build(self.emulator, host)
        self.running.monitor = f"{self.build.domain_dir}/monitor.sock"
        return self.build.command

    def _prepare(self, command: Command, key: bytes) -> None:
        """Folders and files that QEMU expects."""
        folder = self.folder.path
        for option in command.options:
            make_folders(option.text or "", folder)
            self.running.made += make_huge(option, self.host)
        for file in command.files:
            write_key(file.path, key)
        with storing(folder):
            self.folder.run_path.mkdir(mode=0o700, parents=True, exist_ok=True)
        nvram = self.guest.domain.node.find("os/nvram")
        if nvram is not None and nvram.get("template") and nvram.text.strip():
            copy_nvram(nvram.text.strip(), nvram.get("template") or "")
        require_images(self.guest.domain.node.ensure("devices"))
        require_sockets(dict(_helper_sockets(command)))

    def _connection(self, alias: str) -> Connection:
        return connection_of(self.guest.domain, alias)

    def _live(self, opened: Opened) -> str:
        """The live document as far as it is known before QEMU runs."""
        if self.build is None:
            return self.guest.to_xml()
        self.running.nodes = complete_live(self.build, opened.taps)
        return self.guest.domain.to_xml(live=True)

    # -- QEMU --------------------------------------------------------------------------------------------------------

    def _spawn(self, command: Command, opened: Opened) -> Keeper:
        log = self._open_log(command)
        end = self.folder.open_end()
        try:
            return start_kept(
                self.definition.name,
                command.argv,
                command.environment,
                opened.numbers,
                log=log,
                end=end,
            )
        finally:
            os.close(log)
            os.close(end)

    def _open_log(self, command: Command) -> int:
        path = self.folder.log_path
        with storing(path):
            if path.exists() and path.stat().st_size > _LOG_BYTES:
                os.replace(path, path.with_name("log.1"))
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            head = f"# {time.strftime('%Y-%m-%d %H:%M:%S%z')} starting {self.definition.name}\n"
            text = "".join(f"# {line}\n" for line in shell(command).splitlines())
            with contextlib.suppress(OSError):
                # a full disk need not keep the guest from running
                os.write(descriptor, (head + text).encode())
        return descriptor

    def _greet(self, keeper: Keeper) -> Started:
        running = self.running
        running.pid, running.started = keeper.qemu.pid, keeper.qemu.started
        running.keeper, running.keeper_started = keeper.process.pid, keeper.process.started
        own = process_of(os.getpid())
        running.owner, running.owner_started = own.pid, own.started
        self.folder.store(running=running)
        started = Started(running, keeper, self.definition)
        with open_monitor(running.dialect, running.monitor, self.request.patience, keeper.qemu) as monitor:
            if isinstance(monitor, QmpMonitor):
                self._ask(monitor, started)
            else:
                self._ask_human(monitor, started)
        self.folder.mark_legacy(self.request.legacy)
        self.folder.store(definition=self.definition.to_xml(), running=running)
        return started

    def _ask(self, monitor: QmpMonitor, started: Started) -> None:
        assert self.build is not None
        # libvirt's aliases, and buses, are those that the command line was made with
        b = Build(self.guest.domain, self.build.emulator, self.host)
        verdict = verify(monitor, b)
        started.differences = [str(difference) for difference in verdict.differences]
        started.checked = dict(verdict.checked)
        started.notes = finish(monitor, b)
        write_terminals(monitor, self.guest.domain)
        self.running.devices = sorted(verdict.devices)
        self.running.live = self.guest.domain.to_xml(live=True)

    def _ask_human(self, monitor: TextMonitor, started: Started) -> None:
        result = read_back(self.definition.domain.node, monitor.cards(), self.predicted)
        write_classic_terminals(monitor.terminals(), result.root)
        started.differences = [str(difference) for difference in result.differences]
        started.checked = {"pci": len(result.addresses)}
        for node in result.root.ensure("devices").all("graphics"):
            if node.get("type") == "vnc" and node.get("port") in (None, "-1"):
                node.set("port", self.host.vnc_port)
        live = Guest(result.root)
        live.classic = True
        self.running.live = live.to_xml()

    def _end(self, keeper: Keeper) -> None:
        keeper.close()
        keeper.qemu.wait(2 * GRACE)
        keeper.process.wait(GRACE)

    def _died(self, end: dict[str, Any] | None, problem: MonitorError) -> ShimError:
        """What to say where QEMU did not come as far as to answer, or refused what it was told."""
        words = "\n".join(self.folder.last_words(3))
        if end is None:
            return DriverError(problem.message, hint="\n".join(filter(None, (problem.hint, words))))
        return DriverError(
            f"QEMU {describe_end(end.get('status'))} before the guest could be started",
            hint=words or f"its log is '{self.folder.log_path}'",
        )


def connection_of(domain: Domain, alias: str) -> Connection:
    """What an interface is connected to.  Raises ``DriverError`` where none has that id."""
    for interface in domain.all(Interface):
        if interface.alias == alias:
            if interface.type == "network":
                raise DriverError(
                    f"network '{interface.node.value('source/@network')}' is one of libvirt's, and not known here",
                    element=interface.node,
                    hint="<interface type='user'> needs nothing; <interface type='bridge'> names the network's bridge",
                )
            return Connection(
                interface.type or "",
                interface.target or "",
                interface.host_end.bridge or "",
                interface.queues,
                interface.backend_tap or "",
            )
    raise DriverError(f"no interface is called '{alias}'")


def _helper_sockets(command: Command) -> Iterator[tuple[str, str]]:
    """Sockets that QEMU connects to, each with whose it is."""
    for option in command.options:
        if option.flag != "-chardev" or not option.properties:
            continue
        data: Any = option.properties.get("backend", {})
        data = data.get("data", {}) if isinstance(data, Mapping) else {}
        address = data.get("addr", {})
        if data.get("server") is False and address.get("type") == "unix" and not data.get("reconnect"):
            yield address["data"]["path"], f"the other end of '{option.properties.get('id')}'"


__all__ = ["Request", "Started", "connection_of", "define", "emulator_of", "start"]
