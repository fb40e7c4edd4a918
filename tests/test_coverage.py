"""Every declared field is in some golden document: what is never tried is never right."""

from __future__ import annotations

from tests.coverage import EXCUSED, never_exercised


def test_every_declared_field_is_exercised() -> None:
    missing = [path for path in never_exercised() if path not in EXCUSED]
    assert not missing, "give these a value in a document of golden/"


def test_nothing_is_excused_that_is_exercised() -> None:
    assert set(EXCUSED) <= set(never_exercised()), "exercised after all: no excuse is needed"


def test_every_excuse_has_a_reason() -> None:
    assert all(EXCUSED.values())
