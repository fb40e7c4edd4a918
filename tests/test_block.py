"""Block nodes: their numbers, their layers, how each kind of source is reached, secrets, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError, error
from qemushim.guest import Guest
from qemushim.host import Descriptors, Host, QemuConf
from tests.small_guests import LATEST, OLD, document, refusal, stored, tokens, values

UUID = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"
SECRET = f"<secret type='passphrase' uuid='{UUID}'/>"
HOST = Host.nominal()._replace(find_secret=lambda kind, reference: f"{kind}:{reference}".encode())


def disk(
    source: str, driver: str = "type='raw'", kind: str = "file", rest: str = "", target: str = "vda"
) -> str:
    return f"<disk type='{kind}'><driver {driver}/>{source}{rest}<target dev='{target}'/></disk>"


def network(protocol: str, name: str, inside: str, attributes: str = "") -> str:
    source = f"<source protocol='{protocol}' name='{name}' {attributes}>{inside}</source>"
    return disk(source, kind="network")


def nodes(devices: str, emulator: Emulator = LATEST, host: Host = HOST, extra: str = "") -> list[Any]:
    return [json.loads(text) for text in values("-blockdev", tokens(devices, emulator, host, extra))]


def objects(devices: str, kind: str, host: Host = HOST, extra: str = "") -> list[Any]:
    found = [json.loads(text) for text in values("-object", tokens(devices, LATEST, host, extra))]
    return [o for o in found if o["qom-type"] == kind and o["id"] != "masterKey0"]


# -- layers -----------------------------------------------------------------------------------------


def test_a_raw_image_is_one_node_since_9_0() -> None:
    text = disk("<source file='/a'/>")
    assert nodes(text) == [
        {"driver": "file", "filename": "/a", "node-name": "libvirt-1-storage", "read-only": False}
    ]
    assert [node["node-name"] for node in nodes(text, OLD)] == ["libvirt-1-storage", "libvirt-1-format"]


def test_a_chain_is_numbered_from_the_top_and_written_from_the_bottom() -> None:
    chain = (
        "<backingStore type='file'><format type='qcow2'/><source file='/b'/>"
        "<backingStore type='block'><format type='raw'/><source dev='/c'/><backingStore/></backingStore>"
        "</backingStore>"
    )
    text = disk("<source file='/a'/>", "type='qcow2'", rest=chain)
    assert nodes(text) == [
        {"driver": "host_device", "filename": "/c", "node-name": "libvirt-3-storage", "read-only": True},
        {
            "driver": "file",
            "filename": "/b",
            "node-name": "libvirt-2-storage",
            "auto-read-only": True,
            "discard": "unmap",
        },
        {
            "node-name": "libvirt-2-format",
            "read-only": True,
            "driver": "qcow2",
            "file": "libvirt-2-storage",
            "backing": "libvirt-3-storage",
        },
        {
            "driver": "file",
            "filename": "/a",
            "node-name": "libvirt-1-storage",
            "auto-read-only": True,
            "discard": "unmap",
        },
        {
            "node-name": "libvirt-1-format",
            "read-only": False,
            "driver": "qcow2",
            "file": "libvirt-1-storage",
            "backing": "libvirt-2-format",
        },
    ]


@pytest.mark.parametrize(("store", "backing"), [("", {}), ("<backingStore/>", {"backing": None})])
def test_only_a_known_end_is_told(store: str, backing: dict[str, None]) -> None:
    top = nodes(disk("<source file='/a'/>", "type='qcow2'", rest=store))[-1]
    assert {key: top[key] for key in top if key == "backing"} == backing


@given(st.integers(1, 12))
def test_the_last_disk_has_the_lowest_number(count: int) -> None:
    targets = [f"vd{chr(97 + i)}" for i in range(count)]
    found = nodes("".join(disk(f"<source file='/{t}'/>", target=t) for t in targets))
    assert [node["node-name"] for node in found] == [
        f"libvirt-{number}-storage" for number in range(count, 0, -1)
    ]


def test_a_slice_stands_on_the_storage() -> None:
    source = "<source file='/a'><slices><slice type='storage' offset='512' size='1024'/></slices></source>"
    low, top = nodes(disk(source))
    assert low["auto-read-only"] is True
    assert top == {
        "driver": "raw",
        "file": "libvirt-1-storage",
        "offset": 512,
        "size": 1024,
        "node-name": "libvirt-1-slice-sto",
        "read-only": False,
    }


def test_data_file() -> None:
    store = "<dataStore type='block'><format type='raw'/><source dev='/d'/></dataStore>"
    source = f"<source file='/a'>{store}</source>"
    data, _, top = nodes(disk(source, "type='qcow2'"))
    assert data["node-name"] == "libvirt-2-storage"
    assert top["data-file"] == "libvirt-2-storage"


def test_what_the_driver_says_of_every_image() -> None:
    below = "<backingStore type='file'><format type='qcow2'/><source file='/b'/></backingStore>"
    driver = "type='qcow2' cache='directsync' io='native' discard='ignore' detect_zeroes='unmap'"
    storage_b, format_b, storage_a, format_a = nodes(disk("<source file='/a'/>", driver, rest=below))
    cache = {"direct": True, "no-flush": False}
    assert all(node["cache"] == cache for node in (storage_b, format_b, storage_a, format_a))
    assert storage_b["aio"] == "native"
    assert storage_a["discard"] == "unmap"
    assert format_a["discard"] == "ignore"
    assert format_a["detect-zeroes"] == "on"
    assert "detect-zeroes" not in format_b


def test_filters_are_stacked() -> None:
    groups = (
        "<throttlegroups><throttlegroup><read_bytes_sec>5</read_bytes_sec><group_name>g</group_name>"
        "</throttlegroup><throttlegroup><group_name>idle</group_name></throttlegroup></throttlegroups>"
    )
    filters = "<throttlefilters><throttlefilter group='g'/><throttlefilter group='idle'/></throttlefilters>"
    text = disk("<source file='/a'/>", "copy_on_read='on'", rest=filters)
    _, cor, first, second = nodes(text, extra=groups)
    assert cor == {
        "driver": "copy-on-read",
        "node-name": "libvirt-CoR-vda",
        "file": "libvirt-1-storage",
        "discard": "unmap",
    }
    assert (first["node-name"], first["file"]) == ("libvirt-2-filter", "libvirt-CoR-vda")
    assert (second["node-name"], second["throttle-group"]) == ("libvirt-3-filter", "throttle-idle")
    (group,) = objects(text, "throttle-group", extra=groups)
    assert group["limits"]["bps-read"] == 5
    assert list(group["limits"])[-1] == "iops-size"


# -- sources ----------------------------------------------------------------------------------------

SERVER = "<host name='h'/>"

REACHED = [
    (disk("<source dir='/d'/>", "type='fat'", "dir", "<readonly/>"), "vvfat", {"dir": "/d", "rw": False}),
    (
        disk(
            "<source type='pci' namespace='1'><address domain='1' bus='2' slot='3' function='4'/></source>",
            kind="nvme",
        ),
        "nvme",
        {"device": "0001:02:03.4", "namespace": 1},
    ),
    (
        network("nbd", "x", "<host transport='unix' socket='/s'/><reconnect delay='3'/>"),
        "nbd",
        {"server": {"type": "unix", "path": "/s"}, "export": "x", "reconnect-delay": 3},
    ),
    (
        network("rbd", "p/i/j", "<snapshot name='s'/><config file='/c'/>" + SERVER),
        "rbd",
        {"pool": "p", "image": "i/j", "snapshot": "s", "conf": "/c", "server": [{"host": "h", "port": "0"}]},
    ),
    (
        network("iscsi", "iqn.x:y", "<host name='::1'/><initiator><iqn name='iqn.i'/></initiator>"),
        "iscsi",
        {
            "portal": "[::1]:3260",
            "target": "iqn.x:y",
            "lun": 0,
            "transport": "tcp",
            "initiator-name": "iqn.i",
        },
    ),
    (
        network("https", "a/b", SERVER + "<ssl verify='no'/><timeout seconds='9'/>", "query='q=1'"),
        "https",
        {"url": "https://h:443/a/b?q=1", "sslverify": False, "timeout": 9},
    ),
    (
        network("ssh", "/a", SERVER + "<identity username='u' keyfile='/k'/>"),
        "ssh",
        {"path": "/a", "server": {"host": "h", "port": "22"}, "user": "u"},
    ),
    (
        network("gluster", "v/a/b", SERVER),
        "gluster",
        {
            "volume": "v",
            "path": "a/b",
            "server": [{"type": "inet", "host": "h", "port": "24007"}],
            "debug": 4,
        },
    ),
    (
        network("nfs", "/a", SERVER + "<identity user='+5' group='+6'/>"),
        "nfs",
        {"server": {"host": "h", "type": "inet"}, "path": "/a", "user": 5, "group": 6},
    ),
]


@pytest.mark.parametrize(("devices", "driver", "expected"), REACHED, ids=[d for _, d, _ in REACHED])
def test_how_a_source_is_reached(devices: str, driver: str, expected: dict[str, object]) -> None:
    node = nodes(devices)[0]
    assert node["driver"] == driver
    assert {key: node[key] for key in expected} == expected


def test_ports_are_stored() -> None:
    assert "<host name='h' port='10809'/>" in stored(network("nbd", "x", SERVER))
    assert "<host name='h'/>" in stored(network("nfs", "/x", SERVER))


def test_vhost_vdpa_takes_a_descriptor() -> None:
    host = HOST._replace(descriptors=Descriptors(vdpa_disk={"/dev/vhost-vdpa-0": 33}))
    text = disk("<source dev='/dev/vhost-vdpa-0'/>", kind="vhostvdpa")
    argv = tokens(text, LATEST, host)
    assert values("-add-fd", argv) == ["set=0,fd=33,opaque=libvirt-1-storage-vdpa"]
    assert nodes(text, host=host)[0]["path"] == "/dev/fdset/0"


@pytest.mark.parametrize(
    ("writable", "readonly", "mode"),
    [(True, False, {"read-only": False}), (False, True, {"read-only": True})],
)
def test_a_lone_descriptor_has_one_mode(writable: bool, readonly: bool, mode: dict[str, bool]) -> None:
    host = HOST._replace(fd_groups={"g": ((7,), writable)})
    rest = "<readonly/>" if readonly else ""
    text = disk("<source file='/a' fdgroup='g'/>", "type='qcow2'", rest=rest)
    assert values("-add-fd", tokens(text, LATEST, host)) == ["set=0,fd=7,opaque=libvirt-1-storage0"]
    low = nodes(text, host=host)[0]
    assert low["filename"] == "/dev/fdset/0"
    assert {key: low[key] for key in low if key.endswith("read-only")} == mode


def test_an_unknown_group_of_descriptors() -> None:
    assert refusal(disk("<source file='/a' fdgroup='g'/>")).startswith(
        "invalid argument: file descriptor group"
    )


def test_nbdkit_stands_between() -> None:
    host = HOST._replace(config=QemuConf(storage_use_nbdkit=True), nbdkit=frozenset({"curl"}))
    server = {"type": "unix", "path": "/var/lib/libvirt/qemu/domain--1-g/nbdkit-libvirt-1-storage.socket"}
    assert nodes(network("http", "a", SERVER), host=host)[0]["server"] == server
    assert nodes(network("ssh", "a", SERVER), host=host)[0]["driver"] == "ssh"


# -- volumes ----------------------------------------------------------------------------------------


def pools(pool: str, name: str) -> dict[str, Any] | None:
    if pool == "off":
        raise error.plain("storage pool 'off' is not active")
    iscsi = {"pool_type": "iscsi", "device": "iqn.t", "hosts": [{"name": "h", "port": "1"}]}
    found: dict[str, dict[str, Any]] = {
        "f": {"type": "file", "path": "/f"},
        "d": {"type": "dir", "path": "/d"},
        "unit:0:0:4": {"type": "block", "path": "/dev/s", **iscsi},
    }
    return found.get(name)


POOLS = HOST._replace(find_volume=pools)


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("f", "", {"driver": "file", "filename": "/f"}),
        ("d", "", {"driver": "vvfat", "dir": "/d"}),
        ("unit:0:0:4", "mode='host'", {"driver": "host_device", "filename": "/dev/s"}),
        ("unit:0:0:4", "mode='direct'", {"driver": "iscsi", "portal": "h:1", "target": "iqn.t", "lun": 4}),
    ],
)
def test_volumes_are_what_they_are(name: str, mode: str, expected: dict[str, object]) -> None:
    text = disk(f"<source pool='p' volume='{name}' {mode}/>", "name='qemu'", "volume", "<readonly/>")
    node = nodes(text, host=POOLS)[0]
    assert {key: node[key] for key in expected} == expected
    assert "<driver name='qemu'/>" in stored(text)


@pytest.mark.parametrize("pool", ["off", "p"])
def test_a_missing_volume(pool: str) -> None:
    text = disk(f"<source pool='{pool}' volume='none'/>", kind="volume")
    with pytest.raises(ConfigError):
        tokens(text, LATEST, POOLS)
    assert nodes(text.replace("volume='none'", "volume='none' startupPolicy='optional'"), host=POOLS) == []


# -- secrets ----------------------------------------------------------------------------------------


def test_luks() -> None:
    text = disk(f"<source file='/a'><encryption format='luks'>{SECRET}</encryption></source>")
    assert f"<encryption format='luks' engine='qemu'>\n          {SECRET}" in stored(text)
    top = nodes(text)[-1]
    assert top["driver"] == "luks"
    (secret,) = objects(text, "secret")
    assert secret["id"] == top["key-secret"] == "libvirt-1-format-encryption-secret0"


def test_layers_of_rbd_are_the_clients() -> None:
    layers = f"<encryption format='luks' engine='librbd'>{SECRET}{SECRET}</encryption>"
    (node,) = nodes(network("rbd", "p/i", layers))
    assert node["encrypt"] == {
        "format": "luks",
        "key-secret": "libvirt-1-storage-encryption-secret0",
        "parent": {"format": "luks", "key-secret": "libvirt-1-storage-encryption-secret1"},
    }


@pytest.mark.parametrize(("protocol", "kind", "name"), [("rbd", "ceph", "p/i"), ("iscsi", "iscsi", "t/1")])
def test_passwords(protocol: str, kind: str, name: str) -> None:
    auth = f"<auth username='me'><secret type='{kind}' usage='u'/></auth>"
    text = network(protocol, name, SERVER + auth)
    (secret,) = objects(text, "secret")
    assert secret["id"] == "libvirt-1-storage-auth-secret0"
    node = nodes(text)[0]
    assert node["user"] == "me"
    assert secret["id"] in node.values()
    wrong = "iscsi" if kind == "ceph" else "ceph"
    assert (
        refusal(text.replace(f"type='{kind}'", f"type='{wrong}'"))
        == f"unsupported configuration: invalid secret type '{wrong}'"
    )


def test_cookies_are_a_secret() -> None:
    jar = "<cookies><cookie name='a'>1</cookie><cookie name='b'>2</cookie></cookies>"
    said: list[bytes] = []

    def encrypt(secret: bytes, iv: bytes) -> str:
        said.append(secret)
        return "x"

    text = network("http", "f", SERVER + jar)
    (secret,) = objects(text, "secret", HOST._replace(encrypt=encrypt))
    assert said == [b"a=1; b=2"]
    assert nodes(text)[0]["cookie-secret"] == secret["id"] == "libvirt-1-storage-httpcookie-secret0"


def test_tls_by_the_document_or_by_the_host() -> None:
    always = HOST._replace(config=QemuConf(nbd_tls=True, nbd_tls_x509_secret_uuid=UUID))
    for host, attributes in ((HOST, "tls='yes'"), (always, "")):
        text = network("nbd", "x", SERVER, attributes)
        (credentials,) = objects(text, "tls-creds-x509", host)
        assert credentials["id"] == nodes(text, host=host)[0]["tls-creds"] == "objlibvirt-1-storage_tls0"
        assert (credentials.get("passwordid") is not None) == (host is always)
    assert objects(network("nbd", "x", SERVER, "tls='no'"), "tls-creds-x509", always) == []


def test_reservations() -> None:
    managed = disk("<source dev='/x'><reservations managed='yes'/></source>", kind="block", target="sda")
    managed = managed.replace("<disk ", "<disk device='lun' ")
    own = managed.replace(
        "<reservations managed='yes'/>",
        "<reservations managed='no'><source type='unix' path='/p' mode='client'/></reservations>",
    ).replace("sda", "sdb")
    helpers = objects(managed + own, "pr-manager-helper")
    assert [helper["id"] for helper in helpers] == ["pr-helper0", "pr-helper-libvirt-1-storage"]
    assert [node["pr-manager"] for node in nodes(managed + own)] == [helper["id"] for helper in helpers]


# -- refusals ---------------------------------------------------------------------------------------

U = "unsupported configuration: "
NOT = "Operation not supported: "
CIPHER = (
    f"<encryption format='luks'>{SECRET}<cipher name='aes' size='256' mode='xts' hash='sha1'/></encryption>"
)

REFUSED = [
    (network("iscsi", "t", ""), "internal error: iSCSI protocol accepts only one host"),
    (
        network("sheepdog", "a", SERVER),
        f"{U}'sheepdog' protocol is no longer supported by any hypervisor driver",
    ),
    (network("http", "", SERVER).replace("name='' ", ""), "XML error: missing name for disk source"),
    (network("rbd", "p", SERVER), "XML error: can't split path 'p' into pool name and image name"),
    (network("nbd", "p", "<host transport='unix'/>"), "XML error: missing socket for unix transport"),
    (
        disk(f"<source file='/a'>{CIPHER}</source>"),
        f"{U}supplying <cipher> for domain disk definition is unnecessary",
    ),
    (
        disk(f"<source file='/a'><encryption format='luks'>{SECRET}</encryption></source>", "type='vmdk'"),
        f"{U}encryption is supported only with 'raw' and 'qcow2' image format",
    ),
    (
        disk(f"<source file='/a'>{CIPHER}</source>", rest=CIPHER),
        f"{U}an <encryption> definition already found for disk source",
    ),
    (
        network("iscsi", "t", SERVER + "<auth username='u'><secret usage='x'/></auth>"),
        f"{U}unknown secret type '<null>'",
    ),
    (
        disk("<source file='/a'/>", "type='dir'"),
        f"{U}'directory' storage format is not directly supported by QEMU, use 'dir' disk type instead",
    ),
    (
        disk("<source file='/a'/>", rest="<backingStore type='file'><source file='/b'/></backingStore>"),
        "XML error: missing disk backing store format",
    ),
    (
        disk(
            "<source file='/a'/>",
            rest="<iotune><read_bytes_sec>1</read_bytes_sec><total_bytes_sec>1</total_bytes_sec></iotune>",
        ),
        "XML error: total and read/write bytes_sec cannot be set at the same time",
    ),
    (
        disk(
            "<source file='/a'/>",
            rest="<iotune><read_bytes_sec>1</read_bytes_sec></iotune>"
            "<throttlefilters><throttlefilter group='g'/></throttlefilters>",
        ),
        f"{NOT}block 'throttlefilters' can't be used together with 'iotune' for disk 'vda'",
    ),
]


@pytest.mark.parametrize(("devices", "message"), REFUSED, ids=[m[-40:] for _, m in REFUSED])
def test_refused(devices: str, message: str) -> None:
    assert refusal(devices) == message


def test_an_old_qemu_has_less() -> None:
    layers = f"<encryption format='luks' engine='librbd'>{SECRET}{SECRET}</encryption>"
    assert refusal(network("rbd", "p/i", layers), OLD) == (
        "unsupported configuration: librbd encryption layering is not supported by this QEMU binary"
    )


# -- invariants -------------------------------------------------------------------------------------

PATHS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1).map(
    lambda s: f"/{s}"
)


@given(PATHS)
def test_any_path_comes_through(path: str) -> None:
    root = Guest.from_xml(document(disk("<source file='PATH'/>")))
    source = root.domain.node.find("devices/disk/source")
    assert source is not None
    source.set("file", path)
    argv = root.command(LATEST, HOST).tokens
    assert json.loads(values("-blockdev", argv)[0])["filename"] == path
