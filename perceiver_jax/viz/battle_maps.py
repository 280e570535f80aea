"""Maps of battles, seen from above, with commands and attention.

Color is the alliance of an entity, shape its type, size its health. A circle is
around the entity that gets a command and a square around the one that it is
aimed at: solid for the recorded command, dashed for the predicted one.

Shapes: n entities.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from perceiver_jax.viz import html, plots
from perceiver_jax.viz.sections import Section
from perceiver_jax.viz.text import printable, shorten

# By alliance: unknown, self, ally, neutral, enemy.
_NAMES = ("unknown", "own", "ally", "neutral", "enemy")
_COLORS = ("#8a8a8a", plots.COLORS[0], plots.COLORS[2], "#8a8f98",
           plots.COLORS[1])  # fmt: skip
_SHAPES = "os^DvPXp*hd8"
_OTHER = "."  # The shape of types that are too many to tell apart.
_HALO = plots.COLORS[3]
_PREDICTED = "#d6249f"
# Areas in square points: of entities without health and with all of it, of
# halos of the highest attention, and of the marks of commands.
_AREA, _HALO_AREA, _MARK_AREA = (9.0, 38.0), 420.0, 120.0
_MARGIN, _MIN_SPAN = 12.0, 32.0  # Game units around the entities.
_SIDE = 2.9  # Inches of a map.


class Command(NamedTuple):
  """The entities of a command; -1 for none.

  Attributes:
    selected: index of the entity that gets it.
    target: index of the entity that it is aimed at.
  """

  selected: int
  target: int


class Battle(NamedTuple):
  """A battle to draw.

  Attributes:
    positions: x and y in game units [n, 2].
    alliances: index of the alliance of each entity, as in
      `data.starcraft.features`, or -1 [n].
    unit_types: index of the type of each entity, or -1 [n].
    health: from 0 to 1, NaN where it is unknown [n].
    recorded: the command to predict.
    predicted: the predicted command.
    attention: not negative [n]; None for none.
  """

  positions: np.ndarray
  alliances: np.ndarray
  unit_types: np.ndarray
  health: np.ndarray
  recorded: Command
  predicted: Command
  attention: np.ndarray | None


class BattleSample(NamedTuple):
  """A drawn battle with a command.

  Attributes:
    map: SVG file, from `draw_svg`.
    kind: kind of the battle; "" for none.
    label: the recorded action; "" if it is unknown.
    prediction: the predicted action.
    is_right: whether all known parts of the command are predicted.
  """

  map: bytes
  kind: str
  label: str
  prediction: str
  is_right: bool


def shapes(battles: Sequence[Battle]) -> dict[int, str]:
  """Assigns the most frequent types a shape each, as a marker of matplotlib."""
  kinds = np.concatenate([battle.unit_types for battle in battles])
  types, counts = np.unique(kinds[kinds >= 0], return_counts=True)
  order = np.argsort(-counts, kind="stable")
  return dict(zip(types[order].tolist(), _SHAPES, strict=False))


def draw_svg(battle: Battle, markers: dict[int, str]) -> bytes:
  """Draws a battle as an SVG file.

  Args:
    battle: the battle.
    markers: see `shapes`.
  """
  with matplotlib.rc_context(plots.SETTINGS):
    figure = Figure((_SIDE, _SIDE), layout="constrained")
    _draw(figure.subplots(), battle, markers)
    return plots.svg(figure)


def legend_svg(
  battles: Sequence[Battle], markers: dict[int, str], names: Sequence[str]
) -> bytes:
  """Draws the legend of several maps as an SVG file.

  Args:
    battles: the battles of the maps.
    markers: see `shapes`.
    names: name of each type; those without one are numbered.
  """
  handles = _legend_handles(battles, markers, names)
  columns = 5
  rows = -(-len(handles) // columns)
  with matplotlib.rc_context(plots.SETTINGS):
    figure = Figure((7.2, 0.1 + 0.19 * rows), layout="constrained")
    figure.legend(
      handles=handles,
      loc="outside upper left",
      ncols=columns,
      frameon=False,
      fontsize=8,
      handletextpad=0.3,
    )
    return plots.svg(figure)


def draw_sheet(
  battles: Sequence[Battle], names: Sequence[str], columns: int = 3
) -> np.ndarray:
  """Draws battles in rows, above their legend; returns uint8 [h, w, 3].

  Args:
    battles: the battles, at least one.
    names: see `legend_svg`.
    columns: battles in a row.
  """
  markers = shapes(battles)
  handles = _legend_handles(battles, markers, names)
  columns = min(columns, len(battles))
  rows = -(-len(battles) // columns)
  with matplotlib.rc_context(plots.SETTINGS):
    size = (_SIDE * columns, _SIDE * rows + 0.1 * len(handles))
    figure = Figure(size, dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(battles) :]:
      axes.set_axis_off()
    for axes, battle in zip(grid, battles, strict=False):
      _draw(axes, battle, markers)
    figure.legend(
      handles=handles,
      loc="outside lower left",
      ncols=2 + columns // 2,
      frameon=False,
    )
    canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def battle_samples(
  samples: Sequence[BattleSample], legend: bytes, through_latents: bool
) -> Section:
  """Shows battles from above with recorded and predicted commands.

  Args:
    samples: the battles.
    legend: SVG file, from `legend_svg`.
    through_latents: whether the attention is that of an output query, rather
      than that of the pointer.
  """
  attention = (
    "the attention of the predicted target to the entities, through the latents"
    if through_latents
    else "the attention of the pointer to the target, its probabilities"
  )
  return Section(
    "Commands in battles",
    html.render("battle_maps", samples=samples, legend=legend),
    "Held-out observations from above; size is health. The recorded command is"
    f" solid, the predicted one dashed. Halos show {attention}.",
  )


def _draw(axes: Axes, battle: Battle, markers: dict[int, str]) -> None:
  """Draws a battle."""
  _set_view(axes, battle.positions)
  x, y = battle.positions.T
  if battle.attention is not None and len(x) and battle.attention.max() > 0:
    share = battle.attention / battle.attention.max()
    colors = np.zeros((len(x), 4))
    colors[:] = matplotlib.colors.to_rgba(_HALO)
    colors[:, 3] = 0.6 * share
    area = _HALO_AREA * (0.25 + 0.75 * share)
    axes.scatter(x, y, area, colors, linewidths=0, zorder=1)
  least, most = _AREA
  health = np.where(np.isnan(battle.health), 0.5, battle.health)
  area = least + (most - least) * np.clip(health, 0, 1)
  colors = np.array([_COLORS[max(int(i), 0)] for i in battle.alliances])
  kinds = [markers.get(int(kind), _OTHER) for kind in battle.unit_types]
  for marker in dict.fromkeys(kinds):
    rows = np.array([kind == marker for kind in kinds])
    style = {"marker": marker, "linewidths": 0, "zorder": 3}
    axes.scatter(x[rows], y[rows], area[rows], colors[rows], **style)
  _draw_command(axes, battle.positions, battle.recorded, plots.INK, "-", 1.0)
  _draw_command(axes, battle.positions, battle.predicted, _PREDICTED, "--", 1.7)


def _set_view(axes: Axes, positions: np.ndarray) -> None:
  """Shows a square around all entities, without axes."""
  axes.set(xticks=[], yticks=[], aspect="equal")
  axes.spines[:].set(visible=True, alpha=0.3)
  if not len(positions):
    return
  low, high = positions.min(0), positions.max(0)
  half = max((high - low).max() / 2 + _MARGIN, _MIN_SPAN / 2)
  x, y = (low + high) / 2
  axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))


def _draw_command(
  axes: Axes,
  positions: np.ndarray,
  command: Command,
  color: str,
  style: str,
  scale: float,
) -> None:
  """Marks the entities of a command and draws an arrow between them."""
  line = {"edgecolors": color, "linestyles": style, "linewidths": 1.2}
  for index, marker in zip(command, "os", strict=True):
    if index >= 0:
      x, y = positions[index]
      area = scale * _MARK_AREA
      axes.scatter(x, y, area, "none", marker=marker, zorder=4, **line)
  if min(command) >= 0 and command.selected != command.target:
    arrow = {
      "arrowstyle": "->",
      "color": color,
      "linestyle": style,
      "linewidth": 0.8,
      "shrinkA": 7,
      "shrinkB": 7,
    }
    start, end = positions[command.selected], positions[command.target]
    axes.annotate("", end, start, arrowprops=arrow, zorder=2)


def _legend_handles(
  battles: Sequence[Battle], markers: dict[int, str], names: Sequence[str]
) -> list[Line2D]:
  """Returns what is to be explained, if it occurs."""

  def mark(label: str, marker: str, color: str, **more) -> Line2D:
    return Line2D(
      [], [], color=color, label=label, linestyle="none", marker=marker,
      markersize=6, **more,
    )  # fmt: skip

  alliances = np.unique(np.concatenate([b.alliances for b in battles]))
  handles = [
    mark(_NAMES[i], "o", _COLORS[i], markeredgewidth=0)
    for i in dict.fromkeys(max(int(i), 0) for i in alliances)
  ]
  for kind, marker in markers.items():
    name = names[kind] if kind < len(names) else f"type {kind}"
    label = shorten(printable(name), 18).lstrip("_")
    handles.append(mark(label, marker, plots.INK, markeredgewidth=0))
  kinds = np.concatenate([b.unit_types for b in battles])
  if not set(kinds.tolist()) <= markers.keys():
    handles.append(mark("other types", _OTHER, plots.INK, markeredgewidth=0))
  commands = {"predicted": _PREDICTED}
  if any(max(battle.recorded) >= 0 for battle in battles):
    commands = {"recorded": plots.INK, **commands}
  for label, color in commands.items():
    for part, marker in (("selected", "o"), ("target", "s")):
      ring = {"markerfacecolor": "none", "markeredgewidth": 1.2}
      handles.append(mark(f"{label} {part}", marker, color, **ring))
  if any(battle.attention is not None for battle in battles):
    handles.append(mark("attention", "o", _HALO, alpha=0.5, markeredgewidth=0))
  return handles
