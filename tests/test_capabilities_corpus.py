"""What is said of every recorded emulator, against libvirt's own words (``tools/conformance_capabilities.py``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.conformance_capabilities import Comparison, Result


@pytest.fixture(scope="module")
def comparison(corpus: Path) -> Comparison:
    if not (corpus / "modern" / "domaincapsdata").is_dir():
        pytest.skip("the conformance corpus has no domain capabilities")
    return Comparison(corpus / "modern")


def differing(results: list[Result]) -> list[str]:
    return [result.name for result in results if not (result.equal and result.same_text)]


def test_flags(comparison: Comparison) -> None:
    results = list(comparison.flags())
    assert len(results) >= 29
    assert differing(results) == []


def test_host_cpus_models_and_machine_types(comparison: Comparison) -> None:
    assert differing(list(comparison.data())) == []


def test_capabilities(comparison: Comparison) -> None:
    results = list(comparison.caps())
    assert len({result.name.split()[0] for result in results}) >= 13
    assert differing(results) == []


def test_domain_capabilities(comparison: Comparison) -> None:
    results = list(comparison.domcaps())
    assert len(results) >= 59
    assert differing(results) == []
