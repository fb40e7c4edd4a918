"""Every golden case gives what is on file.  ``pytest --regenerate`` writes the files anew: look at the diff."""

from __future__ import annotations

import difflib

import pytest

from tests.goldens import GOLDEN, Golden, cases

CASES = cases()
KINDS = ("args", "xml", "err")


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_golden(case: Golden, regenerate: bool) -> None:
    results = case.results()
    for kind in KINDS:
        file = case.file(kind)
        if regenerate:
            if kind in results:
                file.write_text(results[kind])
            else:
                file.unlink(missing_ok=True)
            continue
        want = file.read_text() if file.exists() else ""
        got = results.get(kind, "")
        diff = difflib.unified_diff(want.splitlines(True), got.splitlines(True), file.name, "now")
        assert want == got, "".join(diff)


def test_no_result_without_a_case() -> None:
    known = {case.file(kind).name for case in CASES for kind in KINDS} | {case.path.name for case in CASES}
    stray = [p.name for p in GOLDEN.iterdir() if p.is_file() and p.name not in known]
    assert not stray


def test_every_definition_is_final() -> None:
    """define ∘ define = define, on every golden definition."""
    from qemushim.emulator.bundled import find
    from qemushim.guest import Guest

    for case in CASES:
        file = case.file("xml")
        if file.exists():
            emulator = find(case.emulator, case.arch)
            again = Guest.from_xml(file.read_bytes()).define(emulator, case.host(emulator.arch), update=False)
            assert again.to_xml() == file.read_text(), case.id
