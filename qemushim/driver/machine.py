"""``Machine``: a QEMU of our own, started from a document, watched, changed and stopped.

    with Machine.start(text) as machine:
        machine.attach("<interface type='user'/>")
        machine.stop()

What a guest is stays in its folder (``driver.state``): any process of the user may ``Machine.open`` it, and what
happened while nobody looked is told by the next who does (``Machine.notes``).
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from qemushim.document.parse import parse
from qemushim.driver.changing import Changes
from qemushim.driver.live import terminals
from qemushim.driver.monitor import TextMonitor, open_monitor
from qemushim.driver.process import GRACE, Keeper, Process, describe_end, host_start
from qemushim.driver.qmpmonitor import QmpMonitor
from qemushim.driver.starting import PATIENCE, Request, Started, start
from qemushim.driver.state import Folder, Running, default_home, guest_names
from qemushim.errors import DriverError, MonitorError
from qemushim.guest import Guest
from qemushim.host import Host

#: seconds that a guest has to shut down by itself
SHUTDOWN = 60.0
#: seconds that QEMU has to end when it was told to
QUIT = 5.0
#: seconds that a monitor has to answer
ANSWER = 10.0
#: seconds between two looks at a guest that shuts down
_LOOK = 0.5
#: what the monitor says of a guest that has shut down while its QEMU stays
_DOWN = ("shutdown", "paused (shutdown)")


@dataclass(frozen=True)
class End:
    """How a guest came to its end."""

    #: exit status of QEMU, negative for a signal; ``None``: nobody saw it
    status: int | None
    #: why it was ended, where that was not QEMU's or the guest's own doing
    reason: str = ""
    #: the last lines that QEMU printed
    words: tuple[str, ...] = ()

    @property
    def crashed(self) -> bool:
        """It ended in a way that nobody asked for."""
        return self.status != 0 and not self.reason

    def __str__(self) -> str:
        return describe_end(self.status) + (f", because {self.reason}" if self.reason else "")


@dataclass(frozen=True)
class Status:
    """What can be told of a guest without asking it."""

    name: str
    #: ``off``, ``starting``, or what the monitor says: ``running``, ``paused`` …; ``silent``: it does not answer;
    #: ``busy``: somebody else works on the guest
    state: str
    id: int = 0
    pid: int = 0
    binary: str = ""
    since: float = 0.0
    detached: bool = False
    legacy: bool = False
    terminals: tuple[tuple[str, str], ...] = ()
    displays: tuple[str, ...] = ()
    #: it has a definition: it was started successfully once
    defined: bool = True


#: the guests that end with this process: hanging up on their keepers is what ends them
_KEEPERS: dict[Process, Keeper] = {}


class Machine:
    """One guest.  Every call takes the guest's lock, so any number of processes and threads may have one."""

    def __init__(self, folder: Folder, host: Host | None = None) -> None:
        """Use ``start`` or ``open``."""
        self.folder = folder
        self.name = folder.name
        self._host = host
        self._owns = False
        #: what happened while nobody looked, and what could not be had
        self.notes: list[str] = []
        #: where planned and actual addresses differed when the guest was started, a line each
        self.differences: list[str] = []
        #: address type → how many devices were found where they were planned to be
        self.checked: dict[str, int] = {}

    # -- making one ----------------------------------------------------------------------------------------------

    @classmethod
    def start(
        cls,
        guest: Guest | str | bytes,
        *,
        binary: str = "",
        legacy: bool = False,
        paused: bool = False,
        detached: bool = False,
        secrets: Mapping[str, bytes] | None = None,
        host: Host | None = None,
        home: Path | None = None,
        patience: float = PATIENCE,
    ) -> Machine:
        """Start a guest; what it is gets stored.

        ``guest``: a document; addresses, MACs and the like that it leaves out are those that the guest of that name
        had before.  ``binary``: the QEMU to use instead of the document's.  ``legacy``: by flags, as before
        ``-device``; QEMU chooses the slots.  ``paused``: before its first instruction.  ``detached``: it goes on
        running without this process; otherwise it ends with it.  ``secrets``: UUID or usage → secret.  ``patience``:
        seconds that QEMU has to answer.

        Raises ``ConfigError``, ``AddressError``, ``EmulatorError``, ``DriverError``, ``MonitorError``; then it does
        not run.
        """
        if sys.platform != "linux":
            raise DriverError(
                "guests are started on Linux only", hint="qemushim argv prints the command line anywhere"
            )
        document = guest if isinstance(guest, Guest) else Guest.from_xml(guest)
        if not document.name:
            raise DriverError("a guest needs a name", hint="<name>…</name>")
        host = host or Host.local()
        folder = Folder(home or default_home(), document.name)
        machine = cls(folder, host)
        fresh = not folder.path.exists()
        with folder.locked():
            try:
                running = machine._settle()
                if running is not None:
                    raise DriverError(
                        f"guest '{document.name}' is running already, as process {running.pid}",
                        hint=f"qemushim stop {document.name}",
                    )
                request = Request(document, host, binary, legacy, detached, secrets or {}, patience)
                machine._run(start(request, folder), paused=paused)
            except BaseException:
                if fresh and not folder.definition_path.exists() and not folder.log_path.exists():
                    shutil.rmtree(folder.path, ignore_errors=True)
                raise
        return machine

    def _run(self, started: Started, *, paused: bool) -> None:
        """Let the guest run."""
        self.differences, self.checked = started.differences, started.checked
        self.notes += started.notes
        running, keeper = started.running, started.keeper
        try:
            if not paused:
                with self._monitor(running) as monitor:
                    monitor.resume()
            running.phase = "running"
            self.folder.store(running=running)
            if running.detached:
                keeper.let_go()
                keeper.close()
                running.owner = 0
                self.folder.store(running=running)
        except BaseException:
            keeper.close()
            keeper.qemu.signal(signal.SIGKILL)
            keeper.qemu.wait(2 * GRACE)
            self.folder.forget_run(running.made)
            raise
        if not running.detached:
            _KEEPERS[keeper.qemu] = keeper
            self._owns = True

    @classmethod
    def open(cls, name: str, *, host: Host | None = None, home: Path | None = None) -> Machine:
        """A guest that was started before, by whichever process.  Raises ``DriverError`` where none has that name."""
        folder = Folder(home or default_home(), name)
        if not folder.path.is_dir():
            known = guest_names(folder.home)
            hint = f"known are: {', '.join(known)}" if known else "qemushim run FILE starts one"
            raise DriverError(f"no guest is called '{name}'", hint=hint)
        machine = cls(folder, host)
        with folder.locked():
            machine._settle()
        return machine

    @classmethod
    def names(cls, home: Path | None = None) -> list[str]:
        """Every guest that was started here once."""
        return guest_names(home or default_home())

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A guest that is not detached ends with the block."""
        if self._owns:
            self.kill()

    # -- looking -------------------------------------------------------------------------------------------------

    @property
    def host(self) -> Host:
        if self._host is None:
            self._host = Host.local()
        return self._host

    @property
    def running(self) -> Running | None:
        """What is known of the run; ``None``: the guest is off."""
        running = self.folder.running()
        return running if running is not None and _process(running).alive else None

    @property
    def process(self) -> Process | None:
        """The QEMU that runs; ``None``: the guest is off."""
        running = self.running
        return _process(running) if running is not None else None

    @property
    def definition(self) -> str:
        """The stored definition.  Raises ``DriverError`` where there is none."""
        text = self.folder.definition()
        if text is None:
            raise DriverError(
                f"guest '{self.name}' has no definition", hint="it was never started successfully"
            )
        return text

    @property
    def live(self) -> str:
        """The document of the running guest.  Raises ``DriverError`` where it is off."""
        running = self.running
        if running is None:
            raise self._is_off()
        return running.live

    def status(self, patience: float = 2.0) -> Status:
        """What it does; ``patience`` is what its monitor has to answer, in seconds."""
        running = self.running
        off = Status(self.name, "off", defined=self.folder.definition_path.exists())
        if running is None:
            return off
        state = "starting"
        if running.phase != "starting":
            try:
                with self.folder.locked(patience), self._monitor(running, patience) as monitor:
                    state = monitor.status()
            except (MonitorError, DriverError) as problem:
                state = "silent" if isinstance(problem, MonitorError) else "busy"
                if self.running is None:
                    return off
        root = parse(running.live)
        return Status(
            self.name,
            state,
            running.id,
            running.pid,
            running.binary,
            running.since,
            running.detached,
            running.legacy,
            tuple(terminals(root)),
            tuple(_displays(root.ensure("devices").all("graphics"))),
        )

    @contextlib.contextmanager
    def monitor(self) -> Iterator[QmpMonitor | TextMonitor]:
        """The guest's monitor, while the guest's lock is held.  Raises ``DriverError``, ``MonitorError``."""
        with self._session() as (_, monitor):
            yield monitor

    def verify(self) -> list[str]:
        """Where the running guest's devices are not where its document says, a line each; it may have moved none."""
        with self._session() as (running, monitor):
            if not isinstance(monitor, QmpMonitor):
                return Changes(self.folder, running, self.host).verify_human(monitor)
            return Changes(self.folder, running, self.host).verify(monitor, self.checked)

    # -- as a whole ----------------------------------------------------------------------------------------------

    def resume(self) -> None:
        with self._session() as (_, monitor):
            monitor.resume()

    def pause(self) -> None:
        with self._session() as (_, monitor):
            monitor.pause()

    def stop(self, patience: float = SHUTDOWN, *, force: bool = False) -> str:
        """Shut the guest down; what it took: ``shut down`` by itself, ``quit``, or ``killed``.

        It has ``patience`` seconds to follow its power button (none with ``force``, or while it is paused); then QEMU
        is told to quit, and when it does not, killed.  Raises ``DriverError`` where the guest is off.
        """
        running = self.running
        if running is None:
            with self.folder.locked():
                self._settle()
            raise self._is_off()
        process = _process(running)
        how = "killed"
        listens = not force and self.status().state == "running"
        if listens and self._tell(lambda monitor: monitor.powerdown()) and self._goes_down(process, patience):
            how = "shut down"
        elif self._tell(lambda monitor: monitor.quit()) and process.wait(QUIT):
            how = "quit"
        else:
            process.signal(signal.SIGKILL)
            process.wait(QUIT)
        self._finish(running)
        return how

    def kill(self) -> None:
        """End QEMU at once.  A guest that is off is no mistake."""
        running = self.folder.running()
        if running is not None:
            process = _process(running)
            process.signal(signal.SIGKILL)
            process.wait(QUIT)
            self._finish(running)

    def wait(self, seconds: float | None = None) -> End | None:
        """How the guest ended; ``None`` where it has not within that time (``None``: however long it takes)."""
        running = self.folder.running()
        if running is not None and not _process(running).wait(float("inf") if seconds is None else seconds):
            return None
        if running is not None:
            _keeper_of(running).wait(GRACE)
        found = self.folder.end()
        end = End(found.get("status"), found.get("reason", ""), tuple(self.folder.last_words(5)))
        if running is not None:
            self._finish(running)
        return end

    def forget(self) -> None:
        """Remove everything that is kept of a guest that is off.  Raises ``DriverError`` where it runs."""
        with self.folder.locked():
            running = self._settle()
            if running is not None:
                raise DriverError(f"guest '{self.name}' is running", hint=f"qemushim stop {self.name}")
            self.folder.remove()

    # -- devices -------------------------------------------------------------------------------------------------

    def attach(
        self,
        device: str,
        *,
        live: bool = True,
        config: bool = True,
        secrets: Mapping[str, bytes] | None = None,
        file: str = "",
    ) -> str:
        """Give the guest one device more; its XML with the place that it got.

        ``live``: the running guest; ``config``: its definition; both get the same address.  Of a guest that is off
        the definition is changed, where that was meant too.  Raises ``ConfigError``, ``AddressError``,
        ``MonitorError``, ``DriverError``; then nothing is changed.
        """
        return self._change(
            live,
            config,
            lambda changes, monitor: changes.attach(monitor, device, config=config, file=file),
            secrets,
        )

    def detach(
        self, device: str, *, live: bool = True, config: bool = True, patience: float | None = None
    ) -> str:
        """Take a device away: its alias, target, MAC, or XML; what it was.

        ``patience``: seconds that the guest has to let go of it; when it does not, nothing is changed, and the guest
        may still do so.  Raises as ``attach`` does.
        """
        return self._change(
            live,
            config,
            lambda changes, monitor: changes.detach(monitor, device, config=config, patience=patience),
        )

    def _change(
        self,
        live: bool,
        config: bool,
        change: Callable[[Changes, QmpMonitor | TextMonitor | None], str],
        secrets: Mapping[str, bytes] | None = None,
    ) -> str:
        if live and self.running is not None:
            with self._session() as (running, monitor):
                return change(Changes(self.folder, running, self.host, secrets), monitor)
        with self.folder.locked():
            found = self._settle()
            if not config:
                raise self._is_off()
            return change(Changes(self.folder, found, self.host, secrets), None)

    # -- inside --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _session(self) -> Iterator[tuple[Running, QmpMonitor | TextMonitor]]:
        """The running guest and its monitor, with the lock held, after whatever was left undone is done."""
        with self.folder.locked():
            running = self._settle()
            if running is None:
                raise self._is_off()
            with self._monitor(running) as monitor:
                if isinstance(monitor, QmpMonitor):
                    changes = Changes(self.folder, running, self.host)
                    self.notes += changes.resolve(monitor)
                    running = changes.running or running
                yield running, monitor

    def _monitor(self, running: Running, patience: float = 0.0) -> QmpMonitor | TextMonitor:
        return open_monitor(running.dialect, running.monitor, patience or ANSWER, _process(running))

    def _settle(self) -> Running | None:
        """What runs, with the lock held.  The traces of a run that is over are removed, and ``notes`` tells of it."""
        running = self.folder.running()
        if running is None:
            self.folder.abandon()
            if self.folder.run_path.exists():
                self.notes.append(f"the start of guest '{self.name}' was interrupted")
                self.folder.forget_run()
            return None
        process = _process(running)
        lonely = running.owner and not Process(running.owner, running.owner_started).alive
        # it may have been let go by one who could not write that down any more
        orphan = lonely and not self.folder.end().get("let go")
        if (running.phase == "starting" or orphan) and process.alive:
            # whoever started it holds no lock any more, or is gone: the keeper is about to end it
            process.wait(2 * GRACE)
        if running.boot == host_start() and process.alive:
            if running.phase != "starting":
                if lonely and not orphan:
                    running.owner = 0
                    self.folder.store(running=running)
                return running
            process.signal(signal.SIGKILL)
            process.wait(QUIT)
        _hang_up(running)
        self._note_end(running)
        self.folder.abandon()
        self.folder.forget_run(running.made)
        return None

    def _note_end(self, running: Running) -> None:
        if not running.pid:
            self.notes.append(f"the start of guest '{self.name}' was interrupted")
            return
        _keeper_of(running).wait(GRACE)
        found = self.folder.end()
        end = End(found.get("status"), found.get("reason", ""))
        if running.boot != host_start():
            self.notes.append(f"guest '{self.name}' was running when the host went down")
            return
        when = (
            time.strftime(" at %Y-%m-%d %H:%M:%S", time.localtime(found["time"])) if "time" in found else ""
        )
        what = (
            f"the start of guest '{self.name}' was interrupted: QEMU"
            if running.phase == "starting"
            else f"guest '{self.name}'"
        )
        self.notes.append(f"{what} {end}{when}")
        if end.crashed:
            self.notes += [f"it said: {line}" for line in self.folder.last_words(2)]
        pending = self.folder.pending()
        if pending is not None:
            self.notes.append(
                f"{pending.operation} of {pending.what} was interrupted, and did not take place"
            )

    def _finish(self, running: Running) -> None:
        """Remove the traces of a run that this process has seen the end of."""
        _keeper_of(running).wait(GRACE)
        with self.folder.locked():
            now = self.folder.running()
            if now is not None and (now.pid, now.started) == (running.pid, running.started):
                self.folder.abandon()
                self.folder.forget_run(running.made)
        _hang_up(running)

    def _tell(self, what: Callable[[QmpMonitor | TextMonitor], None]) -> bool:
        """Say something to the monitor, if it can be reached."""
        try:
            with self._session() as (_, monitor):
                what(monitor)
            return True
        except (MonitorError, DriverError):
            return False

    def _goes_down(self, process: Process, patience: float) -> bool:
        """Whether the guest shuts down in time: QEMU ends, or stays as it was told to."""
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            if process.wait(min(left, _LOOK)):
                return True
            if self.status().state in _DOWN:
                return self._tell(lambda monitor: monitor.quit()) and process.wait(QUIT)
        return False

    def _is_off(self) -> DriverError:
        hint = "; ".join(self.notes) or f"qemushim run {self.name}"
        return DriverError(f"guest '{self.name}' is off", hint=hint)


def _hang_up(running: Running) -> None:
    keeper = _KEEPERS.pop(_process(running), None)
    if keeper is not None:
        keeper.close()


def _process(running: Running) -> Process:
    return Process(running.pid, running.started)


def _keeper_of(running: Running) -> Process:
    return Process(running.keeper, running.keeper_started)


def _displays(graphics: list[Any]) -> Iterator[str]:
    for node in graphics:
        kind = node.get("type") or ""
        listen = node.get("listen") or node.value("listen/@address") or "127.0.0.1"
        port = node.get("port") if node.get("port") not in (None, "-1") else node.get("tlsPort")
        socket = node.value("listen/@socket") or node.get("socket")
        if socket:
            yield f"{kind}+unix:{socket}"
        elif port:
            yield f"{kind}://{listen}:{port}"
        else:
            yield kind


__all__ = ["End", "Machine", "Status"]
