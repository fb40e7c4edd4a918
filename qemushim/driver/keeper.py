"""The parent of one QEMU: a process of its own, so that a guest never outlives who is responsible for it.

Run as ``python -I -S keeper.py NAME NUMBER``, where NUMBER is an open socket.  The socket is the lifeline: when its
other end is closed – which the kernel does however that process ends, and whichever of its threads started the guest
– the keeper ends QEMU, unless it was told before that the guest is to go on by itself.  When the keeper is killed,
the kernel kills QEMU.  How QEMU ended is written into a file, so that it can be told later by who was not there.

It has one thread and needs nothing but the standard library; it is never imported by the rest of the package.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

#: ``prctl``: the signal that this process gets when its parent is gone
_PR_SET_PDEATHSIG = 1
#: descriptors wait at or above this number, until they get the ones that QEMU is to find them under
_ASIDE = 64
#: what the lifeline says: the guest goes on without it
_LET_GO = b"let go\n"
#: milliseconds between two looks where the kernel can not tell of an end by itself
_POLL = 50


def main(control: socket.socket) -> int:
    with control.makefile("rb") as lines:
        line = lines.readline()
    if not line.endswith(b"\n"):
        # who started this was gone before it had said what for
        return 1
    order: dict[str, Any] = json.loads(line)
    for own in (control.fileno(), order["end"]):
        os.set_inheritable(own, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: None)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    try:
        pid = _start(order)
    except OSError as problem:
        _say(control, {"error": problem.strerror, "errno": problem.errno})
        return 1
    own = os.getpid()
    _say(control, {"pid": pid, "started": _started(pid), "keeper": own, "keeper_started": _started(own)})
    status, reason = _watch(pid, control, woken, order)
    end = {"pid": pid, "status": status, "time": time.time(), "reason": reason}
    _write_down(order["end"], end)
    _say(control, end)
    return 0


def _start(order: dict[str, Any]) -> int:
    """Fork and run QEMU; its process id.  Raises ``OSError`` where it can not be run."""
    targets = [int(number) for number in order["descriptors"]]
    aside = max([_ASIDE, *targets]) + 1
    waiting = [_move(source, aside) for source in order["descriptors"].values()]
    log = _move(order["log"], aside)
    failed, fails = os.pipe()
    fails = _move(fails, aside)
    keeper = os.getpid()
    library = ctypes.CDLL(None, use_errno=True)
    pid = os.fork()
    if pid == 0:
        try:
            library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)
            nothing = os.open(os.devnull, os.O_RDONLY)
            _become(order, [(nothing, 0), (log, 1), (log, 2), *zip(waiting, targets, strict=True)])
        except OSError as problem:
            os.write(fails, str(problem.errno).encode())
        finally:
            os._exit(127)
    for descriptor in (*waiting, log, fails):
        os.close(descriptor)
    with os.fdopen(failed, "rb") as answer:
        number = answer.read()
    if number:
        os.waitpid(pid, 0)
        raise OSError(int(number), os.strerror(int(number)))
    return pid


def _become(order: dict[str, Any], descriptors: list[tuple[int, int]]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    for source, target in descriptors:
        os.dup2(source, target)
    argv: list[str] = order["argv"]
    os.execve(argv[0], argv, order["environment"])


def _move(descriptor: int, aside: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, aside)
    os.close(descriptor)
    return moved


def _watch(pid: int, control: socket.socket, woken: int, order: dict[str, Any]) -> tuple[int, str]:
    """Wait for QEMU's end; its status (negative: the signal), and why it was ended if it was from here."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(woken, select.POLLIN)
    try:
        ending = os.pidfd_open(pid)
        poll.register(ending, select.POLLIN)
    except OSError:
        ending = -1
    reason, deadline = "", 0.0
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), reason
        if reason and time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        for descriptor, _ in poll.poll(_POLL if reason or ending < 0 else None):
            said = ""
            if descriptor == woken:
                os.read(woken, 64)
                said = "its keeper was told to end"
            elif descriptor == control.fileno():
                word = _hear(control)
                if word == _LET_GO:
                    poll.unregister(control)
                    _write_down(order["end"], {"let go": True})
                elif not word:
                    poll.unregister(control)
                    said = "who had started it was gone"
            if said and not reason:
                reason, deadline = said, time.monotonic() + order["patience"]
                os.kill(pid, signal.SIGTERM)


def _write_down(descriptor: int, what: dict[str, Any]) -> None:
    """For who looks later; each thing that is written is longer than the one before."""
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, json.dumps(what).encode(), 0)
        os.fsync(descriptor)


def _hear(control: socket.socket) -> bytes:
    try:
        return control.recv(64)
    except OSError:
        return b""


def _say(control: socket.socket, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        control.sendall(json.dumps(what).encode() + b"\n")


def _started(pid: int) -> int:
    """When a process was started, in ticks since the host's start: with its id, who it is."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


if __name__ == "__main__":
    if os.fork():
        # who started this need not wait for it: it becomes a child of the host's first process
        os._exit(0)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(main(socket.socket(fileno=int(sys.argv[2]))))
