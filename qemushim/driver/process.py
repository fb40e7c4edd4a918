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

    def __init__(self, child: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._child = child
        self._control = control
        self._heard = b""
        #: QEMU, once it is started
        self.qemu: Process | None = None

    @property
    def process(self) -> Process:
        return process_of(self._child.pid)

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
        """From now on the guest goes on running without this process.  Raises ``DriverError`` where its keeper is gone."""
        try:
            self._control.sendall(b"let go\n")
        except OSError as problem:
            raise DriverError(f"the guest's keeper is gone: {problem.strerror}") from problem

    def close(self, patience: float = 2 * GRACE) -> None:
        """Hang up: a guest that was not let go comes to its end."""
        self._control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # a keeper that goes on is left alone; as no child is waited for then, it is not forgotten by mistake
            self._child.wait(patience)

    def forget(self) -> None:
        """Hang up without waiting; a guest that was let go does not notice."""
        self._control.close()
        # its end is nobody's concern here (Popen would warn of a child that is still running)
        self._child.returncode = self._child.returncode if self._child.poll() is not None else 0


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
    with theirs:
        inherited = [theirs.fileno(), log, end, *descriptors.values()]
        try:
            child = subprocess.Popen(
                (sys.executable, "-I", "-S", str(_KEEPER), name, str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=inherited,
                cwd="/",
                start_new_session=True,
            )
        except OSError as problem:
            ours.close()
            raise DriverError(f"cannot run '{sys.executable}': {problem.strerror}") from problem
    keeper = Keeper(child, ours)
    order = {
        "argv": list(argv),
        "environment": dict(environment),
        "descriptors": dict(descriptors),
        "log": log,
        "end": end,
        "patience": GRACE,
    }
    try:
        ours.sendall(json.dumps(order).encode() + b"\n")
        said = keeper.hear(patience)
        if said is None:
            raise DriverError(f"the keeper of guest '{name}' does not answer")
        if "error" in said:
            raise DriverError(
                f"cannot run '{argv[0]}': {said['error']}", hint="name another QEMU with --qemu or <emulator>"
            )
    except BaseException as problem:
        keeper.close()
        if isinstance(problem, OSError):
            raise DriverError(f"the keeper of guest '{name}' ended: {problem.strerror}") from problem
        raise
    keeper.qemu = Process(said["pid"], said["started"])
    return keeper


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
