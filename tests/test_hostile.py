"""Documents that mean harm: bounded time and memory, a clear refusal, or an exact and correctly quoted command line."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.command.layout import shell
from qemushim.document.node import COMMENT, Node
from qemushim.document.parse import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, parse
from qemushim.emulator.bundled import find
from qemushim.errors import ConfigError, ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.conftest import ROOT
from tests.strategies import inputs
from tests.test_option import split_key_values
from tools import documents

HOST = Host.nominal()
QEMU = shutil.which("qemu-system-x86_64")
#: MiB of address space and seconds of processor time that a document may take
MEMORY, SECONDS = 2048, 10

NAMES = (
    "comma,comma,,x",
    'quote"quote',
    "apostrophe'apostrophe",
    "new\nline",
    "tab\tx",
    "$(touch pwned)",
    "`x`;&|<>",
    "-leading",
    "--",
    "back\\slash",
    "ä€𝄞\u200f",
    "=a=b",
    "{}[]",
    " blank ",
    "%s%n",
    "json:{}",
    "nbd:host:1",
    "driver=x,file=y",
)


def document(devices: str = "", extra: str = "", name: str = "g") -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>{extra}"
        f"<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{devices}</devices></domain>"
    )


def quoted(text: str) -> str:
    table = {
        "&": "&amp;",
        "<": "&lt;",
        "'": "&apos;",
        '"': "&quot;",
        "\n": "&#10;",
        "\t": "&#9;",
        "\r": "&#13;",
    }
    return text.translate(str.maketrans(table))


def entities(depth: int) -> str:
    lines = "".join(f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(depth))
    return f"<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'>{lines}]><domain><name>&{chr(97 + depth)};</name></domain>"


#: name → (how the document is made, words of the refusal; none: it is accepted)
HEAVY: dict[str, tuple[Callable[[], bytes], str]] = {
    "entity bomb": (lambda: entities(20).encode(), "document type"),
    "external entity": (
        lambda: b"<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>",
        "document type",
    ),
    "parameter entity": (lambda: b"<!DOCTYPE d SYSTEM 'http://127.0.0.1:9/x.dtd'><domain/>", "document type"),
    "a million devices": (
        lambda: document("<rng model='virtio'/>" * 1_000_000).encode(),
        f"more than {MAX_ELEMENTS} elements",
    ),
    "deep": (lambda: b"<domain>" + b"<d>" * 100_000, f"deeper than {MAX_DEPTH}"),
    "deep where anything may stand": (
        lambda: document(
            extra="<metadata>" + "<x:d xmlns:x='urn:x'>" * 100_000 + "</x:d>" * 100_000 + "</metadata>"
        ).encode(),
        f"deeper than {MAX_DEPTH}",
    ),
    "many comments": (lambda: document(extra="<!-- x -->" * 300_000 + "<genid>x</genid>").encode(), "genid"),
    "long attribute": (lambda: b"<domain type='" + b"x" * (MAX_BYTES - 100) + b"'/>", "longer than"),
    "many attributes": (
        lambda: b"<domain " + b" ".join(b"a%d='1'" % n for n in range(300_000)) + b"/>",
        "",
    ),
    "NUL": (lambda: document(name="a\0b").encode(), ""),
    "control character": (lambda: document(name="a\x01b").encode(), ""),
    "control reference": (lambda: document(name="a&#1;b").encode(), ""),
    "invalid UTF-8": (lambda: document(name="a@b").encode().replace(b"@", b"\xff\xfe"), ""),
    "overlong UTF-8": (lambda: document(name="a@b").encode().replace(b"@", b"\xc0\xaf"), ""),
    "surrogate": (lambda: document(name="a@b").encode().replace(b"@", b"\xed\xa0\x80"), ""),
    "cut off": (lambda: document().encode()[:-20], ""),
    "UTF-32": (lambda: document().encode("utf-32"), ""),
    "unknown encoding": (lambda: b"<?xml version='1.0' encoding='x-evil'?><domain/>", ""),
}
_LIMITED = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY} << 20, {MEMORY} << 20))
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
from qemushim.cli import main
sys.exit(main(sys.argv[1:]))
"""


