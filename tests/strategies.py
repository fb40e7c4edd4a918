"""Whole domain documents as hypothesis strategies: of the declared fields of every element, or golden ones mutated."""

from __future__ import annotations

from functools import cache
from random import Random

from hypothesis import strategies as st

from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from tests.goldens import GOLDEN
from tools import documents


@cache
def inputs() -> list[Node]:
    return documents.load([GOLDEN])


@cache
def seen() -> documents.Seen:
    return documents.survey(inputs())


@st.composite
def declared_domains(draw: st.DrawFn) -> tuple[str, Emulator]:
    """A document made from the declared fields, and the emulator that it is for."""
    random = draw(st.randoms(use_true_random=False))
    root, emulator = _maker(random).domain()
    return documents.text(root), emulator


@st.composite
def mutated_domains(draw: st.DrawFn) -> tuple[str, Emulator]:
    """A golden document with something dropped, doubled, in another order, swapped, changed or added."""
    random = draw(st.randoms(use_true_random=False))
    root = _maker(random).mutated()
    return documents.text(root), documents.emulator_of(root, random)


def _maker(random: Random) -> documents.Maker:
    return documents.Maker(random, inputs(), seen(), chance=random.choice((0.08, 0.2, 0.35)))


domains = declared_domains() | mutated_domains()
