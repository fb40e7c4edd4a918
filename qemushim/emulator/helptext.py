"""Classic binaries: what ``-help``, ``-M ?`` and ``-device ?`` of QEMU 0.9 – 1.2 say, as an ``Emulator``.

Two ways to read the same text: that of libvirt 0.8.0 (April 2010), and that of libvirt 1.0.0 (November 2012),
which knows more words, looks at the list of devices too, and accepts the first line of QEMU 0.13 and later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from qemushim.emulator.model import Accelerator, Emulator, Machine
from qemushim.errors import EmulatorError

Rules = Literal["1.0.0", "0.8.0"]

_FIRST_LINE = re.compile(
    r"QEMU (?P<pc>PC )?emulator version +(?P<major>\d+)\.(?P<minor>\d+)(?:\.(?P<micro>\d+))?"
    r"(?: *\((?P<package>(?:qemu-)?kvm-[^)\n]*)\))?"
)
_USAGE = re.compile(r"^usage: \S*qemu-system-(\w+)", re.MULTILINE)
_BINARY_ARCHES = {"kvm": "x86_64", "qemu": "i686", "qemu-kvm": "x86_64"}
_TARGET_ARCHES = {"arm": "armv7l", "i386": "i686"}
_DEVICE = re.compile(r'^name "([^"]+)"(?:.*?, alias "([^"]+)")?', re.MULTILINE)
_PROPERTY = re.compile(r"^([\w,-]+)\.([\w-]+)=", re.MULTILINE)
_MACHINE = re.compile(
    r"(?P<name>\S+)\s*(?P<description>.*?)\s*(?:\((?:alias of (?P<target>\S+)|(?P<default>default))\))?"
)

#: capability → text that the help has it by
_WORDS = {
    "balloon": "-balloon",
    "chardev": "-chardev",
    "device": "-device",
    "drive": "-drive",
    "drive-boot": "boot=on",
    "drive-serial": "serial=s",
    "enable-kvm": "-enable-kvm",
    "kqemu": "-no-kqemu",
    "kvm": "-no-kvm",
    "mem-path": "-mem-path",
    "name": "-name",
    "no-hpet": "-no-hpet",
    "no-kvm-pit": "-no-kvm-pit-reinjection",
    "no-reboot": "-no-reboot",
    "pcidevice": "-pcidevice",
    "rtc": "-rtc ",
    "rtc-td-hack": "-rtc-td-hack",
    "sdl": "-sdl",
    "tdf": "-tdf",
    "uuid": "-uuid",
    "xen-domid": "-xen-domid",
}

#: the same, read by libvirt 1.0.0 alone
_LATER_WORDS = {
    "boot-menu": "menu=on",
    "chardev-spicevmc": "-chardev spicevmc",
    "drive-aio": "aio=threads",
    "drive-cache-directsync": "directsync",
    "drive-cache-unsafe": "|unsafe",
    "drive-copy-on-read": "copy-on-read=on",
    "drive-iotune": "bps=",
    "drive-readonly": "readonly=on",
    "dump-guest-core": "dump-guest-core=",
    "fsdev": "-fsdev",
    "name-process": ",process=",
    "nesting": "-enable-nesting",
    "no-acpi": "-no-acpi",
    "no-shutdown": "-no-shutdown",
    "no-user-config": "-no-user-config",
    "nodefconfig": "-nodefconfig",
    "reboot-timeout": "reboot-timeout=",
    "seccomp-sandbox": "-sandbox",
    "smbios-type": "-smbios type",
    "spice": "-spice",
    "vhost-net": ",vhost=",
    "vnc": "-vnc",
}

#: capability → (option, word in what the help says of that option); libvirt 1.0.0
_OPTION_WORDS = {
    "fsdev-readonly": ("-fsdev", "readonly"),
    "fsdev-writeout": ("-fsdev", "writeout"),
    "netdev-bridge": ("-netdev", "bridge"),
    "vga-none": ("-vga", "none"),
    "vga-qxl": ("-vga", "qxl"),
}

#: capability → version from which it is there, whatever the help says (1 000 000 × major + 1000 × minor +
#: micro)
_VERSIONS = {"0-10": 10000, "migrate-qemu-unix": 12000, "vnc-colon": 9000}
_LATER_VERSIONS = {
    "cpu-host": 11000,
    "drive-readonly": 12000,
    "migrate-qemu-fd": 12000,
    "pci-rombar": 12000,
    "virtio-blk-sg-io": 11000,
}

#: the QMP and ``-netdev`` of 0.12 are good for nothing, but for those of a vendor who points to libvirt in
#: the help
_MATURE_QMP = 13000

#: capability → device of ``-device ?``; libvirt 1.0.0
_DEVICES = {
    "ccid-emulated": "ccid-card-emulated",
    "ccid-passthru": "ccid-card-passthru",
    "device-qxl-vga": "qxl-vga",
    "device-spicevmc": "spicevmc",
    "hda-duplex": "hda-duplex",
    "hda-micro": "hda-micro",
    "ich9-ahci": "ich9-ahci",
    "ich9-usb-ehci1": "ich9-usb-ehci1",
    "ide-cd": "ide-cd",
    "nec-usb-xhci": "nec-usb-xhci",
    "pci-ohci": "pci-ohci",
    "piix3-usb-uhci": "piix3-usb-uhci",
    "piix4-usb-uhci": "piix4-usb-uhci",
    "scsi-block": "scsi-block",
    "scsi-cd": "scsi-cd",
    "scsi-lsi": "lsi53c895a",
    "sga": "sga",
    "usb-ehci": "usb-ehci",
    "usb-hub": "usb-hub",
    "usb-redir": "usb-redir",
    "virtio-scsi-pci": "virtio-scsi-pci",
    "vt82c686b-usb-uhci": "vt82c686b-usb-uhci",
}

#: capability → (devices, property), one of the devices with the property will do; libvirt 1.0.0
_PROPERTIES = {
    "blockio": (("virtio-blk-pci",), "logical_block_size"),
    "bootindex": (("virtio-blk-pci", "virtio-net-pci"), "bootindex"),
    "pci-bootindex": (("pci-assign", "kvm-pci-assign"), "bootindex"),
    "pci-configfd": (("pci-assign", "kvm-pci-assign"), "configfd"),
    "pci-multifunction": (("virtio-blk-pci", "virtio-net-pci"), "multifunction"),
    "scsi-disk-channel": (("scsi-disk",), "channel"),
    "scsi-disk-wwn": (("scsi-disk",), "wwn"),
    "usb-redir-filter": (("usb-redir",), "filter"),
    "virtio-blk-event-idx": (("virtio-blk-pci",), "event_idx"),
    "virtio-blk-scsi": (("virtio-blk-pci",), "scsi"),
    "virtio-ioeventfd": (("virtio-blk-pci", "virtio-net-pci"), "ioeventfd"),
    "virtio-net-event-idx": (("virtio-net-pci",), "event_idx"),
    "virtio-tx-alg": (("virtio-net-pci",), "tx"),
}


class Release(NamedTuple):
    """What the first line of a help text says."""

    version: tuple[int, int, int]
    #: ``qemu-kvm-0.12.3`` and the like, as the fork calls itself
    package: str = ""
    is_kvm: bool = False
    #: the fork's own number (``kvm-83`` → 83), 0 where it names none
    kvm_version: int = 0

    @property
    def number(self) -> int:
        major, minor, micro = self.version
        return major * 1000000 + minor * 1000 + micro


def from_help(
    text: str,
    *,
    machines_text: str = "",
    devices_text: str = "",
    binary: str = "",
    rules: Rules = "1.0.0",
    arch: str = "",
    kvm_version: int = 0,
) -> Emulator:
    """A classic binary from its texts; without a machine list it is taken to know ``pc``, as all of them do.

    ``kvm_version`` is the number of an early fork that calls itself ``kvm-devel``; ``arch`` is by default the
    one that the name of the binary says.  Raises ``EmulatorError`` where the text is no help text (of the
    years of the rules).
    """
    release = read_release(text, rules)
    if release.is_kvm and not release.kvm_version:
        release = release._replace(kvm_version=kvm_version)
    types, properties = read_devices(devices_text)
    machines = read_machines(machines_text) or (Machine("pc", is_default=True, description="Standard PC"),)
    hardware = release.is_kvm or "-enable-kvm" in text or "-no-kvm" in text
    return Emulator(
        arch=arch or _arch(text, binary),
        version=release.version,
        binary=binary,
        package=release.package,
        flags=help_flags(text, release, types, properties, rules),
        classic=True,
        is_kvm_fork=release.is_kvm,
        kvm_version=release.kvm_version,
        types=types,
        properties=properties,
        accelerators=tuple(
            Accelerator(name, machines) for name in (("kvm", "tcg") if hardware else ("tcg",))
        ),
    )


def read_release(text: str, rules: Rules = "1.0.0") -> Release:
    """Version and fork from a help text.  Raises ``EmulatorError`` where its first line is not QEMU's."""
    match = _FIRST_LINE.match(text)
    if match is None:
        shown = text.lstrip().partition("\n")[0][:80]
        raise EmulatorError(f"not a QEMU help text: it starts with '{shown}'")
    if rules == "0.8.0" and not (match["pc"] and match["micro"]):
        raise EmulatorError(
            f"libvirt 0.8.0 does not accept a help text that starts with '{match[0]}'",
            hint="it reads 'QEMU PC emulator version A.B.C', which QEMU printed up to 0.12",
        )
    package = match["package"] or ""
    number = re.match(r"kvm-(\d+)", package)
    version = (int(match["major"]), int(match["minor"]), int(match["micro"] or 0))
    return Release(version, package, bool(package), int(number[1]) if number else 0)