def limited(*words: str) -> subprocess.CompletedProcess[bytes]:
    """qemushim with so much memory and time; it is ended by the kernel where it wants more."""
    return subprocess.run(
        [sys.executable, "-c", _LIMITED, *words], cwd=ROOT, capture_output=True, check=False, timeout=300
    )


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_documents_are_refused_in_bounded_time_and_memory(name: str, tmp_path: Path) -> None:
    make, words = HEAVY[name]
    file = tmp_path / "x.xml"
    file.write_bytes(make())
    done = limited("check", str(file))
    output = done.stdout.decode()
    assert done.returncode == 1, done.stderr.decode()[-500:]
    assert output.startswith(f"{file}:")
    assert words in output
    assert b"Traceback" not in done.stderr
    assert all(c.isprintable() or c == "\n" for c in output)


def test_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "x.xml"
    with file.open("wb") as sparse:
        sparse.write(b"<domain type='")
        sparse.truncate(1 << 30)
    done = limited("define", str(file))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{file}: XML error: the document is larger than".encode())


def test_a_gigabyte_through_a_pipe_is_not_waited_for() -> None:
    """An attribute of a gigabyte on standard input: the reader goes away long before its end."""
    block = b"x" * (1 << 20)
    with subprocess.Popen(
        [sys.executable, "-c", _LIMITED, "define", "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        written = 0
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"<domain type='")
            for _ in range(1024):
                written += process.stdin.write(block)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == 1
    assert written < 1 << 27
    assert b"XML error: the document is larger than" in told


def test_as_many_devices_as_a_document_may_have_are_told_in_time() -> None:
    text = document("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>" * 20_000)
    start = time.process_time()
    with pytest.raises(ConfigError):
        Guest.from_xml(text).define(find("10.0"), HOST)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize(
    "number",
    ["9" * 10_000, "-" + "9" * 10_000, "18446744073709551616", "-1", "0x", "1e9", "٣", "1_000", "0x1_0", ""],
)
def test_numbers_beyond_their_place_are_refused(number: str) -> None:
    devices = (
        f"<controller type='scsi' index='0' model='virtio-scsi'><driver queues='{number}'/></controller>"
    )
    with pytest.raises(ConfigError) as caught:
        Guest.from_xml(document(devices), file="x.xml")
    assert caught.value.message.startswith(
        "XML error: Invalid value for attribute 'queues' in element 'driver'"
    )
    assert (caught.value.file, caught.value.line) == ("x.xml", 1)
    memory = document().replace(">64<", f">{number}<")
    with pytest.raises(ConfigError):
        Guest.from_xml(memory).command(find("10.0"), HOST)


def test_numbers_have_32_bits_or_64() -> None:
    def nic(tag: str) -> str:
        return f"<interface type='user'>{tag}</interface>"

    def accepted(devices: str) -> bool:
        try:
            Guest.from_xml(document(devices))
        except ConfigError:
            return False
        return True

    assert accepted(nic("<driver queues='4294967295'/>"))
    assert not accepted(nic("<driver queues='4294967296'/>"))
    assert accepted(nic("<bandwidth><inbound average='4294967296'/></bandwidth>"))
    assert accepted(nic("<bandwidth><inbound average='18446744073709551615'/></bandwidth>"))
    assert not accepted(nic("<bandwidth><inbound average='18446744073709551616'/></bandwidth>"))


def test_sizes_do_not_overflow() -> None:
    for memory in ("<memory unit='EiB'>16</memory>", "<memory unit='E'>99999999999</memory>"):
        text = document().replace("<memory unit='MiB'>64</memory>", memory)
        with pytest.raises(ConfigError):
            Guest.from_xml(text).define(find("10.0"), HOST)


#: numbers that do not fit anywhere
MONSTERS = ("9" * 10_000, "-" + "9" * 10_000, "0x" + "f" * 10_000, "18446744073709551616", "-1")


def test_a_monstrous_number_in_any_place_is_refused_or_means_nothing() -> None:
    """Every attribute and text of the golden inputs, each once."""
    seen: set[str] = set()
    emulator = find("10.0")
    monsters = itertools.cycle(MONSTERS)
    start = time.process_time()
    for root in inputs():
        here = Host.nominal(root.value("os/type/@arch") or "x86_64")
        for place, (_, path, name) in enumerate(walk(root)):
            if f"{path}/@{name}" in seen:
                continue
            seen.add(f"{path}/@{name}")
            twin = root.copy()
            node, _, _ = list(walk(twin))[place]
            if name:
                node.attrib[name] = next(monsters)
            else:
                node.text = next(monsters)
            with contextlib.suppress(ShimError):
                Guest.from_xml(documents.text(twin)).command(emulator, here)
    assert len(seen) > 1000
    assert time.process_time() - start < 60


def walk(root: Node) -> Iterator[tuple[Node, str, str]]:
    """Every place of a document that holds a value: its element, path, and attribute (``""``: the text)."""
    stack = [(root, root.tag)]
    while stack:
        node, path = stack.pop()
        for name in node.attrib:
            yield node, path, name
        if node.text.strip() and node.tag != COMMENT:
            yield node, path, ""
        stack += [(child, f"{path}/{child.tag}") for child in node.children]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "iso-8859-1"])
