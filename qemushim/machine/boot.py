"""``<os>``: what boots and how.  https://libvirt.org/formatdomain.html#operating-system-booting"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.devices.storage import Source
from qemushim.devices.storage_define import complete_source
from qemushim.document.fields import Choice, Integer, Many, One, Switch, Text, Unsigned
from qemushim.document.item import Item
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

FIRMWARE = ("bios", "efi")
FORMATS = ("raw", "qcow2")
#: what ``<boot dev=>`` takes
DEVICES = ("fd", "cdrom", "hd", "network")


class Feature(Item):
    """``<feature>`` of ``<firmware>``: what the firmware must, or must not, be able to do."""

    tag = "feature"
    enabled = Switch("@enabled", required=True)
    name = Choice("@name", ("enrolled-keys", "secure-boot"), required=True)


class Loader(Item):
    """``<loader>``: the firmware itself."""

    tag = "loader"
    readonly = Switch("@readonly")
    secure = Switch("@secure")
    type = Choice("@type", ("rom", "pflash"))
    stateless = Switch("@stateless")
    format = Choice("@format", FORMATS)
    path = Text(".")


class Nvram(Item):
    """``<nvram>``: where the firmware keeps its variables, and what a new one is copied from."""

    tag = "nvram"
    template = Text("@template")
    template_format = Choice("@templateFormat", FORMATS)
    type = Choice("@type", ("file", "block", "network"))
    format = Choice("@format", FORMATS)
    path = Text(".")
    source = One("source", Source)


class AcpiTable(Item):
    """``<table>``: a file with an ACPI table."""

    tag = "table"
    type = Choice("@type", ("raw", "rawset", "slic", "msdm"), required=True)
    path = Text(".")


class Boot(Item):
    """``<boot>``: a kind of device to boot from."""

    tag = "boot"
    device = Choice("@dev", DEVICES, required=True)


class Os(Item):
    """``<os>``"""

    tag = "os"
    firmware = Choice("@firmware", ("", *FIRMWARE)).says("unknown firmware value {}", "XML error")
    arch = Text("type/@arch")
    machine = Text("type/@machine")
    type = Text("type")
    features = Many("firmware/feature", Feature)
    loader = One("loader", Loader)
    nvram = One("nvram", Nvram)
    kernel = Text("kernel")
    initrd = Text("initrd")
    cmdline = Text("cmdline")
    shim = Text("shim")
    dtb = Text("dtb")
    root = Text("root")
    tables = Many("acpi/table", AcpiTable)
    boots = Many("boot", Boot)
    menu = Switch("bootmenu/@enable")
    menu_timeout = Unsigned("bootmenu/@timeout")
    use_serial = Switch("bios/@useserial")
    reboot_timeout = Integer("bios/@rebootTimeout")
    smbios = Choice("smbios/@mode", ("none", "emulate", "host", "sysinfo")).says("unknown smbios mode '{}'")


def complete_loader(d: Define) -> None:
    """A loader that is a path and nothing else is a ROM."""
    os = d.domain.os
    if os is None:
        return
    if os.firmware == "":
        os.firmware = None
    loader, nvram = os.loader, os.nvram
    if loader is not None and loader.path and loader.type is None:
        loader.type = "rom"
    if nvram is not None and nvram.type is not None and nvram.source is not None:
        source = nvram.source.node
        name = source.get("name")
        complete_source(source, nvram.type or "file")
        # the path of the file, of older documents, where a source says it
        nvram.node.text = ""
        if name is not None:
            # the LUN of an iSCSI server stays unsaid here
            source.set("name", name)


def complete_boot(d: Define) -> None:
    """Boot order and its default."""
    os = d.domain.os
    assert os is not None, "a domain has an operating system"
    if os.smbios == "none":
        os.smbios = None
    if os.menu is not True:
        os.menu_timeout = None
        if os.menu is None:
            os.node.discard("bootmenu")
    if not os.boots and not any(device.boot_order for device in d.domain.every()):
        os.node.add("boot", {"dev": "hd"})


# -- checks -----------------------------------------------------------------------------------


def check_firmware(d: Define) -> None:
    """Whether firmware, loader and NVRAM of the document go together."""
    os = d.domain.os
    if os is None:
        return
    features = {feature.name: feature.enabled for feature in os.features}
    loader, nvram = os.loader, os.nvram
    if os.firmware is not None:
        if features.get("enrolled-keys") and features.get("secure-boot") is False:
            raise error.plain(
                "firmware feature 'enrolled-keys' cannot be enabled when firmware feature 'secure-boot' is "
                "disabled",
                os.node.child("firmware"),
                "secure-boot too, or neither",
            )
        if nvram is not None and os.firmware != "efi":
            raise error.plain(
                f"firmware type '{os.firmware}' does not support nvram", nvram.node, "firmware='efi'"
            )
    else:
        if features:
            raise error.plain(
                "cannot use feature-based firmware autoselection when firmware autoselection is disabled",
                os.node.child("firmware"),
                "<os firmware='efi'>",
            )
        if loader is not None and not loader.path:
            raise error.plain(
                "no loader path specified and firmware auto selection disabled",
                loader.node,
                "<os firmware='efi'>",
            )
        if loader is None and nvram is not None:
            raise error.plain(
                "no loader path specified and firmware auto selection disabled",
                nvram.node,
                "<os firmware='efi'>",
            )
    if loader is not None:
        _check_loader(os, loader, nvram)
    if nvram is not None:
        _check_nvram(nvram)


def _check_loader(os: Os, loader: Loader, nvram: Nvram | None) -> None:
    if loader.readonly is False and loader.type == "rom":
        raise error.plain(
            "ROM loader type cannot be used as read/write", loader.node, "type='pflash', or readonly='yes'"
        )
    if loader.stateless:
        if nvram is not None and nvram.template:
            raise error.plain(
                "NVRAM template is not permitted when loader is stateless", nvram.node, "drop template="
            )
        if nvram is not None:
            raise error.plain(
                "NVRAM is not permitted when loader is stateless", nvram.node, "drop <nvram>, or stateless="
            )
    elif loader.stateless is False:
        if os.firmware is None:
            if loader.type != "pflash":
                raise error.plain("Only pflash loader type permits NVRAM", loader.node, "type='pflash'")
        elif os.firmware != "efi":
            raise error.plain("Only EFI firmware permits NVRAM", loader.node, "firmware='efi'")


def _check_nvram(nvram: Nvram) -> None:
    """Variables that are not in a file need a place."""
    if nvram.type != "network":
        return
    if nvram.source is None:
        raise error.xml("missing source element in nvram", nvram.node, "<source protocol='nbd' …>")
    if nvram.source.protocol is None:
        raise error.xml(
            "Missing required attribute 'protocol' in element 'source'", nvram.source.node, "protocol='nbd'"
        )


def check_boot(d: Define) -> None:
    """BIOS, kernel."""
    os = d.domain.os
    assert os is not None, "a domain has an operating system"
    if os.use_serial and not d.board.is_x86:
        raise error.unsupported(
            "BIOS serial console is only supported on x86 architectures",
            os.node.child("bios"),
            "drop useserial=",
        )
    if os.shim and not d.emulator.device_property("none-machine", "shim"):
        raise error.unsupported(
            "shim is not supported with this QEMU binary",
            os.node.child("shim"),
            "drop <shim>, or QEMU 10.0 or newer",
        )


def check_bootloader(d: Define) -> None:
    """Xen's way to start a guest's kernel."""
    if d.domain.bootloader or d.domain.bootloader_args:
        node = d.domain.node.child("bootloader") or d.domain.node.child("bootloader_args")
        raise error.unsupported("bootloader is not supported by QEMU", node, "<kernel> and <initrd> of <os>")


def check_menu(d: Define) -> None:
    """How long the firmware waits."""
    os = d.domain.os
    assert os is not None, "a domain has an operating system"
    if os.menu_timeout is not None and os.menu_timeout > 65535:
        raise error.unsupported(
            "invalid value for boot menu timeout, must be in range [0,65535]",
            os.node.child("bootmenu"),
            "milliseconds",
        )
    timeout = os.reboot_timeout
    if timeout is not None and not -1 <= timeout <= 65535:
        raise error.unsupported(
            "invalid value for rebootTimeout, must be in range [-1,65535]",
            os.node.child("bios"),
            "milliseconds, -1: never",
        )


def check_acpi(d: Define) -> None:
    """UEFI and ACPI come together on the architectures where one is described by the other."""
    domain = d.domain
    features = domain.features
    acpi = features is not None and features.acpi
    machine = d.machine
    source = domain.node.child("features") or domain.node
    if acpi and machine is not None and machine.acpi is False:
        raise error.unsupported(
            f"machine type '{domain.machine_type}' does not support ACPI", source, "drop <acpi/>"
        )
    os = domain.os
    loader = os.loader if os is not None else None
    efi = os is not None and (os.firmware == "efi" or (loader is not None and loader.type == "pflash"))
    if d.board.is_x86 and efi and not acpi:
        raise error.unsupported(
            "UEFI requires ACPI on this architecture", source, "<features><acpi/></features>"
        )
    if d.domain.arch == "aarch64" and acpi and not efi:
        raise error.unsupported("ACPI requires UEFI on this architecture", source, "<os firmware='efi'>")


# -- options -----------------------------------------------------------------------------------


def boot_options(b: Build) -> Iterator[Option]:
    """``-boot``, ``-kernel``, ``-initrd``, ``-append``, ``-shim``, ``-dtb``, ``-acpitable``."""
    os = b.domain.os
    assert os is not None, "a definition has an operating system"
    pairs = {
        "menu": os.menu,
        "reboot-timeout": os.reboot_timeout,
        "splash-time": os.menu_timeout,
        "strict": True if b.emulator.option("boot-opts", "strict") else None,
    }
    if any(value is not None for value in pairs.values()):
        yield b.pairs("-boot", "", pairs, os.node, "nothing boots but what has a boot index")
    line = os.node.child("cmdline")
    # the kernel's own words, with every blank
    cmdline = line.text if line is not None and line.text.strip() else None
    for flag, value, rule in (
        ("-kernel", os.kernel, "the guest boots a kernel of the host"),
        ("-initrd", os.initrd, "the file system that this kernel begins with"),
        ("-append", cmdline, "the words that this kernel is given"),
        ("-shim", os.shim, "what verifies this kernel before it is booted"),
        ("-dtb", os.dtb, "the description of the board for this kernel"),
    ):
        if value:
            yield b.option(flag, value, os.node, rule)
    for table in os.tables:
        signature = table.type.upper() if table.type in ("slic", "msdm") else None
        pairs = {"sig": signature, "file": table.path}
        yield b.pairs("-acpitable", "", pairs, table.node, "a table for the guest's ACPI")
