"""Every refused fragment is refused in libvirt's words, and with a hint.  ``--regenerate`` writes the files anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.refusals import files, read, write


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_refused(path: Path, regenerate: bool) -> None:
    cases = list(read(path))
    assert cases, path
    judged = [case.judged() for case in cases]
    if regenerate:
        write(path, judged)
    for case, now in zip(cases, judged, strict=True):
        assert str(now) == str(case) or regenerate, case.document
        assert now.message, f"accepted: {case.document}"
        assert now.hint, f"no hint: {case.document}"
