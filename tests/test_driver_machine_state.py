"""What is kept of guests: whatever ends, whenever, a file is the old one or the new one."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.driver import state
from qemushim.driver.state import Folder, Pending, Running, guest_names, next_id
from qemushim.errors import DriverError

CHANGE = Pending("attach", ["net0"], "interface 52:54:00:00:00:01", [("netdev_del", {"id": "hostnet0"})])


def running(**more: object) -> Running:
    return Running("web", "uuid", 1, "/usr/bin/qemu", live="<domain/>", **more)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path, "web")
    found.make()
    return found


def files(folder: Folder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {"lock"}


def test_documents_come_back(folder: Folder) -> None:
    assert (folder.definition(), folder.running(), folder.pending()) == (None, None, None)
    known = running(devices=["net0"], pid=7, started=9, detached=True)
    folder.store(definition="<domain>ä</domain>", running=known)
    assert folder.definition() == "<domain>ä</domain>"
    assert folder.running() == known
    assert files(folder) == {"definition.xml", "state.json"}
    assert (folder.path.stat().st_mode & 0o777, folder.state_path.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_change_is_announced_then_put_in_place(folder: Folder) -> None:
    folder.store(definition="old", running=running())
    folder.prepare(CHANGE, definition="new", running=running(nodes=5))
    assert (folder.definition(), folder.running()) == ("old", running())
    assert folder.pending() == CHANGE
    # whoever looks next may finish it
    Folder(folder.home, "web").commit()
    assert (folder.definition(), folder.running()) == ("new", running(nodes=5))
    assert folder.pending() is None
    assert files(folder) == {"definition.xml", "state.json"}


def test_a_change_of_one_document_leaves_the_other(folder: Folder) -> None:
    folder.store(definition="old", running=running())
    folder.prepare(CHANGE, definition=None, running=running(nodes=5))
    folder.prepare_again(running(nodes=6))
    folder.commit()
    assert (folder.definition(), folder.running()) == ("old", running(nodes=6))


def test_a_change_is_forgotten(folder: Folder) -> None:
    folder.store(definition="old", running=running())
    folder.prepare(CHANGE, definition="new", running=running(nodes=5))
    folder.abandon()
    assert (folder.definition(), folder.running(), folder.pending()) == ("old", running(), None)
    assert files(folder) == {"definition.xml", "state.json"}


def test_commit_goes_on_where_it_was_interrupted(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.store(definition="old", running=running())
    folder.prepare(CHANGE, definition="new", running=running(nodes=5))
    real = os.replace
    done: list[object] = []

    def once(source: object, target: object) -> None:
        if done:
            raise OSError(errno.EIO, "interrupted")
        done.append(target)
        real(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(DriverError):
        folder.commit()
    monkeypatch.undo()
    assert folder.pending() == CHANGE
    folder.commit()
    assert (folder.definition(), folder.running()) == ("new", running(nodes=5))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("at", range(4))
def test_full_disk_loses_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, failing: str, at: int
) -> None:
    folder.store(definition="old", running=running())
    count = iter(range(100))
    real = getattr(os, failing)

    def full(*arguments: object) -> None:
        if next(count) == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    monkeypatch.setattr(os, failing, full)
    problems = []
    try:
        folder.prepare(CHANGE, definition="new", running=running(nodes=5))
    except DriverError as problem:
        problems.append(problem)
    monkeypatch.undo()
    refused = bool(problems)
    assert all("No space left" in problem.message and "make room" in problem.hint for problem in problems)
    assert (folder.definition(), folder.running()) == ("old", running())
    assert (folder.pending() is None) == refused
    if refused:
        assert files(folder) == {"definition.xml", "state.json"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few files."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)),
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"can not mount a tmpfs here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(("umount", "-l", str(place)), check=True)


def fill(place: Path) -> Path:
    """Take all room that is left."""
    ballast = place / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)

    def write() -> None:
        while os.write(descriptor, b"x" * 4096):
            pass

    with pytest.raises(OSError, match="No space left"):
        write()
    os.close(descriptor)
    return ballast


def test_really_full_disk(small_disk: Path) -> None:
    folder = Folder(small_disk, "web")
    folder.make()
    folder.store(definition="old", running=running())
    end = folder.open_end()
    ballast = fill(small_disk)
    for change in (
        lambda: folder.store(definition="new" * 2000),
        lambda: folder.prepare(CHANGE, definition="new" * 2000, running=running()),
        lambda: next_id(small_disk),
    ):
        with pytest.raises(DriverError, match="No space left"):
            change()
    assert (folder.definition(), folder.running(), folder.pending()) == ("old", running(), None)
    # there is room for how a guest ended
    os.pwrite(end, b'{"status": -9}', 0)
    os.close(end)
    assert folder.end() == {"status": -9}
    ballast.unlink()
    folder.store(definition="new" * 2000)
    assert folder.definition() == "new" * 2000


def test_unreadable_state_is_told(folder: Folder) -> None:
    for text, words in (("{", "cannot read"), ('{"format": 99}', "another version"), ("[]", "cannot read")):
        folder.state_path.write_text(text)
        with pytest.raises(DriverError, match=words):
            folder.running()
    # what a later version adds is passed over
    folder.store(running=running())
    folder.state_path.write_text(folder.state_path.read_text().replace("{", '{"later": 1,', 1))
    assert folder.running() == running()
    folder.pending_path.write_text("{}")
    with pytest.raises(DriverError, match="cannot read"):
        folder.pending()
    folder.end_path.write_text(" " * 512)
    assert folder.end() == {}


def test_one_at_a_time(folder: Folder) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with folder.locked():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)

    def enter() -> None:
        with Folder(folder.home, "web").locked(0.05):
            raise AssertionError("two at once")

    with pytest.raises(DriverError, match=r"guest 'web' for more than 0\.05 seconds"):
        enter()
    leave.set()
    thread.join(10)
    with folder.locked(0.05):
        pass


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    assert [next_id(tmp_path) for _ in range(3)] == [1, 2, 3]
    (tmp_path / "last-id").write_text("rubbish")
    assert next_id(tmp_path) == 1


def test_names(tmp_path: Path) -> None:
    names = ["..", ".", ".hidden", "a b", "ä/ö", "x" * 300, "y" * 299 + "1", "y" * 299 + "2", "100%", "a%2Fb"]
    for name in names:
        folder = Folder(tmp_path, name)
        folder.make()
        assert folder.path.parent == tmp_path / "guests"
        assert len(os.fsencode(folder.path.name)) < 250
    assert sorted(guest_names(tmp_path)) == sorted(names)
    assert guest_names(tmp_path / "nothing") == []


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), min_size=1, max_size=300))
def test_any_name_is_a_folder_of_its_own(name: str) -> None:
    path = Folder(Path("/home"), name).path
    assert path.parent == Path("/home/guests")
    assert path.name not in (".", "..")
    assert len(os.fsencode(path.name)) < 250


def test_last_words(folder: Folder) -> None:
    assert folder.last_words() == []
    folder.log_path.write_text("# first run\nold\n# second run\none\n\ntwo\nthree\n")
    assert folder.last_words(2) == ["two", "three"]
    assert folder.last_words(9) == ["one", "two", "three"]
    folder.log_path.write_text(
        "# first run\nold\n# second run\nchar device redirected to /dev/pts/1 (label a)\n"
    )
    assert folder.last_words() == []


def test_end_of_a_run(folder: Folder, tmp_path: Path) -> None:
    folder.store(definition="stays", running=running())
    (folder.run_path / "deep").mkdir(parents=True)
    made = tmp_path / "huge"
    made.mkdir()
    folder.forget_run([str(made), str(tmp_path / "nothing")])
    assert files(folder) == {"definition.xml"}
    assert not made.exists()
    (folder.path.with_name(".gone-web") / "half").mkdir(parents=True)
    assert guest_names(tmp_path) == ["web"]
    folder.remove()
    assert [*folder.path.parent.iterdir()] == []


def test_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DriverError, match="cannot write"):
        Folder(tmp_path / "file", "web").make()


def test_home_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state.default_home() == tmp_path / "qemushim"
