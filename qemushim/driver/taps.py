"""Tap devices: the host's ends of network cards.  https://docs.kernel.org/networking/tuntap.html

Nothing here needs to be root, as long as somebody who is has prepared it: a tap that belongs to the user, or QEMU's
bridge helper with the bridges that it may use (``/etc/qemu/bridge.conf``).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import subprocess
from dataclasses import dataclass

from qemushim.errors import DriverError

_DEVICE = "/dev/net/tun"
#: ``TUNSETIFF`` and its flags
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
#: ``SIOCGIFFLAGS``, ``SIOCSIFFLAGS``, ``SIOCBRADDIF``
_GET_FLAGS, _SET_FLAGS, _ADD_TO_BRIDGE = 0x8913, 0x8914, 0x89A2
_IFF_UP = 0x1
#: bytes of ``struct ifreq``, and of the name in it
_IFREQ, _NAME = 40, 16
#: how the kernel is to name a tap that has no name of its own
_PATTERN = "vnet%d"

#: where distributions put QEMU's helper
_HELPERS = (
    "/usr/lib/qemu/qemu-bridge-helper",
    "/usr/libexec/qemu-bridge-helper",
    "/usr/lib/qemu-bridge-helper",
)
#: seconds that it has
_PATIENCE = 10


@dataclass(frozen=True)
class Connection:
    """What an interface is connected to."""

    #: ``ethernet``, ``bridge``, ``direct``
    type: str
    #: name of the tap, ``""`` for any
    target: str = ""
    bridge: str = ""
    queues: int = 1
    custom_device: str = ""


def open_taps(wanted: Connection) -> tuple[str, list[int]]:
    """The name of the tap, and a descriptor for each queue.  Raises ``DriverError``."""
    if wanted.type == "direct":
        return _open_macvtap(wanted)
    if wanted.type == "bridge" and os.geteuid() != 0:
        return "", [_ask_helper(wanted)]
    name, descriptors = _make_taps(wanted)
    try:
        if wanted.type == "bridge":
            _add_to_bridge(name, wanted.bridge)
        _bring_up(name)
    except DriverError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return name, descriptors


def _make_taps(wanted: Connection) -> tuple[str, list[int]]:
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if wanted.queues > 1 else 0)
    name, descriptors = wanted.target or _PATTERN, []
    path = wanted.custom_device or _DEVICE
    try:
        for _ in range(wanted.queues):
            request = _request(name, struct.pack("H", flags))
            descriptors.append(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            reply = fcntl.ioctl(descriptors[-1], _TUNSETIFF, request)
            name = reply[:_NAME].rstrip(b"\0").decode()
    except OSError as problem:
        for descriptor in descriptors:
            os.close(descriptor)
        raise DriverError(
            f"cannot open tap device '{wanted.target or 'of any name'}': {problem.strerror}",
            hint=_hint(problem, wanted),
        ) from problem
    return name, descriptors


def _hint(problem: OSError, wanted: Connection) -> str:
    if problem.errno == errno.ENOENT:
        return f"the kernel has no {problem.filename or _DEVICE}: modprobe tun"
    if problem.errno == errno.EBUSY:
        return "another guest has it"
    user = os.environ.get("USER") or str(os.geteuid())
    name = wanted.target or "tap0"
    many = " multi_queue" if wanted.queues > 1 else ""
    return (
        f"as root: ip tuntap add dev {name} mode tap user {user}{many}; then <target dev='{name}' managed='no'/>\n"
        "<interface type='user'> needs no tap"
    )


def _open_macvtap(wanted: Connection) -> tuple[str, list[int]]:
    """A macvtap device that is there already: making one is root's."""
    try:
        index = open_text(f"/sys/class/net/{wanted.target}/ifindex") if wanted.target else ""
        descriptors = [os.open(f"/dev/tap{index}", os.O_RDWR | os.O_CLOEXEC) for _ in range(wanted.queues)]
    except OSError as problem:
        raise DriverError(
            f"cannot open macvtap device '{wanted.target}': {problem.strerror}",
            hint="as root: ip link add link eth0 name macvtap0 type macvtap mode bridge; then name it as <target dev=>",
        ) from problem
    return wanted.target, descriptors


def open_text(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _ask_helper(wanted: Connection) -> int:
    """A tap in a bridge, made by QEMU's own helper, which is root's."""
    helper = next((path for path in _HELPERS if os.access(path, os.X_OK)), None)
    if helper is None or wanted.queues > 1:
        why = "it has one queue only" if helper else f"there is no {_HELPERS[0]}"
        raise DriverError(f"cannot connect to bridge '{wanted.bridge}': {why}", hint=_hint(OSError(), wanted))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = subprocess.run(
            (helper, "--use-vnet", f"--fd={theirs.fileno()}", f"--br={wanted.bridge}"),
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode:
            raise DriverError(
                f"cannot connect to bridge '{wanted.bridge}': {done.stderr.strip() or 'the helper refuses'}",
                hint=f"as root: echo 'allow {wanted.bridge}' >> /etc/qemu/bridge.conf",
            )
        _, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _add_to_bridge(name: str, bridge: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(
                control, _ADD_TO_BRIDGE, _request(bridge, struct.pack("i", socket.if_nametoindex(name)))
            )
        except OSError as problem:
            raise DriverError(
                f"cannot connect '{name}' to bridge '{bridge}': {problem.strerror}",
                hint=f"is there a bridge of that name?  ip link show {bridge}",
            ) from problem


def _bring_up(name: str) -> None:
    """A tap that was made by root for the user is brought up by root too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            reply = fcntl.ioctl(control, _GET_FLAGS, _request(name, b""))
            (flags,) = struct.unpack_from("H", reply, _NAME)
            if not flags & _IFF_UP:
                fcntl.ioctl(control, _SET_FLAGS, _request(name, struct.pack("H", flags | _IFF_UP)))
        except PermissionError:
            pass
        except OSError as problem:
            raise DriverError(f"cannot bring up '{name}': {problem.strerror}") from problem


def _request(name: str, value: bytes) -> bytes:
    data = name.encode()
    if len(data) >= _NAME:
        raise DriverError(f"'{name}' is too long for a network device", hint=f"{_NAME - 1} bytes at most")
    return (data.ljust(_NAME, b"\0") + value).ljust(_IFREQ, b"\0")
