"""``Site``: where a connection's guests run: which QEMU, on what host, kept by which libvirt.

On this machine the binary itself is asked.  Far away it can not be, nor in a container that has libvirt's socket and
another file system: there the recorded QEMU that is nearest to the version stands in for it, with the machine types
that libvirt names.
"""

from __future__ import annotations

import os
import re
import secrets
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from qemushim.address.walk import pci_address
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.emulator.model import Accelerator, Emulator, Machine
from qemushim.errors import EmulatorError, error
from qemushim.guest import Guest
from qemushim.host import Host

#: names of libvirt's drivers whose guests are defined by our rules
OURS = frozenset({"QEMU", "TEST"})
#: domain types that their documents may have
TYPES = frozenset({"hvf", "kvm", "qemu", "test"})

#: what the name of a machine type ends with
_MACHINE_VERSION = re.compile(r"-(\d+)\.(\d+)$")
#: for the last of a series
_ANY_MICRO = 99

#: libvirt's version → tag and model of a device that it knows only from then on, and that is there without being asked
_LATER: tuple[tuple[int, str, str], ...] = ((9_001_000, "watchdog", "itco"),)
#: libvirt's version → element and attribute, likewise
_LATER_ATTRIBUTES: tuple[tuple[int, str, str], ...] = ((10_001_000, "cpu/topology", "clusters"),)


