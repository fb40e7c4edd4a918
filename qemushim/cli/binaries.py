"""The QEMU binaries of this machine."""

from __future__ import annotations

import os
import shutil

from qemushim.capabilities.guests import ARCHITECTURES
from qemushim.machine.cpuhost import is_native

#: libvirt's name of an architecture → the name in the binary's, where they differ
_TARGETS = {"armv6l": "arm", "armv7l": "arm", "i686": "i386", "or32": "or1k", "ppc64le": "ppc64"}
_PREFIX = "qemu-system-"
#: names of a binary for the host's own architecture, beside qemu-system-ARCH
_NATIVE = ("/usr/libexec/qemu-kvm", "qemu-kvm", "kvm")


def installed() -> list[str]:
    """Every system emulator, in the order in which PATH finds them; of several of one name the first."""
    found: dict[str, str] = {}
    for folder in os.get_exec_path():
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            if name.startswith(_PREFIX) and os.path.isfile(path) and os.access(path, os.X_OK):
                found.setdefault(name, path)
    for name in _NATIVE:
        program = shutil.which(name)
        # distributions call one binary by several names
        if program is not None and not any(os.path.samefile(program, path) for path in found.values()):
            found[name] = program
    return list(found.values())


def by_architecture(host_arch: str) -> dict[str, str]:
    """Architecture → the binary that libvirt would run its guests with, for those that have one."""
    found = ((arch, _binary(arch, host_arch)) for arch in ARCHITECTURES)
    return {arch: path for arch, path in found if path is not None}


def _binary(arch: str, host_arch: str) -> str | None:
    own = _PREFIX + _TARGETS.get(arch, arch)
    native = _PREFIX + _TARGETS.get(host_arch, host_arch)
    names = [own]
    if arch == "armv7l" and host_arch == "aarch64":
        # only this one has KVM for guests of 32 bits
        names.insert(0, native)
    if is_native(arch, host_arch):
        names += [native, *_NATIVE]
    return next(filter(None, map(shutil.which, names)), None)
