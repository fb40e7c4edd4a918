"""``<devices>`` of ``<domainCapabilities>``: which kinds and models of each device there can be.

The values of each enumeration are in libvirt's order.
"""

from __future__ import annotations

from collections.abc import Iterable

from qemushim.capabilities.layout import add_enum, add_supported
from qemushim.context import Context
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator

#: (value, libvirt's capability that it takes); without one it is always there
Values = tuple[tuple[str, str], ...]

_USB_CONTROLLERS = (
    *("piix3-usb-uhci", "piix4-usb-uhci", "usb-ehci", "ich9-usb-ehci1"),
    *("vt82c686b-usb-uhci", "pci-ohci", "nec-usb-xhci", "qemu-xhci"),
)
_VIDEO: Values = (
    ("vga", "VGA"),
    ("cirrus", "cirrus-vga"),
    ("vmvga", "vmware-svga"),
    ("qxl", "qxl"),
    ("virtio", "virtio-gpu"),
    ("none", ""),
    ("bochs", "bochs-display"),
    ("ramfb", "ramfb"),
)
_RNG_BACKENDS: Values = (("random", "rng-random"), ("egd", "rng-egd"), ("builtin", "rng-builtin"))
_FILESYSTEMS: Values = (("path", ""), ("handle", ""), ("virtiofs", "vhost-user-fs"))
_TPM: Values = (
    ("tpm-tis", "tpm-tis"),
    ("tpm-crb", "tpm-crb"),
    ("tpm-spapr", "tpm-spapr"),
    ("spapr-tpm-proxy", "spapr-tpm-proxy"),
)
_CHANNELS: Values = (("pty", ""), ("unix", ""), ("spicevmc", "spice"))
_CRYPTO_MODELS: Values = (("virtio", "virtio-crypto"),)
_CRYPTO_BACKENDS: Values = (("builtin", ""), ("lkcf", "cryptodev-backend-lkcf"))
_INTERFACES: Values = (("default", "netdev.user"), ("passt", "netdev.stream"))
#: versions of TPM that swtpm can be
_TPM_VERSIONS = ("1.2", "2.0")


def add_devices(root: Node, c: Context) -> None:
    devices = root.add("devices")
    e = c.emulator
    _add_disk(devices, c)
    add_enum(add_supported(devices, "graphics"), "type", _graphics(c))
    add_enum(add_supported(devices, "video"), "modelType", _offered(_VIDEO, e))
    _add_hostdev(devices, e)
    rng = add_supported(devices, "rng")
    add_enum(rng, "model", _virtio(e) if e.flag("virtio-rng") else ())
    add_enum(rng, "backendModel", _offered(_RNG_BACKENDS, e))
    add_enum(add_supported(devices, "filesystem"), "driverType", _offered(_FILESYSTEMS, e))
    _add_tpm(devices, c)
    redirdev = add_supported(devices, "redirdev", e.flag("usb-redir"))
    if e.flag("usb-redir"):
        add_enum(redirdev, "bus", ("usb",))
    add_enum(add_supported(devices, "channel"), "type", _offered(_CHANNELS, e))
    crypto = add_supported(devices, "crypto")
    add_enum(crypto, "model", _offered(_CRYPTO_MODELS, e))
    add_enum(crypto, "type", ("qemu",))
    add_enum(crypto, "backendModel", _offered(_CRYPTO_BACKENDS, e))
    add_enum(add_supported(devices, "interface"), "backendType", _offered(_INTERFACES, e))
    models = _panic(c)
    panic = add_supported(devices, "panic", bool(models))
    if models:
        add_enum(panic, "model", models)


def _offered(values: Iterable[tuple[str, str]], e: Emulator) -> list[str]:
    return [value for value, flag in values if not flag or e.flag(flag)]


def _virtio(e: Emulator) -> tuple[str, ...]:
    """The model of a virtio device, with its pair of strict ones."""
    if e.flag("virtio-pci-non-transitional"):
        return ("virtio", "virtio-transitional", "virtio-non-transitional")
    return ("virtio",)


def _add_disk(devices: Node, c: Context) -> None:
    e, board = c.emulator, c.board
    floppies = not board.is_pseries
    disk = add_supported(devices, "disk")
    add_enum(disk, "diskDevice", ("disk", "cdrom", *(("floppy",) if floppies else ()), "lun"))
    buses = (
        ("ide", board.has_builtin_ide),
        ("fdc", floppies),
        ("scsi", True),
        ("virtio", True),
        ("usb", e.flag("usb-storage")),
        ("sata", e.flag("ich9-ahci")),
    )
    add_enum(disk, "bus", (bus for bus, there in buses if there))
    add_enum(disk, "model", _virtio(e))


def _graphics(c: Context) -> list[str]:
    e = c.emulator
    dbus = e.flag("display-dbus")
    kinds = (
        ("sdl", e.flag("sdl")),
        ("vnc", e.flag("vnc")),
        # a server of its own, which QEMU shows its screen to over D-Bus
        ("rdp", dbus and c.host.qemu_rdp),
        ("spice", e.flag("spice")),
        ("egl-headless", e.flag("egl-headless")),
        ("dbus", dbus),
    )
    return [kind for kind, there in kinds if there]


def _add_hostdev(devices: Node, e: Emulator) -> None:
    hostdev = add_supported(devices, "hostdev")
    add_enum(hostdev, "mode", ("subsystem",))
    add_enum(hostdev, "startupPolicy", ("default", "mandatory", "requisite", "optional"))
    usb = ("usb",) if any(e.flag(controller) for controller in _USB_CONTROLLERS) else ()
    add_enum(hostdev, "subsysType", (*usb, "pci", "scsi"))
    add_enum(hostdev, "capsType", ())
    add_enum(hostdev, "pciBackend", ("default", "vfio"))


def _add_tpm(devices: Node, c: Context) -> None:
    e = c.emulator
    models = _offered(_TPM, e)
    tpm = add_supported(devices, "tpm", bool(models))
    if not models:
        return
    versions = c.host.tpm_versions if c.host.tpm_versions is not None else frozenset(_TPM_VERSIONS)
    emulated = e.flag("tpm-emulator") and bool(versions)
    add_enum(tpm, "model", models)
    passthrough = ("passthrough",) if e.flag("tpm-passthrough") else ()
    add_enum(tpm, "backendModel", (*passthrough, *(("emulator", "external") if emulated else ())))
    if emulated:
        add_enum(tpm, "backendVersion", (version for version in _TPM_VERSIONS if version in versions))


def _panic(c: Context) -> list[str]:
    e, board = c.emulator, c.board
    models = (
        ("isa", e.flag("pvpanic")),
        ("pseries", board.is_pseries),
        ("hyperv", board.is_x86),
        ("s390", board.is_s390),
        ("pvpanic", e.flag("pvpanic-pci")),
    )
    return [model for model, there in models if there]
