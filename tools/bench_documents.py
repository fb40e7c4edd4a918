"""Documents that ``bench.py`` measures with: ordinary guests, and guests that grow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "web-server.xml"

_HEAD = """\
<domain type='{virt}'>
  <name>{name}</name>
  <uuid>5b0c1a3e-6f5d-4a0b-8c53-{number:012x}</uuid>
  <memory unit='GiB'>2</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='{machine}'>hvm</type></os>
  <features><acpi/><apic/></features>
  {cpu}
  <devices>
{devices}
  </devices>
</domain>
"""


def domain(
    name: str, devices: list[str], *, virt: str, machine: str = "q35", cpu: str = "", number: int = 0
) -> str:
    """A domain document around some devices."""
    inside = "\n".join(f"    {device}" for device in devices)
    return _HEAD.format(virt=virt, name=name, number=number, machine=machine, cpu=cpu, devices=inside)


def letters(number: int) -> str:
    """What a disk's name ends with: ``a`` is 0, ``aa`` is 26."""
    text = ""
    while number >= 0:
        text = chr(ord("a") + number % 26) + text
        number = number // 26 - 1
    return text


def _disk(number: int, prefix: str, bus: str, folder: str = "") -> str:
    name = prefix + letters(number)
    return (
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='/var/lib/libvirt/images/{folder}{name}.qcow2'/><target dev='{name}' bus='{bus}'/></disk>"
    )


def virtio_disks(count: int, virt: str) -> str:
    """Every disk behind a root port of its own, which is added for it."""
    return domain("virtio-disks", [_disk(n, "vd", "virtio") for n in range(count)], virt=virt)


def scsi_disks(count: int, virt: str) -> str:
    """Disks on one family of SCSI controllers, which are added as they are needed."""
    family = ["<controller type='scsi' index='0' model='virtio-scsi'/>"]
    return domain("scsi-disks", family + [_disk(n, "sd", "scsi") for n in range(count)], virt=virt)


def bridged_disks(count: int, virt: str) -> str:
    """Disks behind bridges that the document declares, thirty a bridge."""
    bridges = [f"<controller type='pci' index='{n}' model='pci-bridge'/>" for n in range(1, count // 30 + 2)]
    disks = [_disk(n, "vd", "virtio") for n in range(count)]
    return domain("bridged-disks", bridges + disks, virt=virt, machine="pc")


#: name → maker of a document with so many disks, the numbers of disks
GROWTH: dict[str, tuple[Callable[[int, str], str], tuple[int, ...]]] = {
    "virtio disks behind root ports": (virtio_disks, (1, 16, 64, 128, 200)),
    "SCSI disks": (scsi_disks, (1, 250, 500, 1000)),
    "disks behind declared bridges": (bridged_disks, (1, 125, 250, 500)),
}


def installed(virt: str) -> list[str]:
    """Guests as an installer leaves them: a disk or two, a card, a console, the host's CPU model."""
    cpu = "<cpu mode='host-model'/>"
    small = [
        _disk(0, "vd", "virtio"),
        "<interface type='ethernet'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>",
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        "<console type='pty'/>",
        "<graphics type='vnc' autoport='yes' listen='127.0.0.1'/>",
        "<memballoon model='virtio'/>",
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    ]
    desktop = [
        _disk(0, "sd", "sata"),
        "<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/><readonly/></disk>",
        "<controller type='usb' model='qemu-xhci' ports='15'/>",
        "<interface type='ethernet'><mac address='52:54:00:00:00:02'/><model type='e1000e'/></interface>",
        "<input type='tablet' bus='usb'/>",
        "<graphics type='vnc' autoport='yes' listen='127.0.0.1'/>",
        "<sound model='ich9'/>",
        "<video><model type='vga'/></video>",
        "<watchdog model='itco' action='reset'/>",
    ]
    example = EXAMPLE.read_text().replace("<cpu mode='host-passthrough'/>", cpu)
    return [
        example.replace("<domain type='kvm'>", f"<domain type='{virt}'>").replace("type='bridge'", "type='ethernet'")
        .replace("<source bridge='br0'/>", "").replace("<source bridge='br-backup'/>", ""),
        domain("server", small, virt=virt, cpu=cpu, number=1),
        domain("server-pc", small, virt=virt, machine="pc", cpu=cpu, number=2),
        domain("desktop", desktop, virt=virt, cpu=cpu, number=3),
    ]  # fmt: skip


_INSTALLED = """\
<domain type='{virt}'>
  <name>guest-{number}</name>
  <uuid>7d0c1a3e-6f5d-4a0b-8c53-{number:012x}</uuid>
  <metadata>
    <os:libosinfo xmlns:os="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <os:os id="http://debian.org/debian/12"/>
    </os:libosinfo>
  </metadata>
  <memory unit='KiB'>{memory}</memory>
  <currentMemory unit='KiB'>{memory}</currentMemory>
  <vcpu>{cpus}</vcpu>
  <os><type arch='x86_64' machine='{machine}'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/></features>
  <cpu mode='{cpu}'/>
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='pit' tickpolicy='delay'/>
    <timer name='hpet' present='no'/>
  </clock>
  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>
  <devices>
    {disks}
    <controller type='usb' model='qemu-xhci' ports='15'/>
    {ports}
    <interface type='network'>
      <source network='default'/><mac address='52:54:00:{mac}'/><model type='virtio'/>
    </interface>
    <console type='pty'/>
    <channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1'/>
    <video><model type='virtio'/></video>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""
#: the root ports that an installer adds for devices plugged in later
_PORTS = "<controller type='pci' model='pcie-root'/>" + 14 * "<controller type='pci' model='pcie-root-port'/>"


def fleet_guest(number: int, virt: str) -> str:
    """One of many guests as ``virt-install --import`` writes them, no two the same.

    Three of four are q35 guests, the others pc; every second names the CPU model ``host-model``; one to three disks.
    """
    q35 = number % 4 < 3
    return _INSTALLED.format(
        virt=virt,
        number=number,
        machine="q35" if q35 else "pc",
        cpu=("host-passthrough", "host-model")[number % 2],
        memory=(1 + number % 5) * 2**20,
        cpus=1 + number % 8,
        mac=":".join(f"{number >> shift & 0xFF:02x}" for shift in (16, 8, 0)),
        disks="".join(_disk(n, "vd", "virtio", f"guest-{number}/") for n in range(1 + number % 3)),
        ports=_PORTS if q35 else "",
    )


def bare_guest(number: int, virt: str) -> str:
    """One of many guests that have disks and nothing else."""
    disks = [_disk(n, "vd", "virtio") for n in range(1 + number % 4)]
    return domain(f"guest-{number}", disks, virt=virt, number=number)
