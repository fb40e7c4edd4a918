"""What later libvirt documents say that QEMU 0.9 – 1.2 can not be told, or need not be told.

Three ways to deal with it: what is a matter of the host alone is left standing and not looked at; what such
a QEMU has of itself is removed (``pci-root``, the UHCI controller, PS/2 keyboards); what it can not have is
refused.
"""

from __future__ import annotations

from collections.abc import Callable

from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.errors import error

_HINT = "remove it, or choose a newer QEMU"

#: devices that came with later QEMUs, or that only they can be given → what they are
_DEVICES = {
    "crypto": "a cryptographic device",
    "filesystem": "a shared directory",
    "hub": "a USB hub",
    "iommu": "an IOMMU",
    "memory": "a memory module",
    "nvram": "an NVRAM device",
    "panic": "a panic device",
    "pstore": "a pstore device",
    "redirdev": "a redirected USB device",
    "rng": "a random number generator",
    "shmem": "shared memory",
    "smartcard": "a smart card",
    "tpm": "a TPM",
    "vsock": "a vsock device",
}
#: elements of the domain, likewise
_ELEMENTS = {
    "cpu/numa": "NUMA nodes",
    "genid": "a generation id",
    "launchSecurity": "memory encryption",
    "maxMemory": "memory hotplug",
    "os/nvram": "a firmware with variables",
}
#: types of character devices that came later → what they are
_CHARDEVS = {
    "dbus": "D-Bus",
    "nmdm": "null modem",
    "qemu-vdagent": "the built-in clipboard agent",
    "spiceport": "SPICE",
    "spicevmc": "SPICE",
}
#: clocks that a hypervisor of the time offered or not as it pleased
_TIMERS = ("armvtimer", "hypervclock", "kvmclock")
_NEW_NICS = (
    "e1000e",
    "igb",
    "netfront",
    "usb-net",
    "virtio-non-transitional",
    "virtio-transitional",
    "vmxnet3",
)
_GRAPHICS = ("spice", "egl-headless", "dbus")
_ADDRESSES = ("pci", "drive", "virtio-serial")


def settle_later(root: Node, emulator: Emulator) -> None:
    """Remove what goes without saying; raise ``ConfigError`` for what can not be had."""
    version = name(emulator)
    for path, words in _ELEMENTS.items():
        node = root.find(path)
        if node is not None:
            raise error.unsupported(f"{words} are not known to {version}", node, _HINT)
    _settle_os(root, version)
    clock = root.child("clock")
    for timer in clock.all("timer") if clock is not None else ():
        if timer.get("name") in _TIMERS:
            clock.remove(timer)  # type: ignore[union-attr]
    devices = root.child("devices")
    if devices is None:
        return
    for node in tuple(devices.children):
        if node.tag in _DEVICES:
            raise error.unsupported(f"{_DEVICES[node.tag]} is not known to {version}", node, _HINT)
        settle = _SETTLERS.get(node.tag)
        if settle is not None and not settle(node, version):
            devices.remove(node)
            continue
        _settle_address(node)


def name(emulator: Emulator) -> str:
    """What to call that emulator in a message."""
    if emulator.is_kvm_fork:
        return emulator.package or "this qemu-kvm"
    return "QEMU " + ".".join(map(str, emulator.version))


def _settle_os(root: Node, version: str) -> None:
    os = root.child("os")
    if os is None:
        return
    loader = os.child("loader")
    firmware = os.get("firmware") or (loader.get("type") if loader is not None else None)
    if firmware in ("efi", "pflash"):
        raise error.unsupported(
            f"UEFI firmware is not known to {version}", loader or os, "boot with the BIOS"
        )


def _settle_address(node: Node) -> None:
    """USB ports, ISA ports and the like are QEMU's choice here."""
    for address in node.all("address"):
        if address.get("type") not in _ADDRESSES:
            node.remove(address)


def _controller(node: Node, version: str) -> bool:
    kind, model = node.get("type") or "ide", node.get("model") or ""
    if kind == "usb":
        if model in ("", "default", "none", "piix3-uhci", "piix4-uhci") and (node.get("index") or "0") == "0":
            return False
        raise error.unsupported(
            f"USB controller model '{model}' is not known to {version}", node, "one UHCI controller is there"
        )
    if kind == "pci":
        if model == "pci-root":
            return False
        raise error.unsupported(
            f"PCI controller model '{model}' is not known to {version}", node, "there is one bus"
        )
    if kind == "scsi" and model not in ("", "auto", "lsilogic"):
        raise error.unsupported(
            f"SCSI controller model '{model}' is not known to {version}", node, "use lsilogic"
        )
    return True


def _chardev(node: Node, version: str) -> bool:
    kind = node.get("type") or ""
    if kind in _CHARDEVS:
        raise error.unsupported(
            f"{_CHARDEVS[kind]} character devices are not known to {version}", node, _HINT
        )
    target = node.child("target")
    wanted = target.get("type") if target is not None else None
    if node.tag == "serial" and wanted not in (None, "isa-serial"):
        raise error.unsupported(
            f"serial ports of type '{wanted}' are not known to {version}", node, "isa-serial"
        )
    if node.tag == "console" and wanted not in (None, "serial", "xen"):
        raise error.unsupported(f"consoles of type '{wanted}' are not known to {version}", node, "serial")
    return True


def _graphics(node: Node, version: str) -> bool:
    kind = node.get("type")
    if kind in _GRAPHICS:
        raise error.unsupported(
            f"graphics of type '{kind}' are not known to {version}", node, "use vnc or sdl"
        )
    listen = node.child("listen")
    if listen is not None and not node.get("listen") and listen.get("address"):
        node.set("listen", listen.get("address") or "")
    return True


def _input(node: Node, version: str) -> bool:
    """A PS/2 keyboard is in every PC."""
    if node.get("type") == "keyboard" and node.get("bus") != "usb":
        return False
    if node.get("bus") == "virtio" or node.get("type") in ("passthrough", "evdev"):
        raise error.unsupported(f"this kind of input device is not known to {version}", node, "use bus='usb'")
    return True


def _interface(node: Node, version: str) -> bool:
    model = node.value("model/@type")
    if model in _NEW_NICS:
        raise error.unsupported(
            f"NIC model '{model}' is not known to {version}", node, "use virtio, e1000 or rtl8139"
        )
    return True


def _sound(node: Node, version: str) -> bool:
    if node.get("model") in ("ich6", "ich7", "ich9", "usb", "virtio"):
        text = f"sound model '{node.get('model')}' is not known to {version}"
        raise error.unsupported(text, node, "use ac97, es1370, sb16 or pcspk")
    return True


_SETTLERS: dict[str, Callable[[Node, str], bool]] = {
    "channel": _chardev,
    "console": _chardev,
    "controller": _controller,
    "graphics": _graphics,
    "input": _input,
    "interface": _interface,
    "parallel": _chardev,
    "serial": _chardev,
    "sound": _sound,
}
