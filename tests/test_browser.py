"""The picture and the report in a real browser: what is seen, in light and dark, and that nothing else is asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from qemushim.compare.audit import Finding, Task, audit
from qemushim.compare.page import page
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.inspect.picture import svg
from qemushim.inspect.survey import survey
from qemushim.inspect.topology import topology
from tests.conftest import ROOT
from tests.small_guests import LATEST, S390, document

#: seconds that the browser has for a page
PATIENCE = 120.0
PORTS = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 21))
CARD = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='{}'/></interface>"
EXPANDERS = (
    "<controller type='pci' index='1' model='pcie-expander-bus'>"
    "<target busNr='180'><node>0</node></target></controller>"
    "<controller type='pci' index='2' model='pcie-root-port'><address type='pci' bus='1' slot='0'/></controller>"
)
CELLS = """<maxMemory slots='16' unit='MiB'>4096</maxMemory>
<cpu><numa><cell id='0' cpus='0' memory='256' unit='MiB'/></numa></cpu>"""
BRIDGES = (
    "<controller type='pci' index='1' model='pci-bridge'/>"
    "<controller type='pci' index='2' model='pci-bridge'><address type='pci' bus='1' slot='1'/></controller>"
    "<hub type='usb'/><input type='tablet' bus='usb'/>"
)
LONG = f"<channel type='unix'><target type='virtio' name='{'org.example.' * 8}'/></channel>"
PICTURES = {
    "small": document(CARD.format("virtio"), machine="pc"),
    "ports": document(PORTS + CARD.format("virtio") + LONG, machine="q35"),
    "expanders": document(EXPANDERS, machine="q35", extra=CELLS),
    "bridges": document(BRIDGES + CARD.format("e1000"), machine="pc"),
    "ccw": document(CARD.format("virtio"), "s390x"),
    "example": (ROOT / "examples" / "web-server.xml").read_text(),
}
#: what a page says of itself: where every text is and in which colours
_LOOK = """
const seen = [];
const colour = text => (text.match(/[\\d.]+/g) || []).map(Number);
function ground(element) {
  for (let e = element; e; e = e.parentElement) {
    const found = colour(getComputedStyle(e).backgroundColor);
    if (found.length === 3 || found[3] > 0) return found.slice(0, 3);
  }
  return [255, 255, 255];
}
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, element = node.parentElement;
  if (!node.data.trim() || ['SCRIPT', 'STYLE', 'style', 'title', 'desc'].includes(element.tagName)) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  const box = range.getBoundingClientRect(), style = getComputedStyle(element), drawn = element.closest('svg');
  if (!box.width) continue;
  seen.push({text: node.data, x: box.x, y: box.y, width: box.width, height: box.height,
    ink: colour(drawn ? style.fill : style.color).slice(0, 3),
    paper: drawn ? colour(getComputedStyle(drawn.querySelector('.paper')).fill).slice(0, 3) : ground(element)});
}
const rooms = [...document.querySelectorAll('rect.room, rect.port')].map(r => {
  const b = r.getBoundingClientRect();
  return {x: b.x, y: b.y, width: b.width, height: b.height, port: r.classList.contains('port')};
});
document.body.setAttribute('data-seen', JSON.stringify({seen, rooms, width: document.documentElement.scrollWidth,
  asked: performance.getEntriesByType('resource').map(entry => entry.name),
  view: innerWidth, dark: matchMedia('(prefers-color-scheme: dark)').matches}));
"""


@pytest.fixture(scope="session")
def browser() -> str:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    return found


def look(browser: str, html: str, folder: Path, *, dark: bool, width: int = 1280) -> dict[str, Any]:
    """What the page looks like; fails where the browser asks anybody for anything."""
    path = folder / "page.html"
    path.write_text(html.replace("</body>", f"<script>{_LOOK}</script></body>"))
    scheme = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--disable-dev-shm-usage", "--disable-component-update", "--no-first-run", "--disable-sync"),
            # what the browser would ask for on its own it does not find
            "--host-resolver-rules=MAP * ~NOTFOUND",
            *(f"--user-data-dir={folder}/profile", f"--window-size={width},900", *scheme),
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, "HOME": str(folder)},
    )
    found = re.search(r'data-seen="([^"]*)"', done.stdout.decode())
    assert found is not None, done.stderr.decode()[-2000:]
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    assert seen["dark"] == dark
    assert seen["asked"] == [], "the page asks for something else"
    return seen


def contrast(one: list[float], other: list[float]) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""

    def light(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def overlap(one: dict[str, float], other: dict[str, float], slack: float = 1.5) -> bool:
    return (
        one["x"] + one["width"] - slack > other["x"]
        and other["x"] + other["width"] - slack > one["x"]
        and one["y"] + one["height"] - slack > other["y"]
        and other["y"] + other["height"] - slack > one["y"]
    )


def readable(seen: dict[str, Any]) -> None:
    for text in seen["seen"]:
        assert contrast(text["ink"], text["paper"]) >= 4.5, text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pictures(browser: str, tmp_path: Path, dark: bool) -> None:
    for name, text in PICTURES.items():
        emulator = S390 if name == "ccw" else LATEST
        drawn = svg(topology(survey(Guest.from_xml(text), emulator, Host.nominal(emulator.arch))))
        folder = tmp_path / name
        folder.mkdir()
        html = f"<!DOCTYPE html><html><body style='margin:0'>{drawn}</body></html>"
        seen = look(browser, html, folder, dark=dark, width=4000)
        readable(seen)
        texts = seen["seen"]
        for number, one in enumerate(texts):
            assert one["x"] + one["width"] <= seen["width"], (name, one)
            for other in texts[:number]:
                assert not overlap(one, other), (name, one["text"], other["text"])
        rooms = [room for room in seen["rooms"] if not room["port"]]
        for text_ in texts:
            # a text that begins in a room ends there
            for room in rooms:
                if overlap(text_, room):
                    assert text_["x"] + text_["width"] <= room["x"] + room["width"] + 1, (name, text_)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_report(browser: str, tmp_path: Path, dark: bool) -> None:
    texts = {
        "same": document("", machine="pc-q35-10.0"),
        "refused": document("", machine="pc-0.12"),
        "old <b>": document(CARD.format("virtio"), machine="pc-q35-7.1").replace(
            "<name>g", f"<name>{escape('old <b>')}"
        ),
        "long": document("", machine="pc-q35-7.1").replace("<name>g", f"<name>{'a-long-name-' * 12}"),
    }
    tasks = [Task(f"/srv/guests/{name}.xml", text.encode(), "10.0") for name, text in texts.items()]
    unknown = Finding("/srv/guests/u.xml", "", "", "6.2", "10.0", problem="no QEMU '6.2' is known")
    # opened, so that everything in it is looked at
    html = page([*audit(tasks), unknown], "The fleet on QEMU 10.0").replace("<details>", "<details open>")
    for width in (1280, 480):
        folder = tmp_path / str(width)
        folder.mkdir()
        seen = look(browser, html, folder, dark=dark, width=width)
        readable(seen)
        assert seen["width"] <= seen["view"], "the page is wider than the window"
        said = " ".join(text["text"] for text in seen["seen"])
        for words in ("Will not start", "Not compared", "Same", "old <b>", "no QEMU '6.2' is known"):
            assert words in said
