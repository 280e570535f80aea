"""Puts the papers' rows and our results together, and renders them."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables
from perceiver_jax.viz import html
from scripts.paper_tables import cells, costs, runs

_TEMPLATES = Path(__file__).parent / "templates"


class Column(NamedTuple):
  """A metric of a table, and whether there is a column of ours beside it."""

  title: str
  compared: bool


class Line(NamedTuple):
  """A row of a table, with what the library computes and its commands."""

  name: str
  cells: tuple[cells.Cell, ...]
  parameters: float | None
  flops: float | None
  label: str
  commands: tuple[str, ...]
  note: str


class Table(NamedTuple):
  """A table; `computed` tells whether parameters and operations are added."""

  source: str
  title: str
  columns: tuple[Column, ...]
  lines: tuple[Line, ...]
  computed: bool

  @property
  def paper(self) -> str:
    """Returns the paper with its version."""
    return self.source.partition(", ")[0]

  @property
  def number(self) -> str:
    """Returns the number of the table."""
    return self.source.partition(", ")[2]

  @property
  def anchor(self) -> str:
    """Returns the name of the table in links."""
    return "".join(c if c.isalnum() else "-" for c in self.source.lower())


class Other(NamedTuple):
  """A run or evaluation that is not in the papers' tables."""

  name: str
  link: str
  task: str
  metrics: str
  nearest: str
  differences: tuple[str, ...]


class Coverage(NamedTuple):
  """Numbers of rows.

  Attributes:
    covered: Rows with a command.
    published: All rows.
    cited: Rows of other work.
    with_reason: Rows with a reason in place of a command.
  """

  covered: int
  published: int
  cited: int
  with_reason: int

  def __str__(self) -> str:
    """Returns them as a sentence."""
    return (
      f"{self.covered} of the {self.published} published rows have a command"
      f" here; {self.cited} are cited from other work and {self.with_reason}"
      " have a stated reason."
    )


class Content(NamedTuple):
  """Everything that a page shows.

  Attributes:
    coverage: How many rows have a command.
    tables: The papers' tables.
    recipes: Runs of variants whose rows print no metric of theirs, such as
      pretraining.
    others: Runs that reproduce no row.
  """

  coverage: Coverage
  tables: tuple[Table, ...]
  recipes: tuple[Other, ...]
  others: tuple[Other, ...]

  @property
  def papers(self) -> list[str]:
    """Returns the papers with their versions, in the order of the tables."""
    return list(dict.fromkeys(table.paper for table in self.tables))


def coverage() -> Coverage:
  """Returns how many of the published rows have a command here."""
  rows = tables.rows()
  covered = sum(bool(row.config or row.script) for row in rows)
  cited = sum(bool(row.cited) for row in rows)
  return Coverage(covered, len(rows), cited, len(rows) - covered - cited)


def content(
  results: Sequence[runs.Result],
  computed: Mapping[str, costs.Costs],
  folder: Path,
) -> Content:
  """Collects everything that a page shows.

  Args:
    results: Runs and evaluations.
    computed: Sizes and operations by the key of a row.
    folder: Folder of the page, from which links lead to the runs.
  """
  shown: set[int] = set()
  sections: dict[str, list[Line]] = {}
  titles: dict[str, tables.Row] = {}
  for row in tables.rows():
    titles.setdefault(row.source, row)
    origins = {row.config, *row.also, row.script} - {""}
    origins |= {f"{runs.BENCHMARK}{model}" for model in row.models}
    matching = [result for result in results if result.origin in origins]
    line = _line(row, matching, computed.get(row.key), folder)
    sections.setdefault(row.source, []).append(line)
    shown |= {
      id(result)
      for result in matching
      if any(result.metric(name) is not None for name in row.values)
    }
  rest = [result for result in results if id(result) not in shown]
  return Content(
    coverage(),
    tuple(_table(titles[source], lines) for source, lines in sections.items()),
    recipes=tuple(_other(r, folder) for r in rest if r.origin),
    others=tuple(_other(r, folder) for r in rest if not r.origin),
  )


def render(shown: Content, suffix: str) -> str:
  """Renders a page as ".html" or ".md"."""
  environment = jinja2.Environment(
    loader=jinja2.ChoiceLoader(
      [
        jinja2.FileSystemLoader(_TEMPLATES),
        jinja2.FileSystemLoader(Path(html.__file__).parent / "templates"),
      ]
    ),
    autoescape=suffix == ".html",
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  return environment.get_template(f"page{suffix}.j2").render(page=shown)


def _table(first: tables.Row, lines: Sequence[Line]) -> Table:
  has_costs = {"parameters", "flops"} & {*first.values}
  metrics = [tables.metrics()[name] for name in first.values]
  return Table(
    first.source,
    first.title,
    tuple(Column(m.title, m.kind != "fact") for m in metrics),
    tuple(lines),
    not has_costs and any(line.parameters for line in lines),
  )


def commands_of(row: tables.Row) -> list[str]:
  """Returns the commands that reproduce a row, in their order."""
  if row.script and row.after:
    commands = [_train(row.after)]
  else:
    commands = _train_all(row.config, row.after)
  for config, after in itertools.zip_longest(row.also, row.also_after):
    first, *others = _train_all(config, after or "")
    commands += [f"or {first}", *others]
  if row.script:
    script = row.script.format(
      config=row.config, workdir=_workdir(row.config or row.after)
    )
    if row.script.startswith(runs.GLUE_SWEEP):
      pretrained = _workdir(row.after or row.config)
      out = f"runs/glue_{row.script.removeprefix(runs.GLUE_SWEEP)}"
      script += f" --init_from={pretrained} --out={out}"
    commands.append(f"python -m {script}")
  return commands


def _train_all(config: str, after: str) -> list[str]:
  """Returns the commands of a run and of its pretraining, if any."""
  if not config:
    return []
  if not after:
    return [_train(config)]
  init_from = f"--config.init_from={_workdir(after)}"
  return [_train(after), f"{_train(config)} {init_from}"]


def _note(row: tables.Row) -> str:
  """Returns why a row has no command, or why its figures differ from ours."""
  if row.cited:
    return f"not a Perceiver; cited from {row.cited}"
  has_costs = {"parameters", "flops"} & {*row.values}
  models = row.models[:1] if has_costs or not row.config else ()
  model_notes = [zoo.MODELS[name].note for name in models]
  parts = [row.reason, row.note, *model_notes]
  return "; ".join(filter(None, parts))


def _train(config: str) -> str:
  return (
    f"python -m experiments.train --config={config}"
    f" --workdir={_workdir(config)}"
  )


def _workdir(config: str) -> str:
  file, _, variant = config.partition(":")
  return "_".join(
    [f"runs/{Path(file).stem}", *filter(None, variant.split(","))]
  )


def _line(
  row: tables.Row,
  matching: Sequence[runs.Result],
  sizes: costs.Costs | None,
  folder: Path,
) -> Line:
  return Line(
    row.name,
    tuple(
      cells.make(row, name, matching, sizes, folder) for name in row.values
    ),
    sizes.parameters / 1e6 if sizes else None,
    sizes.flops / 1e9 if sizes else None,
    (row.config or row.script).removeprefix("configs/"),
    tuple(commands_of(row)),
    _note(row),
  )


def _other(result: runs.Result, folder: Path) -> Other:
  metrics = [
    f"{name} {value:.4g}"
    for name, value in result.metrics.items()
    if isinstance(value, int | float)
  ]
  return Other(
    result.name,
    cells.link(result, folder),
    str(result.config.get("task", "")),
    ", ".join(metrics[:3]),
    result.nearest,
    tuple(result.differences),
  )