class Site:
    """What a libvirt connection says of its host.  ``emulator`` and ``host`` override what is found out."""

    def __init__(self, raw: Any, emulator: str | Emulator | None = None, host: Host | None = None) -> None:
        self.raw = raw
        self.kind: str = raw.getType()
        self.uri: str = raw.getURI()
        self._emulator = emulator
        self._host = host
        self._known: dict[tuple[str, str, str], Emulator] = {}

    @property
    def is_ours(self) -> bool:
        return self.kind in OURS

    @property
    def is_test(self) -> bool:
        return self.kind == "TEST"

    @cached_property
    def is_local(self) -> bool:
        """The guests run on this machine, and the files that libvirt speaks of are those that are seen here."""
        if urlsplit(self.uri).hostname:
            return False
        path = self._default_emulator
        if self._emulator is not None or not path:
            return True
        try:
            version = Emulator.probe(path).version if os.access(path, os.X_OK) else None
        except EmulatorError:
            version = None
        return version == self.qemu_version

    @cached_property
    def qemu_version(self) -> tuple[int, int, int]:
        """Of the QEMU that libvirt takes by itself."""
        return _split_version(int(self.raw.getVersion()))

    @property
    def _default_emulator(self) -> str:
        """The binary that libvirt takes by itself for the host's own architecture."""
        return dict(self._emulators()).get(self.capabilities.value("host/cpu/arch") or "x86_64", "")

    @cached_property
    def version(self) -> int:
        """Of the libvirt that keeps the guests: 9.0.0 is 9,000,000."""
        return int(self.raw.getLibVersion())

    @cached_property
    def capabilities(self) -> Node:
        return parse(self.raw.getCapabilities())

    # -- the host ------------------------------------------------------------------------------------------------

    @cached_property
    def host(self) -> Host:
        """Its facts; of a host that is far away only what libvirt tells."""
        if self._host is not None:
            return self._host
        arch = self.capabilities.value("host/cpu/arch") or "x86_64"
        found = Host.local() if self.is_local and not self.is_test else Host.nominal(arch)
        models = [node.value("model") or "" for node in self.capabilities.ensure("host").all("secmodel")]
        return found._replace(
            arch=arch,
            # what libvirt does not name it does not run
            emulators=found.emulators if self.is_test else dict(self._emulators()),
            privileged=not urlsplit(self.uri).path.startswith("/session"),
            libvirt=self.version,
            # what its helpers can do is libvirt's to know
            tpm_versions=None,
            security_model=next((model for model in models if model), "none"),
            new_uuid=lambda purpose: str(uuid.uuid4()),
            new_mac=lambda purpose: "52:54:00:" + secrets.token_bytes(3).hex(":"),
        )

    def _emulators(self) -> Iterator[tuple[str, str]]:
        """Architecture → the binary that libvirt takes by itself."""
        for guest in self.capabilities.all("guest"):
            node = guest.child("arch")
            path = node.value("emulator") if node is not None else None
            if node is not None and path and guest.value("os_type") == "hvm":
                yield node.get("name") or "", path

    def has_type(self, virt: str, arch: str) -> bool:
        """Whether libvirt runs guests of that domain type and architecture."""
        return any(
            node.get("name") == arch and virt in {domain.get("type") for domain in node.all("domain")}
            for guest in self.capabilities.all("guest")
            for node in guest.all("arch")
        )

    # -- the emulator --------------------------------------------------------------------------------------------

    def emulator(self, guest: Guest, stored: Guest | None = None) -> Emulator:
        """What will run a guest.  ``stored``: its definition so far.  Raises ``EmulatorError``, ``ConfigError``."""
        arch = guest.domain.arch or (stored.domain.arch if stored is not None else "") or self.host.arch
        virt = "qemu" if self.is_test else guest.domain.virt
        path = guest.domain.node.value("devices/emulator") or self.host.emulators.get(arch, "")
        if not path and self._emulator is None:
            raise error.unsupported(
                f"No emulator found for arch '{arch}'", guest.domain.node.find("os/type"), "install its QEMU"
            )
        key = (arch, virt, path)
        if key not in self._known:
            self._known[key] = self._found(arch, virt, path)
        return self._known[key]

    def _found(self, arch: str, virt: str, path: str) -> Emulator:
        from qemushim.emulator.bundled import find

        if isinstance(self._emulator, Emulator):
            return self._emulator
        if self._emulator is not None:
            return find(self._emulator, arch)
        if self.is_test:
            found = find("latest", "x86_64" if arch == "i686" else arch)
            return found._replace(arch=arch)
        if self.is_local and os.access(path, os.X_OK):
            return self._with_type(Emulator.probe(path), virt, arch)
        return self._with_type(self._far(arch, path, virt), virt, arch)

    def _with_type(self, emulator: Emulator, virt: str, arch: str) -> Emulator:
        """KVM may be libvirt's alone: what it says of it counts, not what this process may open."""
        if virt in ("hvf", "kvm") and emulator.accelerator(virt) is None and self.has_type(virt, arch):
            plain = emulator.accelerators[-1]
            cpus = tuple(model._replace(blockers=None) for model in plain.cpus)
            fast = plain._replace(name=virt, cpus=cpus, host_cpu=None)
            return emulator._replace(
                accelerators=(fast, *emulator.accelerators), flags=emulator.flags | {virt}
            )
        return emulator

    def _far(self, arch: str, path: str, virt: str) -> Emulator:
        """The recorded QEMU that is nearest to one on another machine."""
        from qemushim.emulator.bundled import find

        version = ".".join(map(str, self._version_of(arch, path, virt)))
        try:
            found = find(f"~{version}", "x86_64" if arch == "i686" else arch)
        except EmulatorError as problem:
            raise error.unsupported(
                f"no QEMU {version} for {arch} is known here", hint="name one: qemushim.open(uri, emulator=…)"
            ) from problem
        machines = list(self._machines(arch, virt))
        accelerators = tuple(_with_machines(a, machines) for a in found.accelerators)
        return found._replace(arch=arch, binary=path, accelerators=accelerators)

    def _version_of(self, arch: str, path: str, virt: str) -> tuple[int, int, int]:
        """Of a binary that can not be asked; one that libvirt does not take by itself is told by its machine types."""
        if path == self._default_emulator:
            return self.qemu_version
        said = parse(self.raw.getDomainCapabilities(path, arch, None, virt))
        found = _MACHINE_VERSION.search(said.value("machine") or "")
        return (int(found[1]), int(found[2]), _ANY_MICRO) if found else self.qemu_version

    def _machines(self, arch: str, virt: str) -> Iterator[tuple[str, str]]:
        """(name, alias) of the machine types that libvirt lists."""
        for guest in self.capabilities.all("guest"):
            node = guest.child("arch")
            if node is None or node.get("name") != arch:
                continue
            own = next((d for d in node.all("domain") if d.get("type") == virt and d.child("machine")), node)
            for machine in own.all("machine"):
                canonical = machine.get("canonical")
                yield (canonical, machine.text.strip()) if canonical else (machine.text.strip(), "")

    def disguise(self, guest: Guest) -> str:
        """Give a guest of libvirt's own test driver, which is of no hypervisor, a type that QEMU has.

        Returns the type that it had.  A document of that driver may have addresses and no machine type: what sits in
        slot 0 behind a bus is behind a PCI Express port.
        """
        root = guest.domain.node
        real = root.get("type") or ""
        if self.is_test:
            root.set("type", "qemu")
            places = map(pci_address, guest.domain.every())
            if not guest.domain.machine_type and any(
                at is not None and at.bus and not at.slot for at in places
            ):
                root.ensure("os/type").set("machine", "q35")
        return real

    # -- what this libvirt knows ---------------------------------------------------------------------------------

    def trim(self, guest: Guest) -> None:
        """Take out of a definition what was added by itself and this libvirt does not know."""
        for since, path, name in _LATER_ATTRIBUTES:
            node = guest.domain.node.find(path)
            if node is not None and self.version < since and node.get(name) == "1":
                node.drop(name)
        for since, tag, model in _LATER:
            for device in tuple(guest.domain.lists[tag]) if self.version < since else ():
                if device.node.origin < 0 and device.node.get("model") == model:
                    guest.domain.remove(device)


def _split_version(number: int) -> tuple[int, int, int]:
    """As libvirt writes versions: 7.2.22 is 7,002,022."""
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def _with_machines(accelerator: Accelerator, listed: list[tuple[str, str]]) -> Accelerator:
    """The accelerator with the machine types that libvirt lists; the one preferred so far stays the first."""
    if not listed or not accelerator.machines:
        return accelerator
    known = {machine.name: machine for machine in accelerator.machines}
    aliases = {name: alias for name, alias in listed if alias}
    machines = [
        _like(name, known, accelerator)._replace(name=name, alias=aliases.get(name, ""))
        for name in dict.fromkeys(name for name, _ in listed)
    ]
    first = accelerator.machines[0]
    machines.sort(key=lambda machine: machine.alias != first.alias and machine.name != first.alias)
    return accelerator._replace(machines=tuple(machines))


def _like(name: str, known: dict[str, Machine], accelerator: Accelerator) -> Machine:
    """The machine type of that name, or the newest of its family."""
    family = name.rpartition("-")[0]
    return known.get(name) or next(
        (machine for machine in accelerator.machines if machine.name.rpartition("-")[0] == family),
        accelerator.machines[0],
    )
