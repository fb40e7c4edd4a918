"""A libvirtd of the tests' own: private files, and stopped by its own pid.

The one for the system runs as root in a mount namespace of its own, where libvirt's folders are empty; where no
namespace can be had, it runs on the real ones, which must not have a libvirtd yet.  The one for a session runs as an
ordinary user, below folders that are its own.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

#: seconds to wait for a daemon to answer, and to end
PATIENCE = 30.0
#: the same for another run of tests to end
TURN = 600.0

#: daemons are where ordinary users do not look
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_FOLDERS = ("/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt", "/run/libvirt")
_USER = "libvirt-qemu"
_CONF = 'unix_sock_dir = "{0}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\nlog_outputs = "3:file:{0}/libvirtd.log"\n'
#: guests need not be kept from each other, and not every machine could
_QEMU_CONF = 'user = "root"\ngroup = "root"\nnamespaces = []\n'
_TCP = 'listen_tls = 0\nlisten_tcp = 1\nlisten_addr = "127.0.0.1"\ntcp_port = "{0}"\nauth_tcp = "none"\n'
_DAEMONS = (
    'virtlogd -d -p "$1/virtlogd.pid" && exec libvirtd -d $2 -f "$1/libvirtd.conf" -p "$1/libvirtd.pid"\n'
)
_PUBLIC = f"mkdir -p {' '.join(_FOLDERS)} && {_DAEMONS}"
_PRIVATE = f"""set -eu
for folder in {" ".join(_FOLDERS)}; do
    mkdir -p "$folder"
    mount -t tmpfs none "$folder"
done
cp "$1/qemu.conf" /etc/libvirt/
for list in passwd group; do
    cp "/etc/$list" "$1/$list"
    grep -q '^{_USER}:' "/etc/$list" || case $list in
        passwd) echo '{_USER}:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >>"$1/$list" ;;
        group) echo '{_USER}:x:64055:' >>"$1/$list" ;;
    esac
    mount --bind "$1/$list" "/etc/$list"
done
{_DAEMONS}"""


def missing() -> str:
    """Why no libvirtd can be started here, or ``""``."""
    for name in ("libvirtd", "virtlogd", "qemu-system-x86_64"):
        if shutil.which(name, path=_PATH) is None:
            return f"needs {name} (apt-get install libvirt-daemon libvirt-daemon-driver-qemu qemu-system-x86)"
    return ""


#: kinds of URI that ``Daemons`` knows: of the system, of the system by TCP like one far away, of a session
KINDS = ("system", "remote", "session")


class Daemons:
    """The libvirtds of a test run: started when first asked for, and ended with the run."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._uris: dict[str, str] = {}

    def uri(self, kind: str) -> str:
        """Skips where that kind can not be had."""
        if kind not in self._uris:
            context = session_daemon() if kind == "session" else system_daemon()
            self._uris |= self._stack.enter_context(context)
        return self._uris[kind]


@contextmanager
def system_daemon() -> Iterator[dict[str, str]]:
    """A libvirtd for qemu:///system; yields its URIs, by its socket and by TCP.  Skips where there can be none."""
    if missing():
        pytest.skip(missing())
    if os.geteuid() != 0:
        pytest.skip("needs root, for a libvirtd of its own")
    private = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
    if not private and _user_missing():
        pytest.skip(f"needs a mount namespace, or the user {_USER} (apt-get install libvirt-daemon-system)")
    for last in (False, False, True):
        with ExitStack() as stack:
            try:
                uris = stack.enter_context(_system_daemon(private, _free_port()))
            except (TimeoutError, subprocess.CalledProcessError):
                if last:  # else somebody was faster to take the port
                    raise
                continue
            yield uris
            return


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _system_daemon(private: bool, port: int) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="qemushim-libvirtd-") as folder, _turn(not private):
        Path(folder, "libvirtd.conf").write_text(_CONF.format(folder) + _TCP.format(port))
        Path(folder, "qemu.conf").write_text(_QEMU_CONF)
        words = ["unshare", "--mount", "--propagation", "private"] if private else []
        script = _PRIVATE if private else _PUBLIC
        words += ["sh", "-c", script, "sh", folder, "--listen"]
        settings = nullcontext() if private else _qemu_conf()
        with settings, _running(words, folder, {**os.environ, "PATH": _PATH}):
            yield {
                "system": f"qemu+unix:///system?socket={folder}/libvirt-sock",
                "remote": f"qemu+tcp://127.0.0.1:{port}/system",
            }