def read_machines(text: str) -> tuple[Machine, ...]:
    """The machine types of a ``-M ?`` text, the default first; an alias is joined to its target."""
    machines: dict[str, Machine] = {}
    aliases: dict[str, str] = {}
    _, _, lines = text.partition("Supported machines are:\n")
    for line in lines.splitlines():
        match = _MACHINE.fullmatch(line.strip())
        if match is None:
            continue
        if match["target"]:
            aliases[match["target"]] = match["name"]
        name = match["target"] or match["name"]
        known = machines.get(name)
        if known is None or not match["target"]:
            machines[name] = Machine(
                name, is_default=bool(match["default"]), description=match["description"]
            )
    joined = (
        Machine(m.name, aliases.get(m.name, ""), m.is_default, description=m.description)
        for m in machines.values()
    )
    return tuple(sorted(joined, key=lambda machine: not machine.is_default))


def read_devices(text: str) -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    """Devices and their properties, of a ``-device ?`` text with ``-device NAME,?`` behind it."""
    types: set[str] = set()
    aliases: dict[str, str] = {}
    for name, alias in _DEVICE.findall(text):
        types.add(name)
        if alias:
            types.add(alias)
            aliases[name] = alias
    properties: dict[str, set[str]] = {}
    for device, name in _PROPERTY.findall(text):
        for key in {device, aliases.get(device, device)}:
            properties.setdefault(key, set()).add(name)
    return frozenset(types), {device: frozenset(names) for device, names in sorted(properties.items())}


