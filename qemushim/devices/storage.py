"""Where the bytes of an image are: ``<source>`` and all that belongs to it.

https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

from qemushim.devices.address import pci_bus, pci_domain, pci_function, pci_slot
from qemushim.devices.label import SourceLabel
from qemushim.document.fields import Choice, LiveText, Long, Many, One, Switch, Text, Unsigned
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned
from qemushim.errors import ConfigError, error

#: kinds of sources, as ``<disk type=>`` says
TYPES = ("file", "block", "dir", "network", "volume", "nvme", "vhostuser", "vhostvdpa")

#: image formats that a document may name
FORMATS = (
    *("raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi"),
    *("fat", "vhd", "ploop", "cow", "qcow", "qcow2", "qed", "vmdk"),
)
#: formats whose images can have a backing image
BACKING_FORMATS = frozenset({"cow", "qcow", "qcow2", "qed", "vmdk"})
#: protocol of a network source → the port that it uses where none is given
PORTS = {
    "nbd": 10809,
    "rbd": 0,
    "sheepdog": 7000,
    "gluster": 24007,
    "iscsi": 3260,
    "http": 80,
    "https": 443,
    "ftp": 21,
    "ftps": 990,
    "tftp": 69,
    "ssh": 22,
    "vxhs": 9999,
    "nfs": 0,
}


class Positive(Unsigned[int]):
    """A number where 0 means “not set” and is not written."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 0)

    def canonical(self, raw: str, node: Node) -> str | None:
        number = self.read(raw)
        return self.write(number) if number else None


class HostAddress(Item):
    """``<address>`` of a PCI device of the host; it names no type."""

    tag = "address"
    domain = pci_domain()
    bus = pci_bus()
    slot = pci_slot()
    function = pci_function()

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"

    def fill(self) -> None:
        """Write what is left out as 0."""
        for name in ("domain", "bus", "slot", "function"):
            self.node.attrib.setdefault(name, "0")


class LongPositive(Positive):
    """The same, of 64 bits; nothing is as good as 0."""

    bits = 64

    def read(self, raw: str) -> int:
        return super().read(raw) if raw else 0


class Port(Text["str | None"]):
    """A TCP port."""

    def read(self, raw: str) -> str:
        if parse_unsigned(raw) >> 16:
            raise ValueError(raw)
        return raw

    def wrong(self, raw: str, place: Node) -> ConfigError:
        try:
            number = parse_unsigned(raw)
        except ValueError:
            number = -1
        if not 0 <= number < 1 << 32:
            return error.argument(f"failed to parse port number '{raw}'", place, "a number to 65535")
        return error.argument(f"port '{raw}' out of range", place, "a number to 65535")


class Server(Item):
    """``<host>``: one server of a network source."""

    tag = "host"
    name = Text("@name")
    port = Port("@port").later()
    transport = Choice("@transport", ("tcp", "unix", "rdma"), "tcp")
    socket = Text("@socket")


class Slice(Item):
    tag = "slice"
    type = Text("@type")
    offset = Long("@offset", 0).says("malformed value '{}' of 'offset' attribute of slice", "XML error")
    size = Long("@size", 0).says("malformed value '{}' of 'size' attribute of slice", "XML error")


class Cookie(Item):
    tag = "cookie"
    name_ = Text("@name")
    value = Text(".")


class Secret(Item):
    """``<secret>``: a reference to a secret that the host keeps, by UUID or by what it is for."""

    tag = "secret"
    type = Text("@type")
    uuid = Text("@uuid")
    usage = Text("@usage")


class Auth(Item):
    """``<auth>``: how to log in at the server."""

    tag = "auth"
    username = Text("@username")
    secret = One("secret", Secret)


