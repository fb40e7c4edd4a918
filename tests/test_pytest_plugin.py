"""The plugin as another project uses it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest_plugins = ["pytester"]

GUEST = """<domain type='kvm'><name>NAME</name><memory unit='MiB'>256</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
</devices></domain>
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with one guest and two QEMUs."""
    plugin = (
        "" if entry_points(group="pytest11", name="qemushim") else "addopts = '-p qemushim.pytest_plugin'"
    )
    pytester.makepyprojecttoml(
        f"[tool.pytest.ini_options]\nqemushim_guests = ['guests']\nqemushim_qemu = ['6.2', '10.0']\n{plugin}\n"
    )
    guests = pytester.mkdir("guests")
    (guests / "web.xml").write_text(GUEST.replace("NAME", "web"))
    return pytester


def run(project: pytest.Pytester, *words: str) -> pytest.RunResult:
    return project.runpytest_inprocess("-p", "no:cacheprovider", *words)


def test_update_then_pass(project: pytest.Pytester) -> None:
    result = run(project)
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*there is no web.6.2.args yet; pytest --qemushim-update writes it*"])
    run(project, "--qemushim-update").assert_outcomes(passed=4)
    names = sorted(path.name for path in (project.path / "guests").iterdir())
    assert names == ["web.10.0.abi", "web.10.0.args", "web.6.2.abi", "web.6.2.args", "web.xml"]
    assert "address = 0000:00:02.0" in (project.path / "guests" / "web.10.0.abi").read_text()
    run(project).assert_outcomes(passed=4)
    run(project, "-k", "abi and 10.0").assert_outcomes(passed=1, deselected=3)
    run(project, "--qemushim-qemu", "6.2").assert_outcomes(passed=2)


def test_differences_are_told_in_words(project: pytest.Pytester) -> None:
    run(project, "--qemushim-update")
    web = project.path / "guests" / "web.xml"
    web.write_text(GUEST.replace("NAME", "web").replace("'virtio'", "'e1000'"))
    result = run(project, "--qemushim-qemu", "10.0")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            '*-device *"driver":"virtio-net-pci"*',
            '*-device *"driver":"e1000"*',
            "*guest sees it*interface 52:54:00:00:00:01*",
            "*model/@type: virtio → e1000*",
            "*if this is meant: pytest --qemushim-update*",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_refused_document_fails_where_it_is_wrong(project: pytest.Pytester) -> None:
    (project.path / "guests" / "web.xml").write_text(GUEST.replace("'pc'", "'no-such-board'"))
    result = run(project, "--qemushim-update")
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*web.xml:2: unsupported configuration: *no-such-board*"])
    assert [path.name for path in (project.path / "guests").iterdir()] == ["web.xml"]


def test_a_document_picks_its_own(project: pytest.Pytester) -> None:
    picky = "<!-- a guest of its own\n  qemu: 7.2 8.2 9.0 -->\n" + GUEST
    (project.path / "guests" / "picky.xml").write_text(picky)
    result = run(project, "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*picky.xml::argv?7.2?", "*picky.xml::abi?9.0?", "*web.xml::argv?6.2?"])


def test_xdist(project: pytest.Pytester) -> None:
    for name in ("a", "b", "c"):
        (project.path / "guests" / f"{name}.xml").write_text(GUEST.replace("NAME", name))
    result = project.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2", "--qemushim-update")
    result.assert_outcomes(passed=16)
    project.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2").assert_outcomes(passed=16)


def test_fixtures(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from qemushim import Host

        def test_boots(qemu_emulator, qemu_guest):
            guest = qemu_guest("guests/web.xml")
            argv = guest.command(qemu_emulator, Host.nominal()).argv
            assert any("virtio-net-pci" in word for word in argv)

        @pytest.mark.parametrize("qemu_emulator", ["8.2-aarch64"], indirect=True)
        def test_arm(qemu_emulator, qemu_guest):
            text = "<domain type='qemu'><name>a</name><memory>1024</memory>" \\
                   "<os><type arch='aarch64' machine='virt'>hvm</type></os></domain>"
            assert qemu_guest(text).domain.machine_type == "virt-8.2"

        def test_versions(qemu_emulator):
            assert qemu_emulator.version[:2] in ((6, 2), (10, 0))
        """
    )
    result = run(project, "-v", "test_fixtures.py")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*test_boots?6.2? PASSED*", "*test_boots?10.0? PASSED*"])


def test_a_project_without_guests_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makefile(".xml", web=GUEST, other="<junit/>")
    pytester.makepyfile("def test_one(): pass")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, pytest, qemushim.pytest_plugin\n"
        "loaded = sorted(name for name in sys.modules if name.startswith('qemushim'))\n"
        "assert loaded == ['qemushim', 'qemushim.pytest_plugin'], loaded\n"
        "assert 'lxml' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_the_page_as_pasted(pytester: pytest.Pytester) -> None:
    """The settings, the words and the test that docs/pytest.md shows, in a project made of nothing else."""
    page = (ROOT / "docs" / "pytest.md").read_text()
    settings = page.partition("$ cat pyproject.toml\n")[2].partition("$ ")[0]
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    if not entry_points(group="pytest11", name="qemushim"):
        settings += "addopts = '-p qemushim.pytest_plugin'\n"
    pytester.makefile(".toml", pyproject=settings)
    guests = pytester.mkdir("tests") / "guests"
    guests.mkdir()
    shutil.copy(ROOT / "examples" / "web-server.xml", guests / "web.xml")
    (guests.parent / "test_ours.py").write_text(example)
    run(pytester, "--qemushim-update").assert_outcomes(passed=6)
    promised = re.search(r"--qemushim-update +# writes ([^:\n]*):", page)
    assert promised is not None
    assert {path.name for path in guests.iterdir()} == {"web.xml", *promised[1].split(", ")}
    result = run(pytester, "-v")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["*web.xml::argv?7.2? PASSED*", "*test_disks_are_virtio?10.0? PASSED*"])