def help_flags(
    text: str,
    release: Release,
    types: frozenset[str] = frozenset(),
    properties: Mapping[str, frozenset[str]] | None = None,
    rules: Rules = "1.0.0",
) -> frozenset[str]:
    """The capabilities that the texts of a classic binary show, by libvirt's names of the time."""
    later = rules == "1.0.0"
    words = _WORDS | _LATER_WORDS if later else _WORDS
    versions = {**_VERSIONS, **(_LATER_VERSIONS if later else {})}
    flags = {name for name, word in words.items() if word in text}
    flags |= {name for name, version in versions.items() if release.number >= version}
    flags |= _drive_flags(text, flags) | _migration_flags(release)
    if "-vga" in text and "-std-vga" not in text:
        flags.add("vga")
    if all(word in text for word in ("cores=", "threads=", "sockets=")):
        flags.add("smp-topology")
    if "-domid" in text and "xen-domid" not in flags:
        flags.add("domid")
    if release.is_kvm and (release.number >= 10000 or release.kvm_version >= 74):
        flags.add("vnet-hdr")
    if later:
        flags |= _later_flags(text, release, types, properties or {}, flags)
    elif release.is_kvm and ",vhost=" in text:
        flags.add("vnet-host")
    return frozenset(flags)


def _drive_flags(text: str, flags: set[str]) -> set[str]:
    if "drive" not in flags:
        return set()
    words = {"drive-cache-v2": "cache=writethrough|writeback|none", "drive-format": "format="}
    return {name for name, word in words.items() if word in text}


def _migration_flags(release: Release) -> set[str]:
    """How an incoming migration is named: a matter of versions alone."""
    modern, kvm = release.number >= 10000, release.kvm_version
    found = set()
    if modern or kvm >= 79:
        found.add("migrate-qemu-tcp")
    if modern or kvm >= 80:
        found.add("migrate-qemu-exec")
    if not modern and 0 < kvm < 79:
        found.add("migrate-kvm-stdio")
    return found


def _later_flags(
    text: str,
    release: Release,
    types: frozenset[str],
    properties: Mapping[str, frozenset[str]],
    flags: set[str],
) -> set[str]:
    found = {name for name, (option, word) in _OPTION_WORDS.items() if word in _about(text, option)}
    if "vga" not in flags:
        found -= {"vga-none", "vga-qxl"}
    if release.number >= _MATURE_QMP or "libvirt" in text:
        found |= {name for name, word in (("monitor-json", "-qmp"), ("netdev", "-netdev")) if word in text}
    found |= {name for name, device in _DEVICES.items() if device in types}
    for name, (devices, wanted) in _PROPERTIES.items():
        if any(wanted in properties.get(device, ()) for device in devices):
            found.add(name)
    return found


def _about(text: str, option: str) -> str:
    """What the help says of an option: lines that start with it, each with the indented ones behind."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        inside = line.startswith(option + " ") or (inside and line.startswith(" "))
        if inside:
            lines.append(line)
    return "\n".join(lines)


def _arch(text: str, binary: str) -> str:
    name = os.path.basename(binary)
    if name in _BINARY_ARCHES:
        return _BINARY_ARCHES[name]
    target = name.removeprefix("qemu-system-") if name.startswith("qemu-system-") else ""
    if not target:
        usage = _USAGE.search(text)
        target = usage[1] if usage else "x86_64"
    return _TARGET_ARCHES.get(target, target)
