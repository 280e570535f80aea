"""Rendering of the run report's templates, which are in `templates/`.

Templates escape everything that they print, except for Markup.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from perceiver_jax.viz.image_layout import png_bytes
from perceiver_jax.viz.text import printable


class Table(NamedTuple):
  """A table whose rows start with a header cell.

  Attributes:
    head: titles of the columns.
    rows: one cell per column: numbers or text.
    caption: text above the table; "" for none.
    numbers: indices of the columns to align to the right.
    foot: a last row with totals; () for none.
    code: whether to use a monospaced font.
  """

  head: Sequence[str]
  rows: Iterable[Sequence[Any]]
  caption: str = ""
  numbers: Sequence[int] = ()
  foot: Sequence[Any] = ()
  code: bool = False


def render(template: str, **values: Any) -> Markup:
  """Renders a template.

  Args:
    template: file name without ".html.j2".
    **values: the template's variables.

  Returns:
    HTML that other templates print without escaping it again.
  """
  return Markup(
    _ENVIRONMENT.get_template(f"{template}.html.j2").render(**values)
  )


def tables(*items: Table) -> Markup:
  """Renders tables one below the other."""
  return render("tables", tables=items)


def format_value(value: Any) -> str:
  """Formats a value for people: numbers rounded, text made printable."""
  if isinstance(value, bool | np.bool_):
    return "yes" if value else "no"
  if isinstance(value, int | np.integer):
    return f"{value:,}"
  if isinstance(value, float | np.floating):
    # Four digits would give large numbers an exponent; 9,999.5 rounds up.
    if 9_999.5 <= abs(value) < 1e15:
      return f"{value:,.0f}"
    return f"{value:.4g}"
  return value if isinstance(value, Markup) else printable(str(value))


def data_url(file: bytes, media_type: str) -> str:
  """Returns a `data:` URL, which embeds a file in the page."""
  return f"data:{media_type};base64,{base64.b64encode(file).decode()}"


_ENVIRONMENT = jinja2.Environment(
  loader=jinja2.PackageLoader("perceiver_jax.viz"),
  autoescape=True,
  finalize=format_value,
  undefined=jinja2.StrictUndefined,
  trim_blocks=True,
  lstrip_blocks=True,
)
_ENVIRONMENT.filters["data_url"] = data_url
_ENVIRONMENT.filters["png"] = lambda x: data_url(png_bytes(x), "image/png")
_ENVIRONMENT.filters["svg"] = lambda x: data_url(x, "image/svg+xml")
