"""One file per kind of device: what its element means, its defaults, its options."""

from __future__ import annotations

from qemushim.devices.audio import Audio, Sound
from qemushim.devices.base import Device
from qemushim.devices.chardev import Channel, Console, Parallel, Serial
from qemushim.devices.controller import Controller
from qemushim.devices.disk import Disk
from qemushim.devices.filesystem import Filesystem
from qemushim.devices.graphics import Graphics
from qemushim.devices.hostdev import Hostdev
from qemushim.devices.input import Hub, Input
from qemushim.devices.interface import Interface
from qemushim.devices.iommu import Iommu
from qemushim.devices.lease import Lease
from qemushim.devices.memballoon import Memballoon
from qemushim.devices.memory import MemoryDevice
from qemushim.devices.nvram import Nvram, Pstore
from qemushim.devices.redirdev import Redirdev, Redirfilter
from qemushim.devices.rng import Crypto, Rng
from qemushim.devices.shmem import Shmem
from qemushim.devices.smartcard import Smartcard
from qemushim.devices.tpm import Tpm
from qemushim.devices.video import Video
from qemushim.devices.vsock import Vsock
from qemushim.devices.watchdog import Panic, Watchdog

#: every kind, in the order in which libvirt writes them
KINDS: tuple[type[Device], ...] = (
    Disk,
    Controller,
    Lease,
    Filesystem,
    Interface,
    Smartcard,
    Serial,
    Parallel,
    Console,
    Channel,
    Input,
    Tpm,
    Graphics,
    Sound,
    Audio,
    Video,
    Hostdev,
    Redirdev,
    Redirfilter,
    Hub,
    Watchdog,
    Memballoon,
    Rng,
    Nvram,
    Panic,
    Shmem,
    MemoryDevice,
    Crypto,
    Iommu,
    Vsock,
    Pstore,
)
#: tag → kind
BY_TAG: dict[str, type[Device]] = {kind.tag: kind for kind in KINDS}
