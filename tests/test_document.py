"""Reading and writing documents: bounded, exact about lines, and nothing that was given is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.document import parse as parsing
from qemushim.document.fields import Choice, Hex, Integer, Many, One, OnOff, Present, Switch, Text, Unsigned
from qemushim.document.item import Item, Tail, check
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.document.sizes import Size
from qemushim.document.units import format_set, parse_integer, parse_set, to_kib
from qemushim.document.writer import escape, keep, write
from qemushim.errors import ConfigError


class Base(Item):
    alias = Text("alias/@name")


class Leaf(Item):
    tag = "leaf"
    name = Text("@name", required=True)
    words = Text(".")


class Lamp(Base):
    tag = "lamp"
    model = Choice("@model", ("old", "new"), "old")
    power = Integer("@power")
    level = Unsigned("@level")
    port = Hex("@port", 4)
    on = OnOff("driver/@on")
    wired = Switch("driver/@wired")
    size = Size("size")
    lit = Present("lit")
    leaf = One("leaf", Leaf)
    tail = Tail()
    leaves = Many("leaves/leaf", Leaf)


def lamp(text: str) -> Lamp:
    return Lamp(parse(text))


def test_fields_read_typed_values() -> None:
    item = lamp(
        "<lamp model='new' power='-3' level='7' port='0x1a'><driver on='off' wired='yes'/><size unit='MiB'>2</size>"
        "<lit/><leaf name='a'>green</leaf></lamp>"
    )
    assert (item.model, item.power, item.level, item.port) == ("new", -3, 7, 26)
    assert (item.on, item.wired, item.size, item.lit) == (False, True, 2048, True)
    assert item.leaf is not None
    assert (item.leaf.name, item.leaf.words) == ("a", "green")
    assert lamp("<lamp/>").model == "old"


def test_fields_write_canonical_text() -> None:
    item = lamp("<lamp/>")
    item.port, item.on, item.size, item.lit, item.model = 26, True, 1024, True, "new"
    assert write(item.node, Lamp.schema) == (
        "<lamp model='new' port='0x001a'>\n  <driver on='on'/>\n  <size unit='KiB'>1024</size>\n  <lit/>\n</lamp>\n"
    )
    item.port = item.on = item.size = item.lit = None
    assert write(item.node, Lamp.schema) == "<lamp model='new'/>\n"


def test_writing_order_is_declaration_order_and_the_tail_stands_where_it_is_marked() -> None:
    item = lamp(
        "<lamp><leaves><leaf name='x'/></leaves><alias name='ua-1'/><lit/><strange/><driver on='on' odd='1'/></lamp>"
    )
    assert write(item.node, Lamp.schema) == (
        "<lamp>\n  <driver on='on'/>\n  <lit/>\n  <alias name='ua-1'/>\n  <leaves>\n    <leaf name='x'/>\n"
        "  </leaves>\n</lamp>\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<lamp model='red'/>", "XML error: Invalid value for attribute 'model' in element 'lamp': 'red'."),
        (
            "<lamp power='x'/>",
            "XML error: Invalid value for attribute 'power' in element 'lamp': 'x'. Expected integer value",
        ),
        (
            "<lamp level='-1'/>",
            "XML error: Invalid value for attribute 'level' in element 'lamp': '-1'. "
            "Expected non-negative integer value",
        ),
        ("<lamp>\n<leaf/></lamp>", "XML error: Missing required attribute 'name' in element 'leaf'"),
    ],
)
def test_wrong_values_are_refused_at_their_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(parse(text), Lamp.schema)
    assert caught.value.message == message
    assert caught.value.line == 1 + text.count("\n")


def test_lines_and_comments_survive() -> None:
    text = "<a>\n  <!-- why -->\n  <b x='1'/>\n  tail\n</a>"
    root = parse(text)
    assert [n.line for n in root.children] == [2, 3]
    assert keep(root) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "empty"),
        (b"   \n", "empty"),
        (b"\x00\x01\x7fELF", "."),
        (b"hello", "expected"),
        (b"<a><b></a>", "mismatch"),
        (b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "document type"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "document type"),
        (b"<a>&undefined;</a>", "undefined"),
        ("<a>\udc80</a>".encode("utf-8", "surrogatepass"), "UTF-8|encod|token"),
    ],
)
def test_what_is_no_document_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(text, "x.xml")


def test_malformed_text_is_shown_with_its_place() -> None:
    with pytest.raises(parsing.MalformedError) as caught:
        parse(b"<domain>\n  <name\n</domain>", "x.xml")
    assert caught.value.where == "x.xml:3: "
    assert caught.value.context.splitlines()[-1].endswith("^")


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="nested deeper"):
        parse("<a>" * 100_000)
    monkeypatch.setattr(parsing, "MAX_ELEMENTS", 10)
    with pytest.raises(ConfigError, match="more than 10 elements"):
        parse("<a>" + "<b/>" * 11 + "</a>")
    monkeypatch.setattr(parsing, "MAX_BYTES", 10)
    with pytest.raises(ConfigError, match="larger than 10"):
        parse("<a>          </a>")


def test_qemu_namespace_by_any_prefix() -> None:
    uri = "http://libvirt.org/schemas/domain/qemu/1.0"
    for prefix in ("qemu", "q"):
        root = parse(f"<domain xmlns:{prefix}='{uri}'><{prefix}:commandline/></domain>")
        assert root.children[0].tag == "qemu:commandline"
    assert (
        parse("<domain xmlns:qemu='urn:other'><qemu:commandline/></domain>").children[0].tag
        != "qemu:commandline"
    )


xml_text = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cn"))).filter(
    lambda s: "￾" not in s and "￿" not in s
)


@given(xml_text, xml_text)
def test_any_text_comes_back(attribute: str, words: str) -> None:
    node = Node("leaf", {"name": attribute}, text=words)
    written = parse(write(node, Leaf.schema))
    assert written.attrib["name"] == attribute
    assert parse(keep(node)).text == words


@given(st.text())
def test_escape_leaves_no_markup(text: str) -> None:
    assert not set("<>'\"") & set(escape(text))


@given(st.sets(st.integers(0, 300), min_size=1))
def test_sets_round_trip(numbers: set[int]) -> None:
    assert parse_set(format_set(numbers)) == sorted(numbers)


def test_sets() -> None:
    assert parse_set("0-3,^2,8") == [0, 1, 3, 8]
    for wrong in ("", "a", "3-1", "1,,2", "-1", "0-99999999"):
        with pytest.raises(ValueError):
            parse_set(wrong)


def test_units() -> None:
    assert to_kib("1", "GiB") == 1048576
    assert to_kib("1000", "b") == 1
    assert to_kib("1", "KB") == 1
    assert to_kib("3", "GB") == 2929688
    with pytest.raises(ValueError):
        to_kib("1", "parsec")
    for wrong in ("", "x", "1x", "9" * 10_000, "1_000", "٣"):
        with pytest.raises(ValueError):
            parse_integer(wrong)
