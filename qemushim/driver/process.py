"""Processes: a QEMU with its keeper, who a process is, and how it comes to an end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemushim.errors import DriverError

#: seconds until a keeper must have started QEMU
PATIENCE = 20.0
#: seconds that a QEMU has to end by itself when its keeper tells it to, before it is killed
GRACE = 5.0

_KEEPER = Path(__file__).with_name("keeper.py")
#: milliseconds between two looks, where the kernel has no descriptors of processes
_POLL = 20


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this host, told from a later one with the same number by when it was started."""

    pid: int
    #: ticks since the host's start
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs (a dead one that nobody has waited for does not)."""
        found = _stat(self.pid)
        return found is not None and found == (self.started, True)

    def signal(self, number: int) -> bool:
        """Send a signal to this process and no other; whether it was there."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except OSError:
            return self._signal_by_number(number)
        try:
            # from here on the number is this process's, or that of one which is gone
            if not self.alive:
                return False
            signal.pidfd_send_signal(descriptor, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within that time."""
        deadline = time.monotonic() + seconds
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            descriptor = -1
        try:
            while self.alive:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if descriptor < 0:
                    time.sleep(_POLL / 1000)
                    continue
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(min(left, 60.0) * 1000)
            return True
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _signal_by_number(self, number: int) -> bool:
        if not self.alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False


def process_of(pid: int) -> Process:
    """The process with that number.  Raises ``DriverError`` where there is none."""
    found = _stat(pid)
    if found is None:
        raise DriverError(f"process {pid} is gone")
    return Process(pid, found[0])


def host_start() -> str:
    """Which start of the host this is: numbers of processes mean nothing after another."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _stat(pid: int) -> tuple[int, bool] | None:
    """When a process was started, and whether it still runs; ``None`` where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(words[19]), words[0] not in (b"Z", b"X")) if len(words) > 19 else None


class Keeper:
    """The parent of a QEMU, seen from the process that started it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._heard = b""
        #: who it is, and QEMU, once it is started
        self.process = Process(0, 0)
        self.qemu = Process(0, 0)

    def hear(self, seconds: float) -> dict[str, Any] | None:
        """The next thing that it says; ``None`` where it says nothing in time, or is gone."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._heard:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._control.settimeout(left)
            try:
                chunk = self._control.recv(65536)
            except TimeoutError:
                return None
            except OSError:
                chunk = b""
            if not chunk:
                return None
            self._heard += chunk
        line, _, self._heard = self._heard.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def let_go(self) -> None:
        """From now on the guest goes on without this process.  Raises ``DriverError`` where its keeper is gone."""
        try:
            self._control.sendall(b"let go\n")
        except OSError as problem:
            raise DriverError(f"the guest's keeper is gone: {problem.strerror}") from problem

    def close(self) -> None:
        """Hang up: a guest that was not let go comes to its end."""
        self._control.close()


def start_kept(
    name: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Mapping[int, int],
    *,
    log: int,
    end: int,
    patience: float = PATIENCE,
) -> Keeper:
    """Start a QEMU below a keeper of its own.

    ``descriptors``: number for QEMU → open descriptor of this process; ``log`` takes its output, ``end`` how it ended.
    Raises ``DriverError`` where it can not be run.
    """
    ours, theirs = socket.socketpair()
    order = {
        "argv": list(argv),
        "environment": dict(environment),
        "descriptors": dict(descriptors),
        "log": log,
        "end": end,
        "patience": GRACE,
    }
    keeper = Keeper(ours)
    try:
        with theirs:
            _run_keeper(name, theirs.fileno(), log, (log, end, *descriptors.values()), patience)
        ours.sendall(json.dumps(order).encode() + b"\n")
        said = keeper.hear(patience)
    except BaseException as problem:
        keeper.close()
        if isinstance(problem, OSError | subprocess.TimeoutExpired):
            raise DriverError(f"cannot run the keeper of guest '{name}': {problem}") from problem
        raise
    if said is None or "error" in said:
        keeper.close()
        if said is None:
            raise DriverError(f"the keeper of guest '{name}' does not answer")
        hint = "name another QEMU with --qemu or <emulator>"
        raise DriverError(f"cannot run '{argv[0]}': {said['error']}", hint=hint)
    keeper.qemu = Process(said["pid"], said["started"])
    keeper.process = Process(said["keeper"], said["keeper_started"])
    return keeper


def _run_keeper(name: str, control: int, log: int, inherited: Sequence[int], patience: float) -> None:
    """What is started here ends at once, and leaves the keeper behind as nobody's child."""
    words = (sys.executable, "-I", "-S", str(_KEEPER), name, str(control))
    subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        pass_fds=(control, *inherited),
        cwd="/",
        start_new_session=True,
        timeout=patience,
        check=False,
    )


def describe_end(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "ended, and nobody saw how"
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return "ended" if status == 0 else f"ended with status {status}"
