"""What all tests share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.libvirt_daemons import Daemons

ROOT = Path(__file__).resolve().parent.parent
CORPUS = Path(os.environ.get("QEMUSHIM_CORPUS", ROOT.parent / "shared" / "corpus"))

# the same examples in every run, however slow the machine: the long search for new ones is tools/fuzz.py
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate", action="store_true", help="write the golden files anew instead of comparing"
    )


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--regenerate"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The conformance corpora, which are not part of the project."""
    if not CORPUS.is_dir():
        pytest.skip("no conformance corpus beside this checkout (QEMUSHIM_CORPUS)")
    return CORPUS


@pytest.fixture(scope="session")
def qemu() -> str:
    """A real QEMU on this machine."""
    found = shutil.which("qemu-system-x86_64")
    if found is None:
        pytest.skip("needs qemu-system-x86_64 (apt-get install qemu-system-x86)")
    return found


@pytest.fixture(scope="session")
def daemons() -> Iterator[Daemons]:
    """Real libvirtds; every one has to learn first what its QEMUs can do, so that a run has one of each."""
    with ExitStack() as stack:
        yield Daemons(stack)


def children() -> set[int]:
    """Process ids of this process's children, the ended ones that nobody has waited for included."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[1]) == os.getpid():
            found.add(int(entry.parent.name))
    return found
