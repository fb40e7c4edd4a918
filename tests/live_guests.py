"""Guests that run, for tests of what joins, changes and leaves them."""

from __future__ import annotations

from typing import Any

from qemushim.devices.base import Device
from qemushim.document.writer import write
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Descriptors, Host
from qemushim.hotplug import LiveGuest, Plan
from tests.small_guests import LATEST, document

HOST = Host.nominal()._replace(domain_id=3, now=1_500_000_000)
#: with the descriptors that libvirt passes, and secrets
PASSING = HOST._replace(
    descriptors=Descriptors(unix_listen=9, file_source=9, file_log=9),
    find_secret=lambda kind, reference: b"secret",
)
GUEST = """<controller type='scsi' model='virtio-scsi'/><controller type='virtio-serial'/>
<disk type='file'><driver name='qemu' type='qcow2'/><source file='/root.qcow2'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><source file='/a.iso'/><target dev='hdc' bus='ide'/></disk>
<interface type='user'><model type='virtio'/></interface><serial type='pty'/>
<graphics type='vnc' passwd='old'/><memballoon model='none'/>"""
NUMA = "<maxMemory slots='4' unit='MiB'>4096</maxMemory>"
FILE = "<source file='/b.img'/>"


def started(
    devices: str = GUEST, emulator: Emulator = LATEST, host: Host = HOST, extra: str = "", machine: str = ""
) -> LiveGuest:
    """A guest that runs."""
    guest = Guest.from_xml(document(devices, emulator.arch, extra, machine))
    return LiveGuest.started(guest.define(emulator, host), emulator, host)[0]


def said(plan: Plan) -> list[str]:
    return [command.execute for command in plan.commands]


def arguments(plan: Plan, execute: str) -> Any:
    """The arguments of the first command of a name."""
    return next(dict(command.arguments) for command in plan.commands if command.execute == execute)


def xml_of(device: Device) -> str:
    return write(device.node, type(device).schema_for(device.node), live=True)


def newcomer(plan: Plan, before: LiveGuest) -> Device:
    known = {device.alias for device in before.domain.every()}
    return next(
        device for device in plan.document.domain.every() if device.alias and device.alias not in known
    )
