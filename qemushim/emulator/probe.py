"""Asking an installed binary what it can do: over QMP, or by its help text where it knows no QMP (or too
little).

The only place of this room that runs a process.  A binary gets a session of its own, a private folder for its
socket, and a limit of time; whatever happens, it is killed and waited for, and the folder is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from qemu.qmp import QMPError
from qemu.qmp.qmp_client import ExecuteError, QMPClient

from qemushim.emulator import interview
from qemushim.emulator.helptext import from_help
from qemushim.emulator.model import Emulator
from qemushim.emulator.qmp import Answers, Message, distil
from qemushim.errors import EmulatorError

#: seconds that a binary has for all answers of one kind (QMP, or help texts)
PATIENCE = 30.0

#: the longest path of a socket that every system takes
_SOCKET_PATH = 100
#: bytes of output that a QEMU stays below
_OUTPUT = 1 << 20
#: characters of output that an error message is taken from
_TAIL = 4096

#: seconds between two looks at whether a binary has ended
_POLL = 0.005

#: devices whose properties libvirt asks a classic binary for
_CLASSIC_DEVICES = ("pci-assign", "virtio-blk-pci", "virtio-net-pci", "scsi-disk")

#: the QMP library reports every broken connection by itself; here each one becomes an error with a text of
#: its own
_quiet = logging.getLogger("qemushim.qmp")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class _NoQmpError(Exception):
    """The binary ended or hung up before it had answered everything, or its answers are too few."""


def probe(path: str, *, patience: float = PATIENCE) -> Emulator:
    """Start the binary, ask it, stop it.  ``patience`` in seconds.

    Raises ``EmulatorError`` where it does not run, does not answer in time, or is no QEMU.
    """
    [found] = probe_all([path], patience=patience)
    if isinstance(found, EmulatorError):
        raise found
    return found


def probe_all(
    paths: Sequence[str],
    *,
    patience: float = PATIENCE,
    done: Callable[[str], object] = lambda path: None,
) -> list[Emulator | EmulatorError]:
    """Ask several binaries at once; for each in turn its abilities, or why it has none.

    ``done`` is called with the path of each when it has answered, or failed.  ``patience`` is in seconds and
    counts for each from when it is started.
    """
    work = _probe_all([os.path.abspath(path) for path in paths], patience, done)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    # the caller is inside an event loop: ask in a thread, which has a loop of its own
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _probe_all(
    paths: Sequence[str], patience: float, done: Callable[[str], object]
) -> list[Emulator | EmulatorError]:
    # each keeps a processor busy: more of them at once than there are would only eat into their patience
    turn = asyncio.Semaphore(max(2, os.cpu_count() or 1))

    async def one(path: str) -> Emulator | EmulatorError:
        async with turn:
            try:
                return await _probe(path, patience)
            except EmulatorError as problem:
                return problem
            finally:
                done(path)

    with _ended_cleanly():
        return list(await asyncio.gather(*map(one, paths)))


async def _probe(path: str, patience: float) -> Emulator:
    if not os.path.isfile(path):
        raise EmulatorError(f"cannot run '{path}': no such file", hint=_HINT)
    with _private_folder() as folder:
        try:
            async with asyncio.timeout(patience):
                return await _ask_qmp(path, folder)
        except _NoQmpError as problem:
            reason = str(problem)
        except TimeoutError:
            raise EmulatorError(f"'{path}' did not answer within {patience:g} seconds", hint=_HINT) from None
        try:
            async with asyncio.timeout(patience):
                return await _ask_help(path, folder)
        except EmulatorError as problem:
            raise EmulatorError(f"'{path}' does not answer as a QEMU does: {reason}", hint=_HINT) from problem
        except TimeoutError:
            raise EmulatorError(
                f"'{path}' did not print its help within {patience:g} seconds", hint=_HINT
            ) from None


@contextlib.contextmanager
def _ended_cleanly() -> Iterator[None]:
    """Signals that end this process do so when the binaries are gone, where nobody else looks after them."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    caught: list[int] = []

    def end(number: int) -> None:
        caught.append(number)
        task.cancel()

    mine = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if mine and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
        if caught:
            os.kill(os.getpid(), caught[0])


_HINT = "name a QEMU system emulator that runs on this machine, or a bundled version such as 10.0.0"


# -- over QMP ------------------------------------------------------------------------------------------------


async def _ask_qmp(path: str, folder: str) -> Emulator:
    answers = Answers()
    conversation: list[tuple[Message, Message]] = []
    hvf = _has_hvf()
    await _run(path, folder, _accelerators(), interview.first_run(answers), answers, conversation)
    if interview.wants_second_run(answers, hvf=hvf):
        await _run(path, folder, "tcg", interview.second_run(answers), answers, conversation)
    try:
        emulator = distil(conversation, binary=path, variant="hvf" if hvf else "")
    except EmulatorError as problem:
        raise _NoQmpError(str(problem)) from problem
    if emulator.accelerators and emulator.accelerators[0].name == "tcg":
        return emulator
    uname = platform.uname()
    return emulator._replace(microcode=_microcode(), kernel_version=f"{uname.release} {uname.version}")


