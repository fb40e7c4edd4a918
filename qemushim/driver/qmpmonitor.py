"""The QMP monitor over its UNIX socket, for callers that are not asynchronous themselves.

``qemu.qmp`` does the talking, in a thread with an event loop of its own: events are collected while nobody asks, and
a caller that has an event loop is not disturbed.  https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, TypeVar

from qemu.qmp import QMPError
from qemu.qmp.qmp_client import ExecuteError, QMPClient

from qemushim.driver.sockets import reachable
from qemushim.errors import MonitorError

T = TypeVar("T")
Event = dict[str, Any]

#: seconds until a monitor that says nothing is given up
TIMEOUT = 10.0
#: seconds by which the limit of a whole conversation is longer than those of its parts
_MARGIN = 1.0
#: events that are kept for who asks later
_MOST_EVENTS = 1000

#: each broken connection becomes an error here; the library need not report it as well
_quiet = logging.getLogger("qemushim.qmp")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class CommandError(MonitorError):
    """QEMU refused a command."""

    def __init__(self, message: str, *, command: str, kind: str) -> None:
        super().__init__(message)
        self.command = command
        self.kind = kind


class QmpMonitor:
    """A connection to one monitor; closes itself at the end of a ``with`` block."""

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        """Connect and wait for the greeting.  Raises ``MonitorError`` when the time (seconds) is over."""
        self.path = path
        self.timeout = timeout
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._client = QMPClient()
        self._client.logger = _quiet
        self._loop = asyncio.new_event_loop()
        self._news: asyncio.Condition | None = None
        self._collector: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        try:
            self._run(self._connect(), timeout + _MARGIN)
        except BaseException:
            self.close()
            raise

    # -- asking --------------------------------------------------------------------------------------------------

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float = 0) -> Any:
        """What QEMU returns.  Raises ``CommandError`` where it refuses, ``MonitorError`` where it is gone or silent."""
        return self._run(self._execute(command, arguments), timeout or self.timeout)

    def execute_with(self, descriptor: int, command: str, arguments: Mapping[str, Any]) -> Any:
        """The same for a command that takes a file descriptor (``getfd``, ``add-fd``)."""
        return self._run(self._execute(command, arguments, descriptor), self.timeout)

    def wait_event(self, wanted: Callable[[Event], bool], seconds: float) -> Event | None:
        """The first such event since the connection was made; ``None`` where none comes in time."""
        return self._run(self._wait_event(wanted, seconds), seconds + self.timeout)

    @property
    def events(self) -> list[Event]:
        """What QEMU has told of itself since the connection was made."""
        return list(self._events)

    # -- the guest as a whole ------------------------------------------------------------------------------------

    def status(self) -> str:
        """``running``, ``paused``, ``prelaunch``, ``shutdown``, ``guest-panicked`` …"""
        return str(self.execute("query-status")["status"])

    def resume(self) -> None:
        self.execute("cont")

    def pause(self) -> None:
        self.execute("stop")

    def powerdown(self) -> None:
        """Press the guest's power button."""
        self.execute("system_powerdown")

    def quit(self) -> None:
        with contextlib.suppress(MonitorError):
            # it may be gone before it has answered
            self.execute("quit")

    # -- the connection ------------------------------------------------------------------------------------------

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        with contextlib.suppress(MonitorError):
            self._run(self._disconnect(), self.timeout)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(self.timeout)
        if not self._thread.is_alive():
            self._loop.close()

    def __enter__(self) -> QmpMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Let the loop do it, and wait."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self._loop)
        try:
            return future.result(seconds + _MARGIN)
        except TimeoutError:
            future.cancel()
            raise _silence(self.path, seconds) from None
        except (QMPError, OSError, EOFError, AssertionError) as problem:
            # qemu.qmp asserts that no command is pending when it cleans up: one is where QEMU dies amid a command
            raise MonitorError(
                f"monitor '{self.path}' closed the connection: {_reason(problem)}"
            ) from problem

    async def _connect(self) -> None:
        self._news = asyncio.Condition()
        deadline = self._loop.time() + self.timeout
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            # a monitor that takes no more connections must not hold up the loop
            connection.setblocking(False)
            try:
                with reachable(self.path) as address:
                    connection.connect(address)
                break
            except OSError as problem:
                connection.close()
                if self._loop.time() >= deadline or not isinstance(
                    problem, FileNotFoundError | ConnectionRefusedError | BlockingIOError
                ):
                    raise MonitorError(
                        f"no monitor answers at '{self.path}': {problem.strerror}"
                    ) from problem
                await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(self._client.connect(connection), max(deadline - self._loop.time(), 0.01))
        except TimeoutError:
            raise _silence(self.path, self.timeout) from None
        self._collector = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        assert self._news is not None
        async for event in self._client.events:
            async with self._news:
                self._events.append(dict(event))
                self._news.notify_all()

    async def _execute(
        self, command: str, arguments: Mapping[str, Any] | None, descriptor: int | None = None
    ) -> Any:
        try:
            if descriptor is not None:
                self._client.send_fd_scm(descriptor)
            return await self._client.execute(command, arguments)
        except ExecuteError as problem:
            raise CommandError(
                f"QEMU refused {command}: {problem}", command=command, kind=problem.error_class
            ) from problem

    async def _wait_event(self, wanted: Callable[[Event], bool], seconds: float) -> Event | None:
        assert self._news is not None
        deadline = self._loop.time() + seconds
        async with self._news:
            while True:
                found = next(filter(wanted, self._events), None)
                left = deadline - self._loop.time()
                if found is not None or left <= 0:
                    return found
                if self._client.runstate.name != "RUNNING":
                    raise EOFError
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), min(left, 0.2))

    async def _disconnect(self) -> None:
        if self._collector is not None:
            self._collector.cancel()
            await asyncio.gather(self._collector, return_exceptions=True)
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()


def _silence(path: str, seconds: float) -> MonitorError:
    return MonitorError(
        f"monitor '{path}' did not answer within {seconds:g} seconds",
        hint="another program may hold the monitor, or QEMU is stuck (its log may say why)",
    )


def _reason(problem: BaseException) -> str:
    """The innermost cause that has words."""
    while True:
        deeper = getattr(problem, "exc", None) or problem.__cause__
        if not isinstance(deeper, BaseException):
            break
        problem = deeper
    if isinstance(problem, EOFError | AssertionError):
        return "QEMU hung up"
    return str(problem) or type(problem).__name__


__all__ = ["CommandError", "QmpMonitor"]