def test_an_encoding_makes_no_difference(encoding: str) -> None:
    told = encoding if encoding == "iso-8859-1" else encoding[:6].replace("-s", "")
    disk = "<disk type='file'><source file='/é,ü'/><target dev='vda' bus='virtio'/></disk>"
    text = f"<?xml version='1.0' encoding='{told.rstrip('-')}'?>" + document(disk)
    bom = "\ufeff" if encoding == "utf-16-le" else ""
    command = Guest.from_xml((bom + text).encode(encoding)).command(find("10.0"), HOST)
    assert command.argv == Guest.from_xml(document(disk)).command(find("10.0"), HOST).argv


QEMU_URI = "http://libvirt.org/schemas/domain/qemu/1.0"


def test_namespaces_in_odd_places() -> None:
    """QEMU's namespace counts by its name, under any prefix or none; a prefix of another name is another's."""
    arguments = "<{0}:commandline xmlns:{0}='{1}'><{0}:arg value='-x,y'/></{0}:commandline>"
    plain = f"<commandline xmlns='{QEMU_URI}'><arg value='-x,y'/></commandline>"
    for inner in (arguments.format("qemu", QEMU_URI), arguments.format("q", QEMU_URI), plain):
        assert "-x,y" in Guest.from_xml(document(extra=inner)).command(find("10.0"), HOST).argv
    for inner in (arguments.format("qemu", "urn:other"), plain.replace(QEMU_URI, "urn:other")):
        assert "-x,y" not in Guest.from_xml(document(extra=inner)).command(find("10.0"), HOST).argv
    undeclared = "<qemu:commandline><qemu:arg value='-x,y'/></qemu:commandline>"
    assert "-x,y" not in Guest.from_xml(document(extra=undeclared)).command(find("10.0"), HOST).argv
    attributes = document().replace("<domain ", "<domain xmlns:x='urn:x' x:type='kvm' ")
    assert Guest.from_xml(attributes).domain.virt == "qemu"


def test_foreign_namespaces_are_no_elements_of_ours() -> None:
    inner = "<x:disk xmlns:x='urn:x' type='file'/><disk xmlns='urn:y' type='warp'/>"
    guest = Guest.from_xml(document(inner).replace("type='warp'", ""))
    argv = guest.domain.to_xml()
    assert "x:disk" not in argv
    metadata = "<metadata><a:b xmlns:a='urn:a' c='d'><a:e/></a:b></metadata>"
    xml = Guest.from_xml(document(extra=metadata)).define(find("10.0"), HOST).to_xml()
    assert parse(xml).find("metadata/a:b/a:e") is not None


# -- a value can not leave its place ---------------------------------------------------------------------------

texts = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufffe\uffff"),
    min_size=1,
    max_size=40,
) | st.sampled_from(NAMES)


def read_back(argv: list[str], flag: str) -> list[dict[str, object]]:
    """Options as QEMU reads them: JSON where the value begins with a brace, else keys and values."""
    found: list[dict[str, object]] = []
    for name, value in itertools.pairwise(argv):
        if name == flag:
            if value.startswith("{"):
                found.append(json.loads(value))
            else:
                parts = [part.partition("=") for part in split_key_values(value)]
                found.append({key: text for key, _, text in parts})
    return found


def hostile_devices(path: str, other: str) -> str:
    return (
        f"<disk type='file'><source file='{quoted(path)}'/><target dev='vda' bus='virtio'/></disk>"
        f"<serial type='file'><source path='{quoted(other)}'/></serial>"
        f"<filesystem type='mount'><source dir='{quoted(path)}'/><target dir='{quoted(other)}'/></filesystem>"
        f"<rng model='virtio'><backend model='random'>{quoted(path.strip())}</backend></rng>"
    )


