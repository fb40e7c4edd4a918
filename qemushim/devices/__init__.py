"""One file per kind of device: what its element means, its defaults, its options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemushim.devices.base import Device

#: tag → module and class, in the order in which libvirt writes them
_PLACES = {
    "disk": "disk.Disk",
    "controller": "controller.Controller",
    "lease": "lease.Lease",
    "filesystem": "filesystem.Filesystem",
    "interface": "interface.Interface",
    "smartcard": "smartcard.Smartcard",
    "serial": "chardev.Serial",
    "parallel": "chardev.Parallel",
    "console": "chardev.Console",
    "channel": "chardev.Channel",
    "input": "input.Input",
    "tpm": "tpm.Tpm",
    "graphics": "graphics.Graphics",
    "sound": "audio.Sound",
    "audio": "audio.Audio",
    "video": "video.Video",
    "hostdev": "hostdev.Hostdev",
    "redirdev": "redirdev.Redirdev",
    "redirfilter": "redirdev.Redirfilter",
    "hub": "input.Hub",
    "watchdog": "watchdog.Watchdog",
    "memballoon": "memballoon.Memballoon",
    "rng": "rng.Rng",
    "nvram": "nvram.Nvram",
    "panic": "watchdog.Panic",
    "shmem": "shmem.Shmem",
    "memory": "memory.MemoryDevice",
    "crypto": "rng.Crypto",
    "iommu": "iommu.Iommu",
    "vsock": "vsock.Vsock",
    "pstore": "nvram.Pstore",
}


class Kinds(Mapping[str, "type[Device]"]):
    """Tag → kind.  Its module is loaded when a device of it is first met: a guest has ten kinds of thirty."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places
        self._loaded: dict[str, type[Device]] = {}

    def __getitem__(self, tag: str) -> type[Device]:
        kind = self._loaded.get(tag)
        if kind is None:
            module, name = self._places[tag].split(".")
            kind = self._loaded[tag] = getattr(import_module(f"{__name__}.{module}"), name)
        return kind

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, tag: object) -> bool:
        return tag in self._places


#: every kind, in the order in which libvirt writes them
BY_TAG = Kinds(_PLACES)
