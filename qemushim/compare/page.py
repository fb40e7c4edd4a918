"""The findings of an audit as one HTML page: no script, no other file, light and dark, for eyes and for screen readers."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from qemushim.compare.audit import Finding
from qemushim.compare.layout import describe
from qemushim.compare.verdict import Line, Verdict

#: verdict → (class, sign that tells it without colour, heading)
_LOOKS = {
    Verdict.REFUSED: ("refused", "✖", "Will not start"),
    Verdict.VISIBLE: ("visible", "▲", "The guest sees it"),
    Verdict.INVISIBLE: ("invisible", "●", "Invisible to the guest"),
    Verdict.SAME: ("same", "✔", "Same"),
}

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c2128; --soft: #57606a; --line: #d0d7de; --raised: #f6f8fa;
  --refused: #a40e26; --visible: #7d4e00; --invisible: #0550ae; --same: #116329; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --text: #e6edf3; --soft: #9ea7b3; --line: #30363d;
  --raised: #161b22; --refused: #ff8a80; --visible: #e3b341; --invisible: #79c0ff; --same: #7ee787; } }
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
table { border-collapse: collapse; width: 100%; }
.scroll { overflow-x: auto; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .5rem .7rem; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--raised); white-space: nowrap; }
tbody th { font-weight: 600; }
td.words { overflow-wrap: anywhere; }
summary { cursor: pointer; }
dl { margin: .5rem 0 0; } dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1.2rem; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.refused { color: var(--refused); } .visible { color: var(--visible); } .invisible { color: var(--invisible); }
.same { color: var(--same); }
@media print { details > * { display: block; } }
"""


def page(findings: list[Finding], title: str) -> str:
    """The page; worst first, the rest in the order of the findings."""
    groups = {verdict: [f for f in findings if f.verdict is verdict] for verdict in _LOOKS}
    count = "one guest" if len(findings) == 1 else f"{len(findings)} guests"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style></head>",
        f"<body><header><h1>{escape(title)}</h1>",
        f'<p class="lead">{count}, by what each notices of the new QEMU.</p></header>',
        '<nav aria-label="Verdicts"><ul class="counts">',
        *(_count(verdict, len(group)) for verdict, group in groups.items()),
        "</ul></nav><main>",
        *(_table(verdict, group) for verdict, group in groups.items() if group),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _count(verdict: Verdict, number: int) -> str:
    name, sign, heading = _LOOKS[verdict]
    inner = f'<b>{number}</b><span class="{name}"><span aria-hidden="true">{sign}</span> {heading}</span>'
    # nothing to go to where there are none
    link = f'<a href="#{name}">{inner}</a>' if number else f"<a>{inner}</a>"
    return f"<li>{link}</li>"


def _table(verdict: Verdict, group: list[Finding]) -> str:
    name, sign, heading = _LOOKS[verdict]
    return "\n".join(
        [
            f'<section aria-labelledby="{name}"><h2 id="{name}" class="{name}">'
            f'<span aria-hidden="true">{sign}</span> {heading}</h2>',
            f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{name}">',
            f"<table><caption>{len(group)} of them</caption>",
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
        f'<td class="words">{_what(finding)}</td></tr>'
    )


def _what(finding: Finding) -> str:
    summary = escape(finding.summary)
    comparison = finding.comparison
    if comparison is None:
        return f"{summary} <span class='soft'>(with the old QEMU already)</span>"
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
        if line.verdict is not Verdict.REFUSED:
            yield f"<dd><code>{escape(describe(change))}</code></dd>"
        else:
            yield f"<dd>{escape(change.new or '')}</dd>"
    for meaning in dict.fromkeys(change.consequence for change in line.changes if change.consequence):
        yield f'<dd class="soft">{escape(meaning)}</dd>'


__all__ = ["page"]