@settings(max_examples=150, deadline=None)
@given(texts, texts, st.sampled_from(("10.0", "7.2", "6.2")))
def test_what_qemu_reads_is_what_the_document_says(path: str, other: str, version: str) -> None:
    path, other = "/" + path, "/" + other
    devices = hostile_devices(path, other)
    try:
        command = Guest.from_xml(document(devices)).command(find(version), HOST)
    except ConfigError:
        # a path of a random generator that is no text is refused
        return
    argv = command.argv
    assert path in [block.get("filename") for block in read_back(argv, "-blockdev")]
    assert other in [char.get("path") for char in read_back(argv, "-chardev")]
    [filesystem] = read_back(argv, "-fsdev")
    assert filesystem["path"] == path
    mounts = [device.get("mount_tag") for device in read_back(argv, "-device")]
    assert other in mounts
    # the number of words does not depend on what stands in them
    tame = Guest.from_xml(document(hostile_devices("/p", "/o"))).command(find(version), HOST).argv
    assert len(argv) == len(tame)
    assert shlex.split(shell(command).replace("\\\n", "")) == command.tokens


@pytest.mark.qemu
@pytest.mark.skipif(QEMU is None, reason="needs qemu-system-x86_64")
def test_a_real_qemu_reads_the_paths_unchanged() -> None:
    """Files of hostile names are attached, and named by the monitor as they are."""
    assert QEMU is not None
    emulator = find(QEMU)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in NAMES]
        devices = ""
        for number, path in enumerate(paths):
            Path(path).write_bytes(b"\0" * 512)
            target = f"<target dev='vd{chr(97 + number)}' bus='virtio'/>"
            devices += f"<disk type='file'><source file='{quoted(path)}'/>{target}</disk>"
        log = os.path.join(folder, "log,,\n$(x)")
        devices += f"<serial type='file'><source path='{quoted(log)}'/></serial>"
        noise = os.path.join(folder, "noise,,='\" $(x)")
        Path(noise).write_bytes(b"noise")
        devices += f"<rng model='virtio'><backend model='random'>{quoted(noise)}</backend></rng>"
        name = "a,b='c' $(x)"
        text = document(devices, name=quoted(name))
        command = Guest.from_xml(text).command(emulator, HOST, export=True)
        socket = os.path.join(folder, "monitor")
        argv = _without(command.argv, socket)
        process = subprocess.Popen([QEMU, *argv], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            blocks, chardevs, filename, called = asyncio.run(_ask(socket, process))
        finally:
            process.kill()
            process.wait()
        assert set(paths) <= {block["file"] for block in blocks}
        assert f"file:{log}" in {char["filename"] for char in chardevs} or os.path.exists(log)
        assert filename == noise
        assert called == {"name": name}
        assert not os.path.exists("pwned")


def _without(argv: list[str], socket: str) -> list[str]:
    """The command line without what belongs to a host that runs guests, and with a monitor of ours."""
    drop = {"-object": "secret", "-sandbox": "", "-chardev": "charmonitor", "-mon": "charmonitor", "-S": None}
    kept: list[str] = []
    words = iter(argv[1:])
    for word in words:
        if word == "-S":
            continue
        marker = drop.get(word)
        if marker is not None:
            value = next(words)
            if marker not in value:
                kept += [word, value]
            continue
        kept.append(word)
    return [*kept, "-S", "-qmp", f"unix:{socket},server=on,wait=off"]


async def _ask(
    socket: str, process: subprocess.Popen[bytes]
) -> tuple[list[dict[str, str]], list[dict[str, str]], object, object]:
    """Block nodes, character devices, the file of the random generator, the guest's name."""
    from qemu.qmp import QMPClient

    client = QMPClient("hostile")
    for _ in range(100):
        if os.path.exists(socket):
            break
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(process.stderr.read().decode())
        await asyncio.sleep(0.1)
    await client.connect(socket)
    blocks = await client.execute("query-named-block-nodes")
    chardevs = await client.execute("query-chardev")
    filename = await client.execute("qom-get", {"path": "/objects/objrng0", "property": "filename"})
    called = await client.execute("query-name")
    await client.disconnect()
    return blocks, chardevs, filename, called  # type: ignore[return-value]
