"""Firmware: chosen from descriptors, loader, NVRAM.

Descriptors: https://gitlab.com/qemu-project/qemu/-/blob/master/docs/interop/firmware.json
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from qemushim.command.option import Option
from qemushim.devices.block_image import Image
from qemushim.devices.block_nodes import image_options, pflash_image
from qemushim.document.node import Node
from qemushim.errors import ConfigError, error
from qemushim.machine.boot import Loader, Nvram, Os, check_acpi, check_firmware

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: architectures whose QEMU has another name for them
_ARCHITECTURES = {"i686": "i386", "armv6l": "arm", "armv7l": "arm", "ppc64le": "ppc64"}
_INTERFACES = {"efi": "uefi", "bios": "bios"}

#: kinds of NVRAM that libvirt itself can fill from a template
LOCAL = (None, "file", "block")

#: code → variables of builds that were there before descriptors
_PAIRS = {
    "/usr/share/OVMF/OVMF_CODE.fd": "/usr/share/OVMF/OVMF_VARS.fd",
    "/usr/share/OVMF/OVMF_CODE.secboot.fd": "/usr/share/OVMF/OVMF_VARS.fd",
    "/usr/share/AAVMF/AAVMF_CODE.fd": "/usr/share/AAVMF/AAVMF_VARS.fd",
    "/usr/share/AAVMF/AAVMF32_CODE.fd": "/usr/share/AAVMF/AAVMF32_VARS.fd",
}


class Descriptor(NamedTuple):
    """One firmware build that the host has."""

    interfaces: tuple[str, ...]
    #: ``flash``, ``memory`` or ``kernel``
    device: str
    path: str
    format: str
    mode: str
    template: str
    template_format: str
    #: architecture, patterns of machine types
    targets: tuple[tuple[str, tuple[str, ...]], ...]
    features: frozenset[str]

    def suits(self, arch: str, machine: str) -> bool:
        """Whether it is made for the machine type (libvirt's name of the architecture)."""
        arch = _ARCHITECTURES.get(arch, arch)
        return any(
            a == arch and any(fnmatchcase(machine, m) for m in machines) for a, machines in self.targets
        )


def read_descriptor(content: Mapping[str, Any]) -> Descriptor | None:
    """A descriptor from its JSON; ``None`` where it is not one."""
    try:
        mapping = content["mapping"]
        device = mapping["device"]
        code = mapping["executable"] if device == "flash" else mapping
        mode = mapping.get("mode", "split") if device == "flash" else ""
        template = mapping["nvram-template"] if mode == "split" else {}
        return Descriptor(
            interfaces=tuple(content["interface-types"]),
            device=str(device),
            path=str(code["filename"]),
            format=str(code.get("format", "")),
            mode=str(mode),
            template=str(template.get("filename", "")),
            template_format=str(template.get("format", "")),
            targets=tuple((t["architecture"], tuple(t["machines"])) for t in content["targets"]),
            features=frozenset(content["features"]),
        )
    except (AttributeError, KeyError, TypeError):
        return None


# -- choosing -----------------------------------------------------------------------------------


class Wish(NamedTuple):
    """What the document asks of its firmware."""

    interface: str
    loader: Loader | None
    nvram: Nvram | None
    #: name of a firmware feature → whether it must be there
    features: dict[str, bool]
    needed: frozenset[str]
    smm: bool | None
    machine: str
    arch: str
    kernel: str

    def fits(self, candidate: Descriptor) -> bool:
        """Whether the build is one that the document can have."""
        if self.interface not in candidate.interfaces or not candidate.suits(self.arch, self.machine):
            return False
        if not self.needed <= candidate.features:
            return False
        if any((name in candidate.features) != wanted for name, wanted in self.features.items()):
            return False
        secure = self.loader.secure if self.loader is not None else None
        if "requires-smm" in candidate.features:
            if self.smm is False or secure is False:
                return False
        elif secure:
            return False
        if not self._fits_paths(candidate):
            return False
        return self._fits_flash(candidate) if candidate.device == "flash" else self._fits_memory(candidate)

    def _fits_paths(self, candidate: Descriptor) -> bool:
        if candidate.device == "kernel":
            return not self.kernel or self.kernel == candidate.path
        if self.loader is not None and self.loader.path and self.loader.path != candidate.path:
            return False
        if self.nvram is not None and self.nvram.template:
            return candidate.mode == "split" and self.nvram.template == candidate.template
        return True

    def _fits_flash(self, candidate: Descriptor) -> bool:
        loader = self.loader
        mode = "stateless" if loader is not None and loader.stateless else "split"
        if candidate.mode != mode or candidate.format not in ("raw", "qcow2"):
            return False
        if mode == "split" and candidate.template_format not in ("raw", "qcow2"):
            return False
        if loader is None:
            return True
        # an image that the guest itself writes to would have to be combined with its variables
        if loader.readonly is False or loader.type not in (None, "pflash"):
            return False
        return loader.format in (None, candidate.format)

    def _fits_memory(self, candidate: Descriptor) -> bool:
        loader = self.loader
        if loader is None or candidate.device != "memory":
            return True
        return loader.readonly is not False and loader.type in (None, "rom")


def _wish(d: Define, os: Os) -> Wish:
    domain, loader = d.domain, os.loader
    kind = os.firmware or {"pflash": "efi", "rom": "bios"}.get(
        (loader.type if loader is not None else None) or "", ""
    )
    needed: set[str] = set()
    power = domain.pm
    if power is not None:
        needed.update({"acpi-s3"} if power.suspend_to_mem else ())
        needed.update({"acpi-s4"} if power.suspend_to_disk else ())
    security = domain.launch_security
    if security is not None:
        needed.update(security.firmware_features())
    features = domain.features
    return Wish(
        interface=_INTERFACES.get(kind, ""),
        loader=loader,
        nvram=os.nvram,
        features={f.name: f.enabled for f in os.features if f.name is not None and f.enabled is not None},
        needed=frozenset(needed),
        smm=features.smm if features is not None else None,
        machine=domain.machine_type,
        arch=domain.arch,
        kernel=os.kernel or "",
    )


def select_firmware(d: Define) -> None:
    """Fill in loader, NVRAM and features from the first descriptor that fits.

    A guest that exists is left as it is where nothing fits: it is told when it starts.
    """
    os = d.domain.os
    if os is None:
        return
    if os.firmware == "":
        os.firmware = None
    if not d.update and not d.start:
        _keep_compatible(os)
    try:
        _select(d, os)
    except ConfigError:
        if d.update or d.start:
            raise


def _keep_compatible(os: Os) -> None:
    """What a guest that exists was understood to mean."""
    if os.firmware is None:
        # features had no meaning without autoselection
        os.node.discard("firmware")


def _select(d: Define, os: Os) -> None:
    if not d.start:
        check_firmware(d)
        check_acpi(d)
    loader, nvram = os.loader, os.nvram
    if nvram is not None and nvram.format is not None and (loader is None or loader.format is None):
        loader = Loader(os.node.ensure("loader"))
        loader.format = nvram.format
    if os.firmware is None and (loader is None or loader.type == "rom"):
        return
    is_chosen_rom = loader is not None and loader.type == "rom"
    if (
        os.firmware is not None
        and not d.update
        and not is_chosen_rom
        and (loader is None or loader.format is None)
    ):
        # guests that exist were given raw images, before there were others
        loader = os.loader or Loader(os.node.ensure("loader"))
        loader.format = "raw"
    wish = _wish(d, os)
    for _, content in d.host.firmware:
        candidate = read_descriptor(content) if content is not None else None
        if candidate is not None and wish.fits(candidate):
            _fill(d, os, candidate)
            break
    else:
        if os.firmware is not None:
            raise error.failed(
                f"Unable to find '{os.firmware}' firmware that is compatible with the current configuration",
                os.node,
                "see the descriptors in /usr/share/qemu/firmware",
            )
        _fill_by_path(os)
    _complete_nvram(d, os)


def _fill(d: Define, os: Os, found: Descriptor) -> None:
    loader = os.loader or Loader(os.node.ensure("loader"))
    if found.device == "flash":
        loader.type = "pflash"
        loader.readonly = True
        loader.format = found.format
        loader.path = found.path
        if found.template and (os.nvram is None or os.nvram.type in LOCAL):
            nvram = os.nvram or Nvram(os.node.ensure("nvram"))
            nvram.template = found.template
            nvram.template_format = found.template_format
    elif found.device == "memory":
        loader.type = "rom"
        loader.path = found.path
    else:
        os.kernel = found.path
    if "requires-smm" in found.features:
        d.domain.node.ensure("features/smm").set("state", "on")
        loader.secure = True
    os.firmware = os.firmware or ("efi" if found.interfaces[0] == "uefi" else "bios")
    _fill_features(os, loader, found)


def _fill_features(os: Os, loader: Loader, found: Descriptor) -> None:
    node = os.node.ensure("firmware")
    node.children = []
    template = os.nvram.template if os.nvram is not None else None
    for name in ("enrolled-keys", "secure-boot"):
        if name == "enrolled-keys" and loader.type == "pflash" and not template:
            continue  # the keys are in the variables, which are not known
        node.add("feature", {"enabled": "yes" if name in found.features else "no", "name": name})


def _fill_by_path(os: Os) -> None:
    """What is known of a build from its path alone."""
    loader = os.loader
    if loader is None:
        return
    plain = loader.type == "pflash" and loader.readonly is not False and not loader.stateless
    variables = _PAIRS.get(loader.path or "") if plain and loader.format in (None, "raw") else None
    if variables is not None:
        loader.readonly = True
        nvram = os.nvram or Nvram(os.node.ensure("nvram"))
        if nvram.type in LOCAL:
            nvram.template = nvram.template or variables
            nvram.template_format = "raw"
    loader.format = loader.format or "raw"


def _complete_nvram(d: Define, os: Os) -> None:
    loader = os.loader
    if os.nvram is not None and os.nvram.type is None:
        # without a type the path is the text, and no source is looked at
        os.nvram.source = None
    if loader is None or loader.type != "pflash" or not loader.readonly or loader.stateless:
        return
    nvram = os.nvram or Nvram(os.node.ensure("nvram"))
    source = nvram.source
    empty = source is not None and nvram.type != "network" and not (source.file or source.node.get("dev"))
    if (not nvram.path and source is None) or empty:
        nvram.format = nvram.template_format or loader.format
        path = f"{d.host.paths.nvram}/{d.domain.name}_VARS{_extension(d, nvram)}"
        if source is None:
            nvram.path = path
        else:
            nvram.type = "file"
            source.node.set("file", path)
    elif nvram.format is None:
        nvram.format = loader.format


def _extension(d: Define, nvram: Nvram) -> str:
    if nvram.format != "raw":
        return f".{nvram.format}"
    return ".raw" if d.update and (nvram.template or "").endswith(".raw") else ".fd"


# -- options -----------------------------------------------------------------------------------


def _images(b: Build) -> list[Image]:
    """Code, and variables where the guest has its own."""
    os = b.domain.os
    loader = os.loader if os is not None else None
    if os is None or loader is None or loader.type != "pflash":
        return []
    source = Node("source", {"file": loader.path or ""}, line=loader.node.line)
    code = pflash_image(
        "libvirt-pflash0", "file", loader.format or "raw", source, readonly=bool(loader.readonly), b=b
    )
    nvram = os.nvram
    if nvram is None:
        return [code]
    kind = nvram.type or "file"
    place = nvram.source.node if nvram.source is not None else Node("source", {"file": nvram.path or ""})
    return [code, pflash_image("libvirt-pflash1", kind, nvram.format or "raw", place, readonly=False, b=b)]


def _pflash(b: Build) -> list[Image]:
    return b.once("pflash", lambda: _images(b))


def loader_nodes(b: Build) -> list[str]:
    """Names of the block nodes that are the flash of the board."""
    return [image.top_node for image in _pflash(b)]


def pflash_options(b: Build) -> Iterator[Option]:
    """``-blockdev`` of the firmware images."""
    for image in _pflash(b):
        yield from image_options(image, b)


def bios_options(b: Build) -> Iterator[Option]:
    """``-bios``, or what makes pflash secure."""
    os = b.domain.os
    loader = os.loader if os is not None else None
    if loader is None:
        return
    if loader.type == "rom":
        yield b.option("-bios", loader.path, loader.node, "the firmware, as a ROM")
    elif loader.type == "pflash" and loader.secure:
        text = "driver=cfi.pflash01,property=secure,value=on"
        yield b.option("-global", text, loader.node, "only system management mode may write to the flash")