@contextmanager
def session_daemon() -> Iterator[dict[str, str]]:
    """A libvirtd for qemu:///session, of an ordinary user; yields its URI.  Skips where there can be none."""
    if missing():
        pytest.skip(missing())
    with tempfile.TemporaryDirectory(prefix="qemushim-session-") as folder:
        Path(folder, "libvirtd.conf").write_text(_CONF.format(folder))
        environment = {**os.environ, "HOME": folder, "PATH": _PATH}
        for variable, name in (("CONFIG", "config"), ("CACHE", "cache"), ("DATA", "data")):
            environment[f"XDG_{variable}_HOME"] = f"{folder}/{name}"
        environment["XDG_RUNTIME_DIR"] = f"{folder}/run"
        Path(folder, "run").mkdir(mode=0o700)
        words = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody")
            for path in (folder, f"{folder}/run", f"{folder}/libvirtd.conf"):
                os.chown(path, user.pw_uid, user.pw_gid)
            words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        with _running([*words, "sh", "-c", _DAEMONS, "sh", folder], folder, environment):
            yield {"session": f"qemu+unix:///session?socket={folder}/libvirt-sock"}


@contextmanager
def _turn(needed: bool) -> Iterator[None]:
    """On the real folders one libvirtd can run at a time: tests that run side by side take turns."""
    with open("/tmp/qemushim-libvirtd.lock", "w") as file:
        if needed:
            end = time.monotonic() + TURN
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    assert time.monotonic() < end, "another test run keeps its libvirtd"
                    time.sleep(0.2)
        yield


@contextmanager
def _qemu_conf() -> Iterator[None]:
    """Settings of QEMU guests on a machine that has none."""
    file = Path("/etc/libvirt/qemu.conf")
    if file.exists():
        yield
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text(_QEMU_CONF)
    try:
        yield
    finally:
        file.unlink()


def _user_missing() -> bool:
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return True
    return False


@contextmanager
def _running(words: list[str], folder: str, environment: dict[str, str]) -> Iterator[None]:
    """The daemons, from when they answer; guests that they still run at the end are ended too."""
    try:
        subprocess.run(
            words, env=environment, cwd="/", timeout=PATIENCE, check=True, stdin=subprocess.DEVNULL
        )
        _await(lambda: _answers(folder), f"libvirtd does not answer: {_log(folder)}")
        yield
    finally:
        for name in ("libvirtd", "virtlogd"):
            _stop(Path(folder, f"{name}.pid"))


def _answers(folder: str) -> bool:
    # the socket is there at once, and answers when the drivers are loaded
    return Path(folder, "libvirt-sock").exists() and _pid(Path(folder, "libvirtd.pid")) is not None


def _stop(file: Path) -> None:
    """End a daemon by the pid that it wrote down itself."""
    pid = _pid(file)
    if pid is None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        with suppress(TimeoutError):
            _await(lambda: not _alive(pid), f"process {pid} does not end")
            return


def _pid(file: Path) -> int | None:
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    return pid if _alive(pid) else None


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _await(done: object, message: str) -> None:
    assert callable(done)
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(message)
        time.sleep(0.02)


def _log(folder: str) -> str:
    with suppress(OSError):
        return Path(folder, "libvirtd.log").read_text()[-2000:]
    return "no log"