async def _run(
    path: str,
    folder: str,
    accelerators: str,
    commands: Iterator[Message],
    answers: Answers,
    conversation: list[tuple[Message, Message]],
) -> None:
    """One run of the binary; its answers are put into ``answers`` and ``conversation``."""
    address = os.path.join(folder, f"{accelerators.partition(':')[0]}.qmp")
    client = QMPClient()
    client.logger = _quiet
    arguments = (
        *("-S", "-no-user-config", "-nodefaults", "-nographic"),
        *("-machine", f"none,accel={accelerators}", "-qmp", f"unix:{address}"),
    )
    with _started(path, folder, *arguments) as child:
        async with _listening(client, address):
            try:
                await _accept(client, child)
                for command in commands:
                    reply = await _execute(client, command)
                    answers.take(command, reply)
                    conversation.append((command, reply))
            except EmulatorError as problem:
                raise _NoQmpError(str(problem)) from problem
            except (QMPError, OSError, EOFError) as problem:
                raise _NoQmpError(await _epitaph(child)) from problem


async def _accept(client: QMPClient, child: _Child) -> None:
    """Wait until the binary connects and greets, or ends."""
    greeted = asyncio.create_task(client.accept())
    ended = asyncio.create_task(child.ended())
    try:
        await asyncio.wait((greeted, ended), return_when=asyncio.FIRST_COMPLETED)
        if not greeted.done():
            await ended
            raise EOFError("the binary ended")
        await greeted
    finally:
        for task in (greeted, ended):
            task.cancel()
        await asyncio.gather(greeted, ended, return_exceptions=True)


async def _execute(client: QMPClient, command: Message) -> Message:
    if command["execute"] == "qmp_capabilities":
        # the library has done that already
        return {"return": {}}
    try:
        return {"return": await client.execute(command["execute"], command.get("arguments"))}
    except ExecuteError as problem:
        return {"error": {"class": problem.error_class, "desc": str(problem)}}


@contextlib.asynccontextmanager
async def _listening(client: QMPClient, address: str) -> AsyncIterator[None]:
    """The client waits at the address; at the end it is disconnected, from whatever came."""
    await client.start_server(address)
    try:
        yield
    finally:
        with contextlib.suppress(QMPError, OSError, EOFError):
            await client.disconnect()


async def _epitaph(child: _Child) -> str:
    """How the binary ended, and the last line that it printed."""
    try:
        status = await asyncio.wait_for(child.ended(), 0.5)
    except TimeoutError:
        return "it closed the QMP connection"
    lines = child.said()[-_TAIL:].strip().splitlines()
    if status < 0:
        how = f"it was killed by {signal.Signals(-status).name}"
    else:
        how = f"it ended with status {status}"
    return f"{how} ({lines[-1][:200]})" if lines else how


# -- by help text --------------------------------------------------------------------------------------------


async def _ask_help(path: str, folder: str) -> Emulator:
    text = await _output(path, folder, "-help")
    if not text.startswith("QEMU"):
        text = await _output(path, folder, "-version") + text
    machines = await _output(path, folder, "-M", "?")
    devices = ""
    if "-device" in text:
        asked = (argument for name in _CLASSIC_DEVICES for argument in ("-device", f"{name},?"))
        devices = await _output(path, folder, "-device", "?", *asked)
    return from_help(text, machines_text=machines, devices_text=devices, binary=path)


async def _output(path: str, folder: str, *arguments: str) -> str:
    """What the binary prints, whatever its status."""
    with _started(path, folder, *arguments) as child:
        await child.ended()
        return child.said()


# -- processes -----------------------------------------------------------------------------------------------


class _Child:
    """A running binary, and the file that its output goes to."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self.process = process
        self._output = output

    async def ended(self) -> int:
        """Wait for its end; the status, negative for a signal; ``EmulatorError`` if it prints forever."""
        while (status := self._status()) is None:
            if os.fstat(self._output.fileno()).st_size > _OUTPUT:
                raise EmulatorError("it prints without end")
            await asyncio.sleep(_POLL)
        return status

    def said(self) -> str:
        self._output.seek(0)
        return self._output.read(_OUTPUT).decode(errors="replace")

    def end(self) -> None:
        """Kill it with all that it started (it leads a session of its own), and wait for it."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _status(self) -> int | None:
        """How it ended, if it has; it is not reaped here, so its number stays its own until ``end``."""
        if sys.platform == "darwin":
            return self.process.poll()
        found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


@contextlib.contextmanager
def _started(path: str, folder: str, *arguments: str) -> Iterator[_Child]:
    """The running binary; at the end of the block it has ended."""
    with tempfile.TemporaryFile(dir=folder) as output:
        try:
            process = subprocess.Popen(
                (path, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as problem:
            raise EmulatorError(f"cannot run '{path}': {problem.strerror}", hint=_HINT) from problem
        child = _Child(process, output)
        try:
            yield child
        finally:
            child.end()


@contextlib.contextmanager
def _private_folder() -> Iterator[str]:
    """A folder that only this user can enter, with a path short enough for a socket in it."""
    folder = tempfile.mkdtemp(prefix="qemushim-")
    if len(folder) > _SOCKET_PATH - len("/kvm.qmp"):
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="qemushim-", dir="/tmp")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- the host ------------------------------------------------------------------------------------------------


def _accelerators() -> str:
    if sys.platform == "darwin":
        return "hvf:tcg"
    return "kvm:tcg" if sys.platform == "linux" else "tcg"


def _has_hvf() -> bool:
    if sys.platform != "darwin":
        return False
    answer = subprocess.run(("sysctl", "-n", "kern.hv_support"), capture_output=True, text=True, check=False)
    return answer.stdout.strip() == "1"


def _microcode() -> int:
    """The version of the host's microcode, 0 where it has none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            found = next((line for line in lines if line.startswith("microcode")), "")
        return int(found.partition(":")[2].strip() or "0", 0)
    except (OSError, ValueError):
        return 0
