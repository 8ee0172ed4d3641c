"""Render report blocks as one HTML page that needs nothing beside itself: no network, no scripts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from urllib.parse import quote

from etfhead.experiment.report.document import (
    Block,
    Bullets,
    Code,
    Figure,
    Heading,
    Links,
    Paragraph,
    Table,
    Verdict,
)

__all__ = ["render_html"]

# The policy makes the browser itself refuse anything from outside, should a name ever slip past escaping.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")

_STYLE = """\
:root {
  --page: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --stripe: #f6f8fa; --box: #f6f8fa;
  --helped: #1a7f5a; --hurt: #c2410c; --even: #0072b2; --open: #8a6d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181d; --ink: #e4e8ec; --soft: #9aa5b1; --line: #343b44; --stripe: #1b2027; --box: #1d232b;
    --helped: #4cc38a; --hurt: #ff8b5e; --even: #5eb0ef; --open: #e2b93b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0 1rem; overflow-wrap: anywhere; }
h2 {
  font-size: 1.2rem; margin: 2.4rem 0 0.6rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--line);
}
h3 { font-size: 1rem; margin: 1.6rem 0 0.4rem; }
p, li { max-width: 48rem; overflow-wrap: anywhere; }
p { margin: 0.6rem 0; }
ul { margin: 0.6rem 0; padding-left: 1.3rem; }
li { margin: 0.25rem 0; }
a { color: var(--even); }
.verdict {
  max-width: none; margin: 1rem 0; padding: 0.9rem 1.1rem; background: var(--box);
  border-left: 5px solid var(--soft); border-radius: 4px; font-size: 1.1rem; font-weight: 600;
}
.verdict.helped { border-color: var(--helped); }
.verdict.hurt { border-color: var(--hurt); }
.verdict.no_measurable_difference { border-color: var(--even); }
.scroll { overflow-x: auto; margin: 0.8rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: 0.35rem 0.75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
}
th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
tbody th { color: var(--ink); white-space: nowrap; }
td.left, th.left { text-align: left; }
td.wide { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
tbody tr:nth-child(even) { background: var(--stripe); }
figure { margin: 1.2rem 0 1.8rem; }
img {
  display: block; max-width: 100%; height: auto;
  background: #fff; border: 1px solid var(--line); border-radius: 6px;
}
figcaption { max-width: 48rem; margin-top: 0.4rem; color: var(--soft); font-size: 0.88rem; }
pre {
  padding: 0.75rem 1rem; background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  font: 0.88rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-x: auto;
}
@media (max-width: 40rem) {
  main { padding: 0.75rem 0.9rem 3rem; }
  th, td { padding: 0.3rem 0.5rem; }
  .verdict { font-size: 1rem; }
}
@page { size: landscape; margin: 12mm; }
@media print {
  :root { --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --stripe: #f4f4f4; --box: #f4f4f4; }
  body { font-size: 10pt; }
  .verdict { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, tr, .verdict { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.15rem 0.35rem; }
}
"""

# Longer cells may break into lines; numbers and names never do.
_LONG = 40


def render_html(blocks: Sequence[Block], title: str, pictures: Mapping[str, bytes]) -> str:
    """A whole page.

    Args:
        blocks: Content, top to bottom.
        title: Title of the browser tab.
        pictures: PNG bytes for every file a figure names; they are embedded.
    """
    body = "\n".join(_render(block, pictures) for block in blocks)
    return _PAGE.substitute(title=escape(title), style=_STYLE, body=body)


def _render(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Verdict(text, outcome):
            return f'<p class="verdict {escape(outcome)}">{escape(text)}</p>'
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"
        case Links(items):
            links = (f'<li><a href="{escape(quote(file))}">{escape(text)}</a></li>' for text, file in items)
            return "<ul>\n" + "\n".join(links) + "\n</ul>"
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Figure(file, alt, caption):
            data = base64.b64encode(pictures[file]).decode("ascii")
            image = f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
            return f"<figure>\n{image}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"
        case Table():
            return _table(block)


def _table(table: Table) -> str:
    header = "".join(
        _cell("th", name, at in table.left, ' scope="col"') for at, name in enumerate(table.header)
    )
    rows = [
        _cell("th", row[0], 0 in table.left, ' scope="row"')
        + "".join(_cell("td", cell, at in table.left) for at, cell in enumerate(row[1:], start=1))
        for row in table.rows
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    # Keyboard users can only scroll what they can focus.
    return (
        f'<div class="scroll" tabindex="0">\n<table>\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _cell(tag: str, text: str, left: bool, scope: str = "") -> str:
    names = " ".join(
        name for name, wanted in (("left", left), ("wide", left and len(text) > _LONG)) if wanted
    )
    style = f' class="{names}"' if names else ""
    return f"<{tag}{scope}{style}>{escape(text)}</{tag}>"
