"""``qemushim from-argv``: where commands come from, what is printed, and what is said of a mistake."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qemushim.cli import main
from qemushim.errors import ConfigError, DriverError
from qemushim.fromargv import words_of
from qemushim.fromargv.arguments import arguments_of
from qemushim.fromargv.syntax import key_value_pairs, parse_size, split_commas
from qemushim.running import read_process
from tests.conftest import ROOT
from tests.machines import SECONDS

COMMAND = "qemu-system-x86_64 -name web -m 1G -nodefaults -drive file=/srv/a.img,format=raw,if=virtio"


# -- words ------------------------------------------------------------------------------------------


def words(text: str | bytes) -> list[str]:
    return [word.text for word in words_of(text).words]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("qemu-system-x86_64 -m 1G", ["qemu-system-x86_64", "-m", "1G"]),
        ("qemu-system-x86_64 \\\n  -m 1G \\  \n -S", ["qemu-system-x86_64", "-m", "1G", "-S"]),
        ("qemu-system-x86_64\n  -m 1G\n  -S\necho done", ["qemu-system-x86_64", "-m", "1G", "-S"]),
        ("#!/bin/sh\n# a guest\nexec qemu-system-x86_64 -S # paused\n", ["exec", "qemu-system-x86_64", "-S"]),
        ("cd /srv && qemu-system-x86_64 -S &", ["qemu-system-x86_64", "-S"]),
        ("qemu-system-x86_64 -S 2>&1 | tee log", ["qemu-system-x86_64", "-S"]),
        ("qemu-system-x86_64 -S >/dev/null 2> err", ["qemu-system-x86_64", "-S"]),
        ("qemu-system-x86_64 -S &>log -append '<a> 2>b'", ["qemu-system-x86_64", "-S", "-append", "<a> 2>b"]),
        ("qemu-system-x86_64 -append 'a  b' -name \"x \\\"y\\\"\"", ["qemu-system-x86_64", "-append", "a  b", "-name",
                                                                  'x "y"']),
        ("qemu-system-x86_64 -name $'a\\tb' -name a\\ b", ["qemu-system-x86_64", "-name", "a\tb", "-name", "a b"]),
        ("qemu-system-x86_64 -name a#b", ["qemu-system-x86_64", "-name", "a#b"]),
        ("LC_ALL=C qemu-system-x86_64", ["LC_ALL=C", "qemu-system-x86_64"]),
        ("M=4G\nA='-a b'\nqemu-system-x86_64 -m $M \"${A}\" $A -k ${K:-de}",
         ["qemu-system-x86_64", "-m", "4G", "-a b", "-a", "b", "-k", "de"]),
        ("args=(\n  -m 4G # memory\n  -name 'a b'\n)\nargs+=(-S)\nqemu-system-x86_64 \"${args[@]}\"",
         ["qemu-system-x86_64", "-m", "4G", "-name", "a b", "-S"]),
        ("run() {\n  local name=x\n  exec qemu-system-x86_64 -name \"$name\"\n}\nrun",
         ["exec", "qemu-system-x86_64", "-name", "x"]),
        ("2024-05-03: starting up libvirt (Debian), qemu version: 7.2\nLC_ALL=C \\\nqemu-system-x86_64 \\\n-S\nended",
         ["LC_ALL=C", "qemu-system-x86_64", "-S"]),
        ("user  12 0.0 1.0 5 1 ? Sl 09:12 0:33 qemu-system-x86_64 -S",
         ["user", "12", "0.0", "1.0", "5", "1", "?", "Sl", "09:12", "0:33", "qemu-system-x86_64", "-S"]),
        (b"qemu-system-x86_64\0-name\0a b\0", ["qemu-system-x86_64", "-name", "a b"]),
        ('["qemu-system-x86_64", "-S"]', ["qemu-system-x86_64", "-S"]),
        ('{"environment": {"A": "b"}, "argv": ["qemu-system-x86_64"]}', ["A=b", "qemu-system-x86_64"]),
    ],
)  # fmt: skip
def test_words(text: str | bytes, found: list[str]) -> None:
    assert words(text) == found


def test_what_a_shell_would_replace_is_told() -> None:
    notes = words_of('qemu-system-x86_64 -hda "$HOME/a.img"').notes
    assert [line for message, line in notes if "$" in message] == [1]


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("qemu-system-x86_64 \\\n -name 'web\n", "a quotation (') has no end", 2),
        ('["qemu-system-x86_64",', "the JSON is broken", 1),
        ("[1, 2]", "no list of words", 0),
        (b"qemu-system-x86_64\n\xff", "no UTF-8", 2),
        ("[" * 100_000, "nests too deeply", 0),
        ("x" * (5 << 20), "longer than", 0),
        ("A=(-m 1G\nqemu-system-x86_64", "the array A=( has no end", 1),
        ("A=xxxxxxxxxxxxxxxx\n" + "A=$A$A$A$A\n" * 60, "grow beyond all measure", 10),
    ],
)
def test_broken_text(text: str | bytes, message: str, line: int) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
        words_of(text, "file")
    assert (caught.value.line, caught.value.file) == (line, "file")


def test_commas() -> None:
    assert split_commas("a,,b,c") == ["a,b", "c"]
    assert split_commas("a,,,b") == ["a,", "b"]
    assert split_commas("") == [""]
    assert key_value_pairs("virtio-blk,drive=x,ro", "driver") == [
        ("driver", "virtio-blk"),
        ("drive", "x"),
        ("ro", "on"),
    ]
    assert key_value_pairs("/srv/a=b.img,x=1", "file") == [("file", "/srv/a=b.img"), ("x", "1")]


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 << 30), ("512", 512), ("1.5k", 1536), ("0x10", 16), ("2MiB", 2 << 20)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1..2G", "-1", "9" * 30, "16E", "1Q"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo hello", "there is no QEMU in the command"),
        ("-m 4G -smp 2", "the command begins with an option"),
        ("qemu-system-x86_64 -m", "-m needs a value"),
        ("qemu-system-x86_64 --version", "only prints something"),
        ("qemu-system-x86_64 -m lots", "size=lots: a size such as 512M"),
        ("qemu-system-x86_64 -smp many", "cpus=many: a number is needed"),
        ("qemu-system-x86_64 -uuid 1", "-uuid 1: this is no UUID"),
        ("qemu-system-x86_64 -rtc base=soon", "base=soon"),
        ("qemu-system-x86_64 -device '{\"driver\":'", "the JSON is broken at character 11"),
        ("qemu-system-x86_64 -set device.x.y=1", "there is no -device with id=x"),
        ("qemu-system-aarch64 -m 1G", "no default machine type"),
        ("qemu-system-x86_64 -device virtio-rng-pci,addr=0x99", "slots are 0 to 0x1f"),
        (
            "qemu-system-x86_64 -name a\x01b",
            "word 3 of the command has a character that no document can hold: U+0001",
        ),
        ("qemu-system-x86_64 -name a\udcffb", "U+DCFF"),
    ],
)
def test_mistakes_are_told(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-argv", text]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


# -- where commands come from -------------------------------------------------------------------------


def test_a_word_a_file_standard_input_and_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "start.sh"
    script.write_text(f"#!/bin/sh\n{COMMAND}\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(COMMAND.encode())))
    found = []
    for given in ([COMMAND], [str(script)], ["-"], ["--", *COMMAND.split()]):
        assert main(["from-argv", *given]) == 0
        found.append(capsys.readouterr().out)
    assert len(set(found)) == 1
    assert "<name>web</name>" in found[0]


def test_the_way_there_and_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["argv", str(ROOT / "examples" / "web-server.xml")]) == 0
    before = capsys.readouterr().out
    (tmp_path / "argv").write_text(before)
    assert main(["from-argv", "--quiet", str(tmp_path / "argv")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (tmp_path / "again.xml").write_text(out)
    assert main(["argv", str(tmp_path / "again.xml")]) == 0
    assert capsys.readouterr().out == before


def test_notes_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = "qemu-system-x86_64 -m 1G -nodefaults -hda a.img -device edu,addr=0x7"
    assert main(["from-argv", "--name", "lab", "--directory", "/srv", text]) == 0
    out, err = capsys.readouterr()
    assert "<name>lab</name>" in out
    assert "<source file='/srv/a.img'/>" in out
    assert (
        "kept: argument 6: -device edu,addr=0x7: kept in <qemu:commandline> (libvirt has no device edu)\n"
        in err
    )


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-argv", "--format", "json", f"{COMMAND} -device edu,addr=0x7"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "qemushim.from-argv/1"
    assert data["kept"] == ["-device", "edu,addr=0x7"]
    assert data["refused"] is None
    assert "-nodefaults" in data["argv"]
    assert {"element": "disk", "words": ["-drive", "file=/srv/a.img,format=raw,if=virtio"]} in data["devices"]
    assert {note["kind"] for note in data["notes"]} == {"kept", "added"}


def test_a_refused_document_is_printed_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-argv", "qemu-system-x86_64 -M pc-q35-99.0"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("<domain")
    assert "libvirt would refuse this document" in err
    assert "pc-q35-99.0" in err


@pytest.mark.parametrize("given", [[], ["--pid", "1", "qemu-system-x86_64"], ["--pid", "x"]])
def test_wrong_usage(given: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["from-argv", *given])
    assert caught.value.code == 2


# -- processes --------------------------------------------------------------------------------------


def test_no_qemu_by_that_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["from-argv", "--pid", "999999999"]) == 1
    assert "there is no process 999999999" in capsys.readouterr().err
    with pytest.raises(DriverError, match="is no QEMU"):
        read_process(os.getpid())


def test_a_qemu_that_runs(qemu: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real QEMU by its process id: its binary is asked what it can do, relative paths are those of its folder."""
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    words = [
        *(qemu, "-S", "-display", "none", "-nodefaults", "-name", "alive", "-m", "64", "-M", "q35,accel=tcg"),
        *("-drive", "file=disk.img,format=raw,if=virtio", "-device", "virtio-rng-pci", "-uuid"),
        *("5d0c1d9e-0000-4000-8000-0000000000aa", "-nic", "user,model=virtio-net-pci"),
    ]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                running = read_process(process.pid)
                if running.words.words:
                    break
            except DriverError:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert main(["from-argv", "--pid", str(process.pid), "--host", "nominal"]) == 0
        out, _ = capsys.readouterr()
    finally:
        process.terminate()
        process.wait(SECONDS)
        assert process.stderr is not None
        process.stderr.close()
    assert "<name>alive</name>" in out
    assert f"<source file='{tmp_path}/disk.img'/>" in out
    assert "<uuid>5d0c1d9e-0000-4000-8000-0000000000aa</uuid>" in out
    assert out.count("type='pci' domain=") == 3


