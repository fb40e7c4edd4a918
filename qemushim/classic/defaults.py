"""What libvirt 0.8.0 filled in when it read a domain, and what it refused: the guest-wide half."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qemushim.classic.context import Classic
from qemushim.classic.document import Boot, Domain, Os, Vcpu
from qemushim.classic.later import name as emulator_name
from qemushim.document.node import QEMU_NAMESPACE, Node
from qemushim.document.units import canonical_uuid
from qemushim.emulator.model import Emulator
from qemushim.errors import error

#: word of ``<boot dev>`` → letter of ``-boot``
BOOT_LETTERS = {"fd": "a", "cdrom": "d", "hd": "c", "network": "n"}
MAX_BOOTS = 4
OS_TYPES = ("hvm", "xen", "linux")

#: machine types that came with the releases behind the classic ones
_LATER_MACHINES = re.compile(
    r"q35|pc-q35-.*|pc-i440fx-.*|pc-[1-9]\.[4-9]|microvm|virt(-.*)?|s390-ccw-virtio.*"
)


def complete_domain(c: Classic) -> None:
    """Identity, memory, processors, firmware, clock, and what to do when the guest ends."""
    domain = c.domain
    root = domain.node
    if not domain.name:
        raise error.xml("missing domain name", root, "<name>…</name>")
    _complete_uuid(c)
    if not domain.memory:
        raise error.xml("missing memory element", root, "<memory>…</memory>, in KiB")
    _set_text(root, "memory", str(domain.memory))
    _set_text(root, "currentMemory", str(domain.current_memory or domain.memory))
    vcpu = Vcpu(root.ensure("vcpu"))
    if not vcpu.count:
        raise error.xml("invalid number of vCPUs: 0", vcpu.node, "at least one")
    vcpu.node.text = str(vcpu.count)
    _complete_os(c)
    _complete_cpu(domain)
    root.ensure("clock").attrib.setdefault("offset", "utc")
    for tag, value in (
        ("on_poweroff", domain.on_poweroff),
        ("on_reboot", domain.on_reboot),
        ("on_crash", domain.on_crash),
    ):
        root.ensure(tag).text = value
    for label in root.all("seclabel")[1:]:
        root.remove(label)
    if root.child("qemu:commandline") is not None:
        root.attrib["xmlns:qemu"] = QEMU_NAMESPACE


def _set_text(root: Node, tag: str, text: str) -> None:
    node = root.ensure(tag)
    node.text = text
    node.drop("unit")


def _complete_uuid(c: Classic) -> None:
    root = c.domain.node
    if not c.domain.uuid:
        root.ensure("uuid").text = c.host.new_uuid(f"domain {c.domain.name}")
        return
    canonical = canonical_uuid(c.domain.uuid)
    if canonical is None:
        raise error.xml("malformed uuid element", root.child("uuid"), "32 hexadecimal digits")
    root.ensure("uuid").text = canonical


def _complete_os(c: Classic) -> None:
    root = c.domain.node
    os = Os(root.ensure("os"))
    kind = os.node.ensure("type")
    if not kind.text.strip():
        kind.text = "xen" if c.domain.bootloader is not None else "hvm"
    kind.text = kind.text.strip()
    if kind.text not in OS_TYPES:
        raise error.unsupported(
            f"no support found for os <type> '{kind.text}'", kind, "one of: " + ", ".join(OS_TYPES)
        )
    if not kind.get("arch"):
        kind.set("arch", c.emulator.arch)
    _complete_machine(c, kind)
    if c.domain.bootloader is not None or kind.text != "hvm":
        os.node.discard("boot")
        return
    boots = os.boots
    if len(boots) > MAX_BOOTS:
        raise error.xml(f"more than {MAX_BOOTS} boot devices", boots[MAX_BOOTS].node, "keep the first ones")
    if not boots:
        for word in _boot_order(c.domain):
            Boot(os.node.add("boot")).dev = word


def _boot_order(domain: Domain) -> Iterator[str]:
    """The hard disk; where devices say their turn, as in later documents, the classes by their first turn."""
    turns = []
    for node in domain.devices.node.children:
        boot = node.child("boot")
        order = boot.get("order") if boot is not None else None
        if order is None or not order.isdigit():
            continue
        if node.tag == "interface":
            turns.append((int(order), "network"))
        elif node.tag == "disk":
            turns.append((int(order), {"cdrom": "cdrom", "floppy": "fd"}.get(node.get("device") or "", "hd")))
    words = dict.fromkeys(word for _, word in sorted(turns))
    yield from words or ("hd",)


def _complete_machine(c: Classic, kind: Node) -> None:
    """The default machine type, or the versioned name behind an alias."""
    virt = c.domain.type
    machine = kind.get("machine")
    if not machine:
        default = c.emulator.default_machine(virt)
        if default is None:
            return
        machine = default.name
    if not _knows_machine(c.emulator, machine, virt):
        machines = c.emulator.accelerators[0].machines if c.emulator.accelerators else ()
        names = ", ".join(m.name for m in machines)
        raise error.unsupported(
            f"Emulator '{emulator_name(c.emulator)}' does not support machine type '{machine}'",
            kind,
            f"one of: {names}" if names else "",
        )
    kind.set("machine", c.emulator.canonical_machine(machine, virt))


def _knows_machine(emulator: Emulator, machine: str, virt: str) -> bool:
    """By the list of machine types where there is one; by the age of the name where there is none."""
    machines = emulator.accelerators[0].machines if emulator.accelerators else ()
    if len(machines) > 1:
        return emulator.machine(machine, virt) is not None
    return not _LATER_MACHINES.fullmatch(machine)


def _complete_cpu(domain: Domain) -> None:
    cpu = domain.cpu
    if cpu is None:
        return
    if cpu.mode == "custom":
        # the only mode there was, without a name
        cpu.node.drop("mode")
    if cpu.model and cpu.mode is None:
        cpu.match = cpu.match
    topology = cpu.node.child("topology")
    if topology is not None and not (cpu.sockets and cpu.cores and cpu.threads):
        raise error.xml("Invalid CPU topology", topology, "sockets, cores and threads, each at least 1")
    for feature in cpu.features:
        if not feature.name:
            raise error.xml("Invalid CPU feature name", feature.node, "<feature name='…'/>")
