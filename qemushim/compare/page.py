"""The findings of an audit as one HTML page: no script, no other file; light and dark, for eyes and screen readers."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from qemushim.compare.audit import Finding
from qemushim.compare.layout import describe
from qemushim.compare.verdict import Line, Verdict

#: verdict → (class, sign that tells it without colour, heading)
_LOOKS: dict[Verdict | None, tuple[str, str, str]] = {
    Verdict.REFUSED: ("refused", "✖", "Will not start"),
    None: ("unknown", "?", "Not compared"),
    Verdict.VISIBLE: ("visible", "▲", "The guest sees it"),
    Verdict.INVISIBLE: ("invisible", "●", "Invisible to the guest"),
    Verdict.SAME: ("same", "✔", "Same"),
}

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2128; --soft: #57606a; --line: #d0d7de; --raised: #f6f8fa;
  --refused: #a40e26; --visible: #7d4e00; --invisible: #0550ae; --same: #116329; --unknown: #6e40aa; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --text: #e6edf3; --soft: #9ea7b3; --line: #30363d;
  --raised: #161b22; --refused: #ff8a80; --visible: #e3b341; --invisible: #79c0ff; --same: #7ee787;
  --unknown: #d2a8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1.5rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p.lead { color: var(--soft); margin: .3rem 0 1.2rem; }
ul.counts { display: flex; flex-wrap: wrap; gap: .8rem; list-style: none; margin: 0; padding: 0; }
ul.counts li { flex: 1 1 11rem; border: 1px solid var(--line); border-radius: .5rem; background: var(--raised); }
ul.counts a { display: block; padding: .7rem 1rem; color: inherit; text-decoration: none; }
ul.counts a:hover { text-decoration: underline; }
ul.counts b { display: block; font-size: 1.8rem; line-height: 1.2; }
a:focus-visible, summary:focus-visible { outline: 3px solid var(--invisible); outline-offset: 2px; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; min-width: 46rem; }
col.who { width: 17rem; } col.board { width: 10rem; } col.qemu { width: 8rem; }
tbody th, td { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--raised); white-space: nowrap; }
tbody th { font-weight: 600; }
summary { cursor: pointer; }
dl { margin: .5rem 0 0; } dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1.2rem; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.refused { color: var(--refused); } .visible { color: var(--visible); } .invisible { color: var(--invisible); }
.same { color: var(--same); } .unknown { color: var(--unknown); }
@media print { details > * { display: block; } }
"""


def page(findings: list[Finding], title: str) -> str:
    """The page; worst first, the rest in the order of the findings."""
    groups = {verdict: [f for f in findings if f.verdict is verdict] for verdict in _LOOKS}
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style></head>",
        f"<body><header><h1>{escape(title)}</h1>",
        f'<p class="lead">{_guests(len(findings))}, by what each notices of the new QEMU.</p></header>',
        '<nav aria-label="Verdicts"><ul class="counts">',
        *(_count(verdict, len(group)) for verdict, group in groups.items()),
        "</ul></nav><main>",
        *(_table(verdict, group) for verdict, group in groups.items() if group),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _guests(number: int) -> str:
    return "1 guest" if number == 1 else f"{number} guests"


def _count(verdict: Verdict | None, number: int) -> str:
    name, sign, heading = _LOOKS[verdict]
    inner = f'<b>{number}</b><span class="{name}"><span aria-hidden="true">{sign}</span> {heading}</span>'
    # nothing to go to where there are none
    link = f'<a href="#{name}">{inner}</a>' if number else f"<a>{inner}</a>"
    return f"<li>{link}</li>"


def _table(verdict: Verdict | None, group: list[Finding]) -> str:
    name, sign, heading = _LOOKS[verdict]
    return "\n".join(
        [
            f'<section aria-labelledby="{name}"><h2 id="{name}" class="{name}">'
            f'<span aria-hidden="true">{sign}</span> {heading}</h2>',
            f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">',
            f"<table><caption>{_guests(len(group))}</caption>",
            "<colgroup><col class='who'><col class='board'><col class='qemu'><col></colgroup>",
            '<thead><tr><th scope="col">Guest</th><th scope="col">Machine type</th><th scope="col">QEMU</th>'
            '<th scope="col">What</th></tr></thead><tbody>',
            *(_row(finding) for finding in group),
            "</tbody></table></div></section>",
        ]
    )


def _row(finding: Finding) -> str:
    title = escape(finding.name or finding.file)
    machine = (
        f"<code>{escape(finding.machine)}</code>"
        if finding.machine
        else '<span class="soft">not named</span>'
    )
    return (
        f'<tr><th scope="row">{title}<br><span class="soft"><code>{escape(finding.file)}</code></span></th>'
        f"<td>{machine}</td><td>{escape(finding.old)} → {escape(finding.new)}</td>"
        f"<td>{_what(finding)}</td></tr>"
    )


def _what(finding: Finding) -> str:
    summary = escape(finding.summary)
    comparison = finding.comparison
    if comparison is None:
        return summary
    if finding.verdict is Verdict.REFUSED:
        hints = [escape(change.consequence) for line in comparison.lines for change in line.changes]
        return "<br>".join([summary, *(f'<span class="soft">hint: {hint}</span>' for hint in hints if hint)])
    entries = [entry for line in comparison.different for entry in _entries(line)]
    if comparison.libvirt:
        entries.append("<dt>libvirt would not migrate</dt>")
        entries += [f"<dd>{escape(message)}</dd>" for message in comparison.libvirt]
    if comparison.notes:
        entries.append("<dt>Notes</dt>")
        entries += [f"<dd>{escape(note)}</dd>" for note in comparison.notes]
    if comparison.host:
        entries.append("<dt>On the host's side of the command line</dt>")
        entries += [f"<dd><code>{escape(line)}</code></dd>" for line in comparison.host]
    if not entries:
        return '<span class="soft">nothing differs</span>'
    head = summary or "only the host's side, or notes"
    return f"<details><summary>{head}</summary><dl>{''.join(entries)}</dl></details>"


def _entries(line: Line) -> Iterator[str]:
    name, _, _ = _LOOKS[line.verdict]
    yield f'<dt>{escape(line.part)} <span class="{name}">{line.verdict.text}</span></dt>'
    for change in line.changes:
        yield f"<dd><code>{escape(describe(change))}</code></dd>"
    for meaning in dict.fromkeys(change.consequence for change in line.changes if change.consequence):
        yield f'<dd class="soft">{escape(meaning)}</dd>'


__all__ = ["page"]
