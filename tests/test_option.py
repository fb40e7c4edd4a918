"""Spelling of options: a value can not break out of its place."""

from __future__ import annotations

import json
import shlex

from hypothesis import given
from hypothesis import strategies as st

from qemushim.command.command import Command
from qemushim.command.layout import data, lines, shell
from qemushim.command.option import Option, key_values, to_json

words = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=30)


def split_key_values(text: str) -> list[str]:
    """As QEMU reads ``key=value,…``: a doubled comma is one of the value."""
    parts, current, i = [], "", 0
    while i < len(text):
        if text[i] == "," and text[i + 1 : i + 2] == ",":
            current += ","
            i += 2
        elif text[i] == ",":
            parts.append(current)
            current = ""
            i += 1
        else:
            current += text[i]
            i += 1
    return [*parts, current]


@given(st.dictionaries(st.sampled_from("abcdef"), words, min_size=1))
def test_key_values_are_read_back_by_qemus_rules(properties: dict[str, str]) -> None:
    parts = split_key_values(key_values(properties, "head"))
    assert parts == ["head", *(f"{key}={value}" for key, value in properties.items())]


@given(st.dictionaries(words, words | st.integers() | st.booleans()))
def test_json_is_read_back(properties: dict[str, str | int | bool]) -> None:
    assert json.loads(to_json(properties)) == properties


def test_spelling() -> None:
    nested = {"on": True, "off": False, "n": 3, "none": None, "o": {"p": "a,b"}, "l": ["x", 2]}
    assert key_values(nested, "dev") == "dev,on=on,off=off,n=3,o.p=a,,b,l.0=x,l.1=2"
    assert to_json({"a": "ü/\n", "b": [True, None]}) == '{"a":"ü/\\n","b":[true,null]}'


@given(st.lists(words), st.dictionaries(st.from_regex(r"\A[A-Z_]+\Z"), words))
def test_shell_text_is_what_a_shell_reads_back(values: list[str], environment: dict[str, str]) -> None:
    command = Command("/usr/bin/qemu", [Option("-x", v) for v in values], environment)
    assert shlex.split(shell(command).replace("\\\n", "")) == command.tokens


def test_layouts() -> None:
    command = Command("/q", [Option("-S"), Option("-name", "a b"), Option("-m", "1")], {"A": "", "B": "x"})
    assert shell(command) == "A='' \\\nB=x \\\n/q \\\n-S \\\n-name 'a b' \\\n-m 1\n"
    assert lines(command) == "A=\nB=x\n/q\n-S\n-name\na b\n-m\n1\n"
    assert json.loads(data(command)) == {
        "environment": {"A": "", "B": "x"},
        "argv": ["/q", "-S", "-name", "a b", "-m", "1"],
    }
