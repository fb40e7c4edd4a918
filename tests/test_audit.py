"""Many guests at once: findings, the page, and where the work is done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from itertools import count
from pathlib import Path

import pytest

from qemushim import batch
from qemushim.cli import main
from qemushim.compare.audit import Finding, Task, audit, examine, report_data
from qemushim.compare.page import page
from qemushim.compare.verdict import Verdict

GUEST = """<?xml version='1.0'?>
<!-- a guest -->
<domain type='kvm'><name>NAME</name><memory unit='MiB'>256</memory>
<os><type arch='x86_64' machine='MACHINE'>hvm</type></os><devices>
<disk type='file'><driver name='qemu' type='raw'/><source file='/srv/a.img'/><target dev='vda' bus='virtio'/></disk>
</devices></domain>
"""
#: name → machine type, and what comes of it on QEMU 10.0
FLEET = {
    "old": ("pc-i440fx-6.2", "invisible"),
    "new": ("pc-q35-10.0", "same"),
    "ancient": ("pc-0.12", "refused"),
    "odd <b>": ("no-such-board", "refused"),
}


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise ValueError(number)


def document(name: str, machine: str) -> str:
    return GUEST.replace("NAME", name.replace("<", "&lt;")).replace("MACHINE", machine)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, (machine, _)) in enumerate(FLEET.items()):
        (tmp_path / f"{number}.xml").write_text(document(name, machine))
    (tmp_path / "default-network.xml").write_text("<network><name>default</name></network>")
    (tmp_path / "notes.txt").write_text("no document")
    return tmp_path


def tasks(new: str = "10.0") -> list[Task]:
    return [
        Task(f"{name}.xml", document(name, machine).encode(), new) for name, (machine, _) in FLEET.items()
    ]


# -- batch -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 50])
def test_map_keeps_the_order(count: int) -> None:
    seen: list[int] = []
    want = [number * number for number in range(count)]
    assert batch.map(square, range(count), workers=2, chunk=4, done=seen.append) == want
    assert sorted(seen) == want
    with ThreadPoolExecutor(2) as executor:
        assert batch.map(square, range(count), executor=executor, chunk=3) == want
        assert executor.submit(square, 3).result() == 9  # it is not ours to shut down


def test_map_raises_what_the_work_raises() -> None:
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="0"):
        batch.map(fail, range(20), executor=executor)
    with pytest.raises(ValueError, match="0"):
        batch.map(fail, [0])


def test_each_takes_as_much_as_it_has_given() -> None:
    taken: list[int] = []

    def stream() -> Iterator[int]:
        for number in count():
            taken.append(number)
            yield number

    results = batch.each(square, stream(), workers=2, chunk=3)
    assert [next(results) for _ in range(100)] == [number * number for number in range(100)]
    # of a stream without end there is never more under way than what the workers are about to do
    assert len(taken) <= 100 + 3 * (batch.AHEAD + 1)
    results.close()
    assert list(batch.each(square, range(10), workers=1)) == batch.map(square, range(10), workers=1)
    with ThreadPoolExecutor(2) as executor:
        assert list(batch.each(square, range(10), executor=executor, chunk=3))[-1] == 81
        with pytest.raises(ValueError, match="0"):
            next(batch.each(fail, range(20), executor=executor))


def test_on_a_dask_cluster() -> None:
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        findings = audit(tasks(), executor=client.get_executor())
    assert findings == [examine(task) for task in tasks()]


# -- audit -----------------------------------------------------------------------------------------------------------


def test_findings() -> None:
    findings = audit(tasks())
    assert {f.name: report_data([f])["guests"][0]["verdict"] for f in findings} == {
        name: verdict for name, (_, verdict) in FLEET.items()
    }
    assert [(f.old, f.new) for f in findings][:2] == [("6.2.0", "10.0.0"), ("10.0.0", "10.0.0")]
    assert "pc-0.12" in findings[2].summary


def test_what_is_not_compared() -> None:
    for task, words in (
        (Task("a.xml", b"<domain"), "a.xml"),
        (Task("a.xml", document("a", "pc").replace("x86_64", "ppc64").encode(), "10.0"), "no QEMU '10.0'"),
        (Task("a.xml", document("a", "pc-q35-9.0").encode(), "10.0", old="7.0"), "pc-q35-9.0"),
        (Task("a.xml", document("a", "pc").encode(), "10.0", old="no such thing"), "no emulator is called"),
    ):
        finding = examine(task)
        assert finding.verdict is None
        assert words in finding.summary


def test_a_mistake_of_ours_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemushim.compare.audit.upgrade", lambda *sides: 1 // 0)
    finding = examine(tasks()[0])
    assert finding.verdict is None
    assert "mistake in qemushim: ZeroDivisionError" in finding.problem


class _Page(HTMLParser):
    """Checks that tags are balanced, and gathers what matters to those who do not see the page."""

    empty = frozenset(("meta", "br", "col"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.empty:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page() -> None:
    seen_by_guest = examine(Task("c.xml", _CLASSIC.encode(), "qemu-kvm-0.12.3", old="0.10.5"))
    assert seen_by_guest.verdict is Verdict.VISIBLE
    unknown = Finding("u.xml", "", "", "6.2", "10.0", problem="no <such> thing")
    text = page([*audit(tasks()), seen_by_guest, unknown], "A & B")
    parser = _Page()
    parser.feed(text)
    parser.close()
    assert not parser.open
    tags = dict(parser.seen)
    assert tags["html"]["lang"] == "en"
    assert "script" not in tags
    assert not [attributes for _, attributes in parser.seen if {"src", "style"} & set(attributes)]
    assert all(attributes["scope"] in ("col", "row") for tag, attributes in parser.seen if tag == "th")
    anchors = {attributes["id"] for _, attributes in parser.seen if attributes.get("id")}
    links = {
        (attributes["href"] or "")[1:]
        for tag, attributes in parser.seen
        if tag == "a" and "href" in attributes
    }
    assert links == anchors == {"refused", "unknown", "visible", "invisible", "same"}
    assert "odd &lt;b&gt;" in text
    assert "odd <b>" not in text
    assert "no &lt;such&gt; thing" in text
    assert "prefers-color-scheme: dark" in text


_CLASSIC = """<domain type='qemu'><name>c</name><memory>65536</memory><os><type>hvm</type></os><devices>
<interface type='user'><mac address='52:54:00:00:00:01'/></interface></devices></domain>"""


# -- the command -----------------------------------------------------------------------------------------------------


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folder / "report.html"
    assert main(["audit", str(folder), "--qemu", "10.0", "--html", str(report)]) == 4
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "\x1b" not in captured.out
    lines = captured.out.splitlines()
    assert lines[0].split() == ["VERDICT", "GUEST", "MACHINE", "TYPE", "QEMU", "WHAT"]
    assert lines[-1] == "will not start: 2, invisible to the guest: 1, same: 1"
    assert "A report" not in captured.out
    assert report.read_text().startswith("<!DOCTYPE html>")
    assert main(["audit", str(folder / "0.xml"), str(folder / "1.xml"), "--qemu", "10.0", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["counts"] == {"refused": 0, "unknown": 0, "visible": 0, "invisible": 1, "same": 1}
    keys = {"file", "name", "machine", "old", "new", "verdict", "problem", "comparison"}
    assert all(set(guest) == keys for guest in data["guests"])


def test_the_old_qemu_and_the_new_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", str(folder / "0.xml"), "--json", "--qemu"]
    assert main([*words, "7.2", "--qemu", "10.0"]) == 0
    twice = json.loads(capsys.readouterr().out)
    assert (twice["guests"][0]["old"], twice["guests"][0]["new"]) == ("7.2.0", "10.0.0")
    assert main([*words, "10.0", "--from", "7.2"]) == 0
    assert json.loads(capsys.readouterr().out) == twice
    with pytest.raises(SystemExit):
        main([*words, "7.2", "--qemu", "10.0", "--from", "6.2"])


def test_a_place_that_is_not_there_is_told_before_anything_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(folder), str(folder / "none.xml"), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "none.xml" in json.loads(captured.err)["problems"][0]["file"]


def test_nothing_to_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(tmp_path)]) == 1
    assert "no domain document in" in capsys.readouterr().err
    assert main(["audit", str(tmp_path / "none.xml")]) == 1
    assert main(["audit", str(tmp_path), "--qemu", "99.9"]) == 1
    assert "99.9" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path), "--jobs", "0"])


def test_a_report_that_can_not_be_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(folder), "--html", str(folder / "no" / "report.html")]) == 1
    assert "cannot write the report" in capsys.readouterr().err


def test_connection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("libvirt")
    domain = document("inside", "pc-q35-10.0").split("-->")[1].replace("type='kvm'", "type='test'", 1)
    (tmp_path / "node.xml").write_text(f"<node>{domain}</node>")
    assert main(["audit", f"test://{tmp_path}/node.xml", "--json"]) in (1, 4)
    [guest] = json.loads(capsys.readouterr().out)["guests"]
    assert guest["file"].endswith("node.xml#inside")
    assert main(["audit", "test:///no/such/file.xml"]) == 1
    assert "test:///no/such/file.xml: " in capsys.readouterr().err