class Encryption(Item):
    """``<encryption>``: the image's bytes are encrypted, by QEMU or by the storage client."""

    tag = "encryption"
    format = Choice("@format", ("", "default", "qcow", "luks", "luks2", "luks-any"), "default").says(
        "unknown volume encryption format type {}"
    )
    engine = Choice("@engine", ("qemu", "librbd"))
    secrets = Many("secret", Secret)
    cipher_name = Text("cipher/@name")
    cipher_size = Unsigned("cipher/@size")
    cipher_mode = Text("cipher/@mode")
    cipher_hash = Text("cipher/@hash")
    ivgen_name = Text("ivgen/@name")
    ivgen_hash = Text("ivgen/@hash")


class Reservations(Item):
    """``<reservations>``: SCSI persistent reservations through a helper process."""

    tag = "reservations"
    managed = Switch("@managed", False)
    type = Text("source/@type")
    path = Text("source/@path")
    mode = Text("source/@mode")


class Source(Item):
    """``<source>`` of any type; ``storage_define`` keeps only what its type has."""

    tag = "source"
    # what kind of thing a PCI or socket source is
    type = Text("@type")
    managed = Switch("@managed").later()
    namespace = Long("@namespace").later()
    path_ = Text("@path")
    file = Text("@file")
    dev = Text("@dev")
    dir = Text("@dir")
    pool = Text("@pool")
    volume = Text("@volume")
    mode = Choice("@mode", ("host", "direct")).later()
    protocol = Choice("@protocol", PORTS).later()
    name_ = Text("@name")
    query = Text("@query")
    tls = Switch("@tls").later()
    tls_hostname = Text("@tlsHostname")
    fdgroup = Text("@fdgroup")
    startup_policy = Choice("@startupPolicy", ("mandatory", "requisite", "optional"))
    #: the number in the names of its block nodes
    index = LiveText("@index")

    servers = Many("host", Server)
    snapshot = Text("snapshot/@name")
    config = Text("config/@file")
    initiator = Text("initiator/iqn/@name")
    verify = Switch("ssl/@verify")
    cookies = Many("cookies/cookie", Cookie)
    readahead = LongPositive("readahead/@size").says("invalid readahead size or timeout", "XML error")
    timeout = LongPositive("timeout/@seconds").says("invalid readahead size or timeout", "XML error")
    reconnect_delay = Unsigned("reconnect/@delay")
    reconnect = Switch("reconnect/@enabled")
    reconnect_timeout = Unsigned("reconnect/@timeout").later()
    known_hosts = Text("knownHosts/@path", required=True)
    user = Text("identity/@user")
    group = Text("identity/@group")
    username = Text("identity/@username")
    keyfile = Text("identity/@keyfile")
    agent = Text("identity/@agentsock")
    address = One("address", HostAddress)
    slices = Many("slices/slice", Slice)
    labels = Many("seclabel", SourceLabel)
    auth = One("auth", Auth)
    encryption = One("encryption", Encryption)
    reservations = One("reservations", Reservations)
    data_store = One("dataStore", lambda: DataStore)


class Format(Item):
    """``<format>`` of an image that is not a disk's own."""

    tag = "format"
    type = Choice("@type", ("", *FORMATS, "aio")).says("unknown storage source format '{}'", "XML error")
    metadata_cache = Unsigned("metadata_cache/max_size").later()
    metadata_cache_unit = Text("metadata_cache/max_size/@unit")


class DataStore(Item):
    """``<dataStore>``: a raw image that holds the guest's data of a qcow2 image."""

    tag = "dataStore"
    type = Choice("@type", TYPES).says("unknown storage source type '{}'", "XML error")
    format = One("format", Format)
    source = One("source", Source)


class BackingStore(Item):
    """``<backingStore>``: the image below; an empty one says that there is none."""

    tag = "backingStore"
    type = Choice("@type", TYPES).says("unknown storage source type '{}'", "XML error")
    format = One("format", Format)
    source = One("source", Source)
    backing: One[BackingStore] = One("backingStore", lambda: BackingStore, keep_empty=True)
