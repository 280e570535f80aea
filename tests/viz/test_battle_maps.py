"""Tests of maps of battles."""

import numpy as np
import pytest

from perceiver_jax.viz import battle_maps, plots
from perceiver_jax.viz.battle_maps import Battle, Command

NAMES = ("unknown", "Marine", "_Tank & <co>", "Zealot")


def battle(count=5, has_attention=True, **changes):
  rng = np.random.default_rng(count)
  made = Battle(
    rng.uniform(0, 200, (count, 2)),
    np.arange(count) % 5,
    1 + np.arange(count) % 3,
    np.where(np.arange(count) % 2, np.nan, 0.5),
    Command(0, min(1, count - 1)),
    Command(0, count - 1),
    np.arange(count, dtype=float) if has_attention else None,
  )
  return made._replace(**changes)


def test_a_map_has_a_shape_per_type_a_ring_per_command_and_halos():
  plain = battle(has_attention=False, recorded=Command(-1, -1))
  plain = plain._replace(predicted=Command(-1, -1))
  draw = lambda each: battle_maps.draw_svg(each, battle_maps.shapes([each]))
  base = draw(plain).decode()
  for color in set(battle_maps._COLORS):
    assert color in base
  assert battle_maps._PREDICTED not in base
  assert battle_maps._HALO not in base
  predicted = draw(plain._replace(predicted=Command(1, 2))).decode()
  assert battle_maps._PREDICTED in predicted
  assert "stroke-dasharray" in predicted
  assert "stroke-dasharray" not in base
  halos = draw(plain._replace(attention=np.ones(5))).decode()
  assert battle_maps._HALO in halos
  assert plots.INK not in halos


def test_maps_are_reproducible():
  each, markers = battle(), battle_maps.shapes([battle()])
  first = battle_maps.draw_svg(each, markers)
  assert battle_maps.draw_svg(each, markers) == first


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"attention": np.zeros(5)},
    {"alliances": np.full(5, -1), "unit_types": np.full(5, -1)},
    {"positions": np.zeros((5, 2))},
    {"recorded": Command(3, -1), "predicted": Command(2, 2)},
    {"health": np.array([0, 1, 2, -1, np.nan])},
  ],
)
def test_unknown_and_extreme_values_are_drawn(changes):
  each = battle(**changes)
  markers = battle_maps.shapes([each])
  assert b"</svg>" in battle_maps.draw_svg(each, markers)
  sheet = battle_maps.draw_sheet([each], NAMES)
  assert sheet.dtype == np.uint8
  assert np.ptp(sheet) > 200


def test_a_battle_without_entities_is_drawn():
  empty = battle(0, recorded=Command(-1, -1), predicted=Command(-1, -1))
  assert battle_maps.shapes([empty]) == {}
  assert b"<svg" in battle_maps.draw_svg(empty, {})
  assert b"predicted target" in battle_maps.legend_svg([empty], {}, NAMES)


def test_frequent_types_get_shapes_and_the_others_share_one():
  kinds = np.repeat(np.arange(30), np.arange(30))
  each = battle(len(kinds), unit_types=kinds, attention=None)
  markers = battle_maps.shapes([each])
  assert 29 in markers
  assert 1 not in markers
  assert len(set(markers.values())) == len(markers) < 29
  legend = battle_maps.legend_svg([each], markers, NAMES).decode()
  assert "other types" in legend
  assert "type 29" in legend
  assert "attention" not in legend


def test_the_legend_has_what_occurs_and_escapes_names():
  shown = [battle(), battle(3)]
  markers = battle_maps.shapes(shown)
  legend = battle_maps.legend_svg(shown, markers, NAMES).decode()
  for text in ("own", "enemy", "recorded selected", "attention", "Marine"):
    assert f">{text}<" in legend
  assert "Tank &amp; &lt;co&gt;" in legend
  legend = battle_maps.legend_svg([battle(2)], markers, NAMES).decode()
  assert ">enemy<" not in legend


def test_the_section_marks_wrong_commands():
  svg = battle_maps.draw_svg(battle(), {})
  section = battle_maps.battle_samples(
    [
      battle_maps.BattleSample(svg, "nearest", "flank", "flank", True),
      battle_maps.BattleSample(svg, "", "<flank>", "retreat", False),
      battle_maps.BattleSample(svg, "", "", "wait", True),
    ],
    svg,
    through_latents=False,
  )
  body = str(section.body)
  assert body.count("✗") == 1
  assert "recorded: &lt;flank&gt;" in body
  assert "attention of the pointer" in section.description
  assert body.count("image/svg+xml") == 4
