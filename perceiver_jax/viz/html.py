"""The plain pieces a report is made of: page, tables, pictures, cells.

Arguments named `body` are HTML already; every other one is escaped here.
"""

import base64
from collections.abc import (
  Iterable,
  Sequence,
)
from html import escape
from typing import Any

import numpy as np

from perceiver_jax.viz.text import printable

_CSS = """
:root{color-scheme:light dark;--ground:#fff;--ink:#24292f;--quiet:#5d6672;
--line:#d9dee4;--panel:#f6f8fa;--accent:#2b66b8;--wrong:#b3261e}
@media(prefers-color-scheme:dark){:root{--ground:#14171b;--ink:#d5dae1;
--quiet:#98a2ae;--line:#30363d;--panel:#1c2026;--accent:#7fb0f0;
--wrong:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);overflow-wrap:anywhere;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:48rem;margin:0 auto;padding:2.5rem 1rem 4rem}
h1,h2{font-size:1.1rem;font-weight:600;margin:0}
h2{margin:3rem 0 .75rem}
p{margin:.5rem 0}
.quiet{color:var(--quiet);font-size:.875rem;font-weight:400}
.headline{margin:1.25rem 0 0;font-size:3.5rem;font-weight:650;line-height:1.1;
letter-spacing:-.02em}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));
gap:1rem;margin:1.75rem 0 0;padding:1rem 0 0;border-top:1px solid var(--line)}
.facts dt{color:var(--quiet);font-size:.8125rem}
.facts dd{margin:0;font-variant-numeric:tabular-nums}
.notes{margin:1.5rem 0 0;padding:.75rem 1rem .75rem 2rem;font-size:.9375rem;
background:var(--panel);border-radius:6px}
.columns{display:grid;gap:1.25rem;align-items:start;
grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr))}
.charts img,.matrix img{width:100%;height:auto;display:block}
.charts img{max-width:26rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;width:100%;
font-variant-numeric:tabular-nums;margin-bottom:1rem}
caption{text-align:left;color:var(--quiet);padding:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem 0 .3rem .75rem;
border-bottom:1px solid var(--line);font-weight:400}
th:first-child{padding-left:0}
td,thead th{overflow-wrap:break-word}
.code td{overflow-wrap:anywhere}
thead th,tfoot th,tfoot td{font-weight:600}
.number{text-align:right;white-space:nowrap}
.code tbody{font:.8125rem/1.5 ui-monospace,Menlo,Consolas,monospace}
.code tbody th{min-width:7.5rem}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(3,1fr)}
@media(max-width:40rem){.cards{grid-template-columns:1fr 1fr;gap:.5rem}}
figure{margin:0;border:1px solid var(--line);border-radius:6px;overflow:hidden}
.wrong{border-color:var(--wrong)}
.wrong strong{color:var(--wrong)}
.filling{font-family:ui-monospace,monospace;font-size:.8125rem;
white-space:pre-wrap;overflow-wrap:anywhere}
.filling ins{color:var(--accent);font-weight:600;text-decoration:none}
.filling del{color:var(--wrong)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:2px}
.pair img{width:100%;aspect-ratio:1;object-fit:contain;display:block}
figure video,figure audio{width:100%;display:block}
figure>.quiet{margin:.25rem .75rem}
.pixels{image-rendering:pixelated}
figcaption{padding:.5rem .75rem;font-size:.875rem}
details{border-top:1px solid var(--line);margin-top:1.5rem}
summary{cursor:pointer;padding:.75rem 0 .25rem;font-weight:600}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
"""


def page(title: str, body: str) -> str:
  """A whole HTML page that loads nothing from elsewhere."""
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{text(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
    f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
  )


def text(content: Any) -> str:
  """Escaped text, fit for content and for quoted attributes."""
  return escape(printable(str(content)))


def value(content: Any) -> str:
  """Numbers rounded and with thousands set off, anything else as text."""
  if isinstance(content, bool | np.bool_):
    return "yes" if content else "no"
  if isinstance(content, int | np.integer):
    return f"{content:,}"
  if isinstance(content, float | np.floating):
    return f"{content:.4g}"
  return text(content)


def table(
  head: Sequence[str],
  rows: Iterable[Sequence[Any]],
  *,
  caption: str = "",
  numbers: Sequence[int] = (),
  foot: Sequence[Any] = (),
  code: bool = False,
) -> str:
  """A table whose rows start with their headers.

  Args:
    head: the columns' titles.
    rows: a cell a column, numbers or text.
    caption: a line above the table; '' for none.
    numbers: which columns are flushed right.
    foot: a last row that sums up; () for none.
    code: whether the cells are things to type, set in a code font.
  """
  column, row = 'th scope="col"', 'th scope="row"'
  body = "".join(_row(cells, numbers, row, "td") for cells in rows)
  return (
    f'<div class="wide"><table{_class("code" if code else "")}>\n'
    + (f"<caption>{text(caption)}</caption>\n" if caption else "")
    + f"<thead>{_row(head, numbers, column, column)}</thead>\n"
    + f"<tbody>\n{body}</tbody>\n"
    + (f"<tfoot>{_row(foot, numbers, row, 'td')}</tfoot>\n" if foot else "")
    + "</table></div>\n"
  )


def details(title: str, remark: str, body: str) -> str:
  """A part that is folded until the reader opens it."""
  return (
    f'<details>\n<summary>{text(title)} <span class="quiet">{text(remark)}'
    f"</span></summary>\n{body}</details>\n"
  )


def image(file: bytes, kind: str, alt: str, css_class: str = "") -> str:
  """A picture inside the page.

  Args:
    file: the bytes of the image file.
    kind: what follows `image/` in its media type: 'png', 'svg+xml'.
    alt: what it shows, for readers who cannot see it.
    css_class: a class of the page's style; '' for none.
  """
  source = f"data:image/{kind};base64,{base64.b64encode(file).decode()}"
  return f'<img{_class(css_class)} alt="{text(alt)}" src="{source}">\n'


def _row(
  cells: Sequence[Any], numbers: Sequence[int], first: str, rest: str
) -> str:
  """A row whose first cell and other cells are of the given kinds."""
  parts = []
  for place, cell in enumerate(cells):
    kind = rest if place else first
    flush = _class("number" if place in numbers else "")
    parts.append(f"<{kind}{flush}>{value(cell)}</{kind[:2]}>")
  return f"<tr>{''.join(parts)}</tr>\n"


def _class(name: str) -> str:
  return f' class="{name}"' if name else ""