def test_what_proc_and_sys_say(tmp_path: Path) -> None:
    """A tap on a bridge, a macvtap, a virtiofsd and an open file, in a /proc and /sys of our own."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    me = proc / "7"
    (me / "fd").mkdir(parents=True)
    (me / "fdinfo").mkdir()
    argv = [
        *("qemu-system-x86_64", "-nodefaults", "-netdev", "tap,fd=30,id=n0", "-device", "e1000,netdev=n0"),
        *("-netdev", "tap,fd=31,id=n1", "-device", "e1000,netdev=n1", "-add-fd", "set=2,fd=32,opaque=x"),
        *("-blockdev", "driver=file,node-name=f,filename=/dev/fdset/2", "-device", "virtio-blk-pci,drive=f"),
        *("-chardev", "socket,id=s,fd=33,server=on,wait=off", "-device", "isa-serial,chardev=s"),
        *("-chardev", "socket,id=c,path=/run/guest/fs0-fs.sock"),
        *("-device", "vhost-user-fs-pci,chardev=c,tag=t"),
    ]
    (me / "cmdline").write_bytes("\0".join([*argv, ""]).encode())
    (me / "environ").write_bytes(b"FOO=bar\0QEMU_X=1\0LC_ALL=C\0")
    for number, target in ((30, "/dev/net/tun"), (31, "/dev/tap9"), (32, "/x"), (33, "socket:[777]")):
        (me / "fd" / str(number)).symlink_to(target)
    (me / "net").mkdir()
    (me / "net" / "unix").write_text(
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01   776\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01   777 /run/guest/serial one.sock\n"
    )
    (me / "fdinfo" / "30").write_text("pos:\t0\niff:\tvnet3\n")
    (sys / "class/net/vnet3").mkdir(parents=True)
    (sys / "class/net/vnet3/master").symlink_to("../br5")
    tap = sys / "class/net/macvtap0"
    tap.mkdir()
    (tap / "ifindex").write_text("9\n")
    (tap / "lower_eth7").mkdir()
    (proc / "8").mkdir()
    (proc / "8" / "cmdline").write_bytes(
        b"/usr/libexec/virtiofsd\0--socket-path=/run/guest/fs0-fs.sock\0--shared-dir\0/srv/shared\0"
    )
    running = read_process(7, proc, sys)
    from qemushim.fromargv import read_command
    from tests.commands import HOST, LATEST

    reading = read_command(running.words, LATEST, HOST, known=running.known)
    devices = reading.guest.domain.node.ensure("devices")
    first, second = devices.all("interface")
    assert (first.get("type"), first.value("source/@bridge")) == ("bridge", "br5")
    assert (second.get("type"), second.value("source/@dev")) == ("direct", "eth7")
    # what the number of -add-fd is open on now is something else
    assert devices.value("disk/source/@file") == "/unknown/x"
    assert devices.value("serial/source/@path") == "/run/guest/serial one.sock"
    assert devices.value("filesystem/source/@dir") == "/srv/shared"
    assert reading.guest.domain.node.value("qemu:commandline/qemu:env/@name") == "QEMU_X"


def test_a_line_knows_where_its_arguments_stand() -> None:
    line = arguments_of(words_of("FOO=1 qemu-system-x86_64 \\\n  -m 1G \\\n  -S"))
    assert [(a.flag, a.place.index, a.place.line) for a in line.arguments] == [("-m", 1, 2), ("-S", 3, 3)]
    assert line.environment == {"FOO": "1"}


def test_the_page_of_the_manual_is_true(tmp_path: Path) -> None:
    """Commands of docs/from-argv.md say what the page shows, and its Python runs."""
    text = (ROOT / "docs" / "from-argv.md").read_text()
    [block] = re.findall(r"```console\n\$ (.*?)```", text, re.DOTALL)
    command, _, output = block.partition(" > vm.xml\n")
    program = tmp_path / "qemushim"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m qemushim "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        f"{command} > vm.xml", shell=True, cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert done.stderr.decode() == output
    assert (tmp_path / "vm.xml").read_text().startswith("<domain type='kvm'>")
    [python] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(python, "from-argv.md", "exec"), {})
