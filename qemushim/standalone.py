"""The same guest for a hand rather than libvirt: a command line that a shell can start as it stands.

libvirt opens taps, sockets and files for QEMU, encrypts its secrets, starts helpers and tells it when to go.  Here QEMU
does as much of that itself as it can: sockets are below a folder of the guest's own, secrets are in the clear, networks
that need the host become user networking, and a display becomes VNC.  The hardware that the guest sees stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from qemushim.command.command import Command
from qemushim.command.layout import quote, shell
from qemushim.context import Define
from qemushim.devices.base import Device
from qemushim.devices.graphics import Graphics
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.errors import error
from qemushim.guest import Guest
from qemushim.host import Descriptors, Host, Paths, QemuConf
from qemushim.machine.domain import Domain

#: networks that QEMU can join without help
_OWN_NETWORKS = frozenset({"user", "server", "client", "mcast", "udp", "hostdev"})
#: what is left of an interface whose network is replaced: all that the guest sees
_CARD = frozenset(
    {"mac", "model", "mtu", "boot", "alias", "rom", "acpi", "address", "driver", "link", "teaming"}
)
#: displays that a hand can use as they are
_SCREENS = frozenset({"vnc", "sdl", "egl-headless"})
#: sound that goes where those displays went
_LOST_SOUND = frozenset({"spice", "dbus"})
#: the same for character devices
_LOST_CHARDEVS = frozenset({"spicevmc", "spiceport", "dbus"})
_CHARDEVS = ("smartcard", "serial", "parallel", "channel", "console", "redirdev")


@dataclass
class Standalone:
    """A command line and what must be there before it."""

    command: Command
    #: lines of a shell that make the folder and what belongs into it
    prepare: list[str] = field(default_factory=list)
    #: what is otherwise than under libvirt, or must be started first, in sentences
    notes: list[str] = field(default_factory=list)

    def shell(self) -> str:
        """Ready to paste."""
        return "".join(f"{line} && \\\n" for line in self.prepare) + shell(self.command)


def standalone(
    guest: Guest,
    emulator: Emulator,
    host: Host,
    folder: str = "",
    *,
    incoming: str = "",
    paused: bool = False,
) -> Standalone:
    """The command line of a guest that is run by hand.

    ``folder``: where its sockets are (default: ``./NAME.run``).  ``paused``: it waits for ``cont``.
    Raises what ``Guest.define`` raises, and ``ConfigError`` for a QEMU that speaks no QMP.
    """
    if emulator.classic:
        raise error.unsupported(
            "a guest is run by hand only with a QEMU that speaks QMP", hint="--qemu latest"
        )
    folder = folder or f"./{guest.name.replace('/', '_')}.run"
    own = own_host(host, folder)
    twin = guest.define(emulator, own)
    notes = list(_change(twin.domain, emulator, own))
    command = twin.build(emulator, own, incoming=incoming, alone=True, paused=paused).command
    return Standalone(command, list(_prepare(twin.domain, own)), [*notes, *_helpers(twin.domain, folder)])


def own_host(host: Host, folder: str) -> Host:
    """The host as a guest of its own sees it: everything in one folder, nothing is passed, and no qemu.conf."""
    return host._replace(
        paths=Paths(folder, folder, folder, folder, folder, host.paths.config, folder),
        config=QemuConf(dump_guest_core=host.config.dump_guest_core),
        environment={},
        descriptors=Descriptors(),
        vhost_net=False,
        slirp_helper=False,
        nbdkit=frozenset(),
        fd_groups={},
        tpm_socket=f"{folder}/swtpm.sock",
    )


# -- the document ------------------------------------------------------------------------------------------


def _change(domain: Domain, emulator: Emulator, host: Host) -> Iterator[str]:
    """Put in the place of what only libvirt can do what QEMU can; what that changes, in sentences."""
    for node in domain.node.iter():
        node.drop("fdgroup")
    for device in domain.lists["interface"]:
        yield from _change_interface(device.node)
    yield from _change_graphics(domain, emulator, host)
    for device in domain.lists["audio"]:
        if device.node.get("type") in _LOST_SOUND:
            device.node.set("type", "none")
            device.node.children.clear()
    for device in _character_devices(domain):
        _change_chardev(device, host.paths.guest)


def _change_interface(node: Node) -> Iterator[str]:
    kind = node.get("type") or ""
    passt = node.child("backend")
    if kind in _OWN_NETWORKS and (passt is None or passt.get("type") != "passt"):
        return
    kept = _CARD if kind != "user" else _CARD | {"ip"}
    node.set("type", "user")
    node.children = [child for child in node.children if child.tag in kept]
    yield f"the card {node.value('mac/@address')} is on user networking instead of '{kind}'"


def _change_graphics(domain: Domain, emulator: Emulator, host: Host) -> Iterator[str]:
    screens = domain.lists["graphics"]
    for device in tuple(screens):
        kind = device.node.get("type") or ""
        if kind in _SCREENS:
            # a password is set over the monitor: without that nobody could log in
            device.node.drop("passwd", "passwdValidTo", "connected")
            continue
        if any(other.node.get("type") == "vnc" for other in screens):
            domain.remove(device)
        else:
            device.node.attrib = {"type": "vnc", "port": "-1", "autoport": "yes"}
            device.node.children = []
            Graphics(device.node).complete(Define(domain, emulator, host, update=False))
            yield f"the display is VNC instead of '{kind}'"
        screens = domain.lists["graphics"]
    drawn = any(d.node.value("model/acceleration/@accel3d") == "yes" for d in domain.lists["video"])
    if drawn and screens and all(device.node.get("type") == "vnc" for device in screens):
        domain.add(Graphics, {"type": "egl-headless"})


def _character_devices(domain: Domain) -> Iterator[Device]:
    for tag in _CHARDEVS:
        yield from domain.lists[tag]


def _change_chardev(device: Device, folder: str) -> None:
    node = device.node
    if node.get("type") in _LOST_CHARDEVS:
        node.set("type", "null")
        node.children = [child for child in node.children if child.tag not in ("source", "protocol")]
    elif node.get("type") == "unix" and not node.value("source/@path"):
        source = node.ensure("source")
        source.set("mode", "bind")
        name = (node.value("target/@name") or "unknown.sock").replace("/", "_")
        source.set("path", f"{folder}/{name}")


# -- what comes first --------------------------------------------------------------------------------------


def _prepare(domain: Domain, host: Host) -> Iterator[str]:
    """The folder, and the variables of the firmware, unless they are there."""
    yield f"mkdir -p -m 700 {quote(host.paths.guest)}"
    nvram = domain.os.nvram if domain.os is not None else None
    if nvram is not None and nvram.template and nvram.path:
        path = quote(nvram.path)
        yield f"{{ test -e {path} || cp {quote(nvram.template)} {path}; }}"


def _helpers(domain: Domain, folder: str) -> Iterator[str]:
    """The processes that QEMU connects to when it starts."""
    for device in domain.lists["tpm"]:
        if device.node.value("backend/@type") == "emulator":
            version = "--tpm2 " if device.node.value("backend/@version") != "1.2" else ""
            control = quote(f"type=unixio,path={folder}/swtpm.sock")
            yield f"start first: swtpm socket {version}--tpmstate {quote(f'dir={folder}')} --ctrl {control}"
    for device in domain.lists["filesystem"]:
        path = device.node.value("source/@dir")
        if device.node.value("driver/@type") == "virtiofs" and path:
            socket = quote(f"{folder}/{device.alias}-fs.sock")
            yield f"start first: virtiofsd --socket-path={socket} --shared-dir {quote(path)}"
    for device in domain.lists["video"]:
        if device.node.value("driver/@name") == "vhostuser":
            yield f"start first: vhost-user-gpu -s {quote(f'{folder}/{device.alias}-vhost-user-gpu.sock')}"
    for device in domain.lists["disk"]:
        if device.node.value("source/reservations/@managed") == "yes":
            yield f"start first: qemu-pr-helper -k {quote(f'{folder}/pr-helper0.sock')}"
            return


__all__ = ["Standalone", "own_host", "standalone"]
