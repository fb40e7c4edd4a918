"""``<domainCapabilities>``: what a guest of one machine type can have with one emulator.

https://libvirt.org/formatdomaincaps.html
"""

from __future__ import annotations

from qemushim.capabilities.cpu import add_cpu
from qemushim.capabilities.devices import add_devices
from qemushim.capabilities.features import add_features
from qemushim.capabilities.guests import domain_types, emulator_path
from qemushim.capabilities.layout import add_enum, add_supported
from qemushim.context import Context
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.errors import error
from qemushim.host import Host
from qemushim.machine.domain import Domain
from qemushim.machine.firmware import Descriptor, read_descriptor

#: domain types by preference
_BEST_FIRST = ("kvm", "hvf", "qemu")
#: firmware of the enumeration → how descriptors call it
_FIRMWARE = {"bios": "bios", "efi": "uefi"}


def domain_capabilities(emulator: Emulator, host: Host, *, machine: str = "", virt: str = "") -> Node:
    """What guests can have.

    ``machine`` is a machine type or an alias (default: that of the architecture), ``virt`` a domain type (default: the
    fastest that the emulator has).  Raises ``ConfigError`` where the emulator has no such machine type.

    A domain type that the emulator does not have is answered for all the same, from the machine types of the one that
    it has: it is up to the caller to say no (``check_virt``).
    """
    if emulator.classic:
        version = ".".join(map(str, emulator.version))
        message = f"QEMU version >= 6.2.0 is required, but {version} found"
        raise error.unsupported(message, hint="what is known of it is less: qemushim probe")
    virt = virt or best_domain_type(emulator)
    c = _context(emulator, host, machine, virt)
    root = Node("domainCapabilities")
    root.add("path", text=emulator_path(emulator, host))
    root.add("domain", text=virt)
    root.add("machine", text=c.board.machine)
    root.add("arch", text=emulator.arch)
    _add_vcpus(root, c)
    add_supported(root, "iothreads")
    _add_os(root, c)
    add_cpu(root, c)
    memory = add_supported(root, "memoryBacking")
    memfd = ("memfd",) if emulator.flag("memory-backend-memfd") else ()
    add_enum(memory, "sourceType", ("file", "anonymous", *memfd))
    add_devices(root, c)
    add_features(root, c)
    return root


def best_domain_type(emulator: Emulator) -> str:
    """The fastest domain type that the emulator has."""
    known = domain_types(emulator)
    return next((virt for virt in _BEST_FIRST if virt in known), "qemu")


def check_virt(emulator: Emulator, virt: str, path: str) -> None:
    """Raise ``ConfigError`` where the emulator (at ``path``) does not have the domain type."""
    known = domain_types(emulator)
    if virt in known:
        return
    hint = f"it has: {', '.join(known)}"
    if virt == "kvm":
        raise error.argument(f"KVM is not supported by '{path}' on this host", hint=hint)
    raise error.argument(f"domain type '{virt}' is not supported by '{path}'", hint=hint)


def _context(emulator: Emulator, host: Host, machine: str, virt: str) -> Context:
    """A domain that says no more than what is asked about."""
    found = emulator.machine(machine, virt) if machine else emulator.default_machine(virt)
    if found is None:
        accelerator = emulator.accelerator(virt) or next(iter(emulator.accelerators), None)
        names = [m.alias or m.name for m in accelerator.machines] if accelerator is not None else []
        message = f"the machine '{machine}' is not supported by emulator '{emulator_path(emulator, host)}'"
        raise error.argument(message, hint=f"machines: {', '.join(names)}")
    node = Node("domain", {"type": virt})
    node.ensure("os").add("type", {"arch": emulator.arch, "machine": found.name}, text="hvm")
    return Context(Domain(node), emulator, host)


def _add_vcpus(root: Node, c: Context) -> None:
    accelerator = c.emulator.accelerator(c.domain.virt)
    machine = c.machine if accelerator is not None else None
    maximum = machine.max_cpus if machine is not None else 0
    if c.domain.virt == "kvm" and c.host.kvm_max_vcpus:
        maximum = min(maximum, c.host.kvm_max_vcpus)
    if maximum:
        root.add("vcpu", {"max": str(maximum)})


def _add_os(root: Node, c: Context) -> None:
    builds = _firmware(c)
    os = add_supported(root, "os")
    interfaces = {name for build in builds for name in build.interfaces}
    add_enum(os, "firmware", (ours for ours, theirs in _FIRMWARE.items() if theirs in interfaces))
    loader = add_supported(os, "loader")
    paths = c.host.loaders if c.host.loaders is not None else dict.fromkeys(b.path for b in builds)
    for path in paths:
        loader.add("value", text=path)
    add_enum(loader, "type", ("rom", "pflash"))
    add_enum(loader, "readonly", ("yes", "no"))
    secure = any("requires-smm" in build.features for build in builds)
    add_enum(loader, "secure", ("yes", "no") if secure else ("no",))


def _firmware(c: Context) -> list[Descriptor]:
    """The host's firmware that is made for the machine type."""
    read = (read_descriptor(content) for _, content in c.host.firmware if content is not None)
    return [build for build in read if build is not None and build.suits(c.domain.arch, c.board.machine)]
