"""The table of the train steps of every variant, compiled for TPUs."""

import json
import re
import subprocess
import sys

import pytest
import tiny_runs as runs

from configs import audioset, glue, images
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry
from scripts.compile_ahead import chips, table, table_page, variants

_PAGE = runs.ROOT / "docs/tpu_table.md"
_FIGURES = {
  "topology": "v5e:2x2",
  "num_devices": 4,
  "num_parameters": 1_234_000,
  "num_microbatches": 2,
  "exceeds_by": 0,
  "memory": {"arguments": 2 * 10**9, "temporaries": 10**9},
  "compile_cpu_seconds": 61.3,
  "estimated_seconds": 0.36,
  "estimated_mfu": 0.251,
  "num_steps": 100_000,
  "checks": {
    "counts": {"host transfer": 0, "float64": 0},
    "donated": 7,
    "expected": 7,
  },
}


def _result(config, train=None, evaluation=None, topology="v5e:8x8"):
  return table_page.Result(config, topology, train or {}, evaluation or {})


def _rows(folder, configs, program="train"):
  return [table.Row(each, "v5e:8x8", program, folder) for each in configs]


def _configs_of(section):
  """Returns the configs that a section of the page has, in any order."""
  rows = re.findall(r"^\| `(\S+?)` \|", section, re.MULTILINE)
  for file, names in re.findall(r"^- `(\S+)`: (.*)$", section, re.MULTILINE):
    rows += [
      file if name == "(none)" else f"{file}:{name}"
      for name in names.split(", ")
    ]
  return sorted(rows)


def test_the_page_has_every_variant():
  expected = sorted(
    name.removeprefix("configs/").rstrip(":")
    for name in table.configs_named([])
  )
  _, *sections = _PAGE.read_text().split("\n## ")
  assert sections
  for section in sections:
    assert _configs_of(section) == expected, (
      "run python -m scripts.compile_ahead.table --nocompile --out=DIR"
      " --page=docs/tpu_table.md, with the topologies of the page"
    )


def test_a_row_has_the_hours_of_the_whole_run():
  evaluation = _FIGURES | {"memory": {"arguments": 10**9}}
  page = table_page.page([_result("configs/x.py:", _FIGURES, evaluation)])
  assert (
    "| `x.py` | v5e:2x2 | 1.234 M | 2 | 3 GB | 360.0 ms | 25% | 10 | 40 | 61 s"
    " | 1 GB | 360.0 ms |" in page
  )
  assert "Not compiled yet" not in page


def test_rows_without_memory_or_with_an_error_say_so():
  large = _FIGURES | {"exceeds_by": 3 * 10**9}
  checked = _FIGURES["checks"] | {"counts": {"float64": 2}}
  wrong = _FIGURES | {"checks": checked}
  page = table_page.page([
    _result("configs/x.py:a", large, _FIGURES),
    _result("configs/x.py:b", {"error": "no such file"}, wrong),
    _result("configs/x.py:c"),
    _result("configs/y.py:"),
  ])  # fmt: skip
  lines = page.splitlines()
  rows = [line for line in lines if line.startswith("| ")]
  assert len({line.count("|") for line in rows}) == 1
  assert "3 GB too large" in rows[-2]
  assert "failed: no such file" in rows[-1]
  assert "3 GB, WRONG: 2 x float64" in rows[-1]
  assert lines[-2:] == ["- `x.py`: c", "- `y.py`: (none)"]


def _instead_of_compiling(monkeypatch, code):
  """Runs Python code instead of compilations; PATH there is that of figures.

  Returns:
    The commands that would have run.
  """
  commands, popen = [], subprocess.Popen

  def start(command, **kwargs):
    commands.append(command)
    flags = dict(flag.partition("=")[::2] for flag in command)
    own = code.replace("PATH", repr(flags["--json"]))
    return popen([sys.executable, "-S", "-c", own], **kwargs)

  monkeypatch.setattr(subprocess, "Popen", start)
  return commands


def _write_figures(figures):
  return f"open(PATH, 'w').write({json.dumps(figures)!r})"


def test_the_figures_of_a_row_are_kept(monkeypatch, tmp_path, capsys):
  configs = ["configs/digits.py:", "configs/digits.py:pairs"]
  first, second = _rows(tmp_path, configs)
  figures = _FIGURES | {"fingerprint": "v5e:8x8 abc"}
  commands = _instead_of_compiling(monkeypatch, _write_figures(figures))
  table.compile_rows([first], 1)
  expected = {f"--config={first.config}", "--config.precision=bfloat16"}
  assert expected <= {*commands[0]}
  result = table.read(first.file)
  assert result == figures | {"config": first.config, "num_steps": 0}
  assert table.read(second.file) == {}
  assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
  printed = capsys.readouterr().out
  assert "1/1 train configs/digits.py: v5e:8x8: 3 GB" in printed
  # The other variant finds the program by its fingerprint.
  assert table.with_fingerprint(tmp_path, "v5e:8x8 abc") == first.file
  assert table.with_fingerprint(tmp_path, "v5e:8x8 abd") is None
  assert table.with_fingerprint(None, "v5e:8x8 abc") is None


def test_an_evaluation_has_the_microbatches_of_the_train_step(
  monkeypatch, tmp_path
):
  (trained,) = _rows(tmp_path, ["configs/digits.py:"])
  (row,) = _rows(tmp_path, ["configs/digits.py:"], "evaluate")
  commands = _instead_of_compiling(monkeypatch, _write_figures(_FIGURES))
  table.compile_rows([trained], 1)
  table.compile_rows([row], 1)
  assert "--fit" in commands[0]
  assert {"--program=evaluate", "--config.num_microbatches=2"} <= {*commands[1]}
  assert row.file != trained.file
  assert row.file.exists()


def test_a_failure_is_kept_with_its_reason(monkeypatch, tmp_path, capsys):
  (row,) = _rows(tmp_path, ["configs/digits.py:"])
  code = "import sys; print('warning', file=sys.stderr); sys.exit('no memory')"
  _instead_of_compiling(monkeypatch, code)
  table.compile_rows([row], 1)
  assert table.read(row.file)["error"] == "no memory"
  assert "failed: no memory" in capsys.readouterr().out


def test_a_row_that_takes_too_long_is_given_up(monkeypatch, tmp_path):
  (row,) = _rows(tmp_path, ["configs/digits.py:"])
  _instead_of_compiling(monkeypatch, "import time; time.sleep(600)")
  monkeypatch.setattr(table, "_SECONDS", 1)
  table.compile_rows([row], 1)
  assert table.read(row.file)["error"] == "not compiled within 1 s"


def test_an_interrupted_row_is_not_kept(monkeypatch, tmp_path):
  rows = _rows(tmp_path, ["configs/digits.py:", "configs/digits.py:pairs"])
  code = "import sys; sys.exit(130)"
  commands = _instead_of_compiling(monkeypatch, code)
  with pytest.raises(KeyboardInterrupt):
    table.compile_rows(rows, 1)
  assert len(commands) == 1
  assert not list(tmp_path.iterdir())


def test_rows_are_compiled_in_parallel(monkeypatch, tmp_path, capsys):
  rows = _rows(tmp_path, ["configs/digits.py:", "configs/digits.py:pairs"])
  # Each waits for the other to start.
  code = f"""
import pathlib, time
folder = pathlib.Path({str(tmp_path)!r})
(folder / (pathlib.Path(PATH).name + ".started")).touch()
while len(list(folder.glob("*.started"))) < 2:
  time.sleep(0.01)
{_write_figures(_FIGURES)}
"""
  _instead_of_compiling(monkeypatch, code)
  monkeypatch.setattr(table, "_SECONDS", 60)
  table.compile_rows(rows, 2)
  assert "2/2 train configs/digits.py" in capsys.readouterr().out
  assert not any("error" in table.read(row.file) for row in rows)


def test_rows_without_figures_stay_as_they_are_on_the_page():
  configs = ["configs/x.py:", "configs/x.py:a", "configs/x.py:b"]
  topologies = ["v5e:8x8", "v4:4x4x4"]
  rows = lambda figures: [
    _result(config, figures.get((config, topology)), topology=topology)
    for topology in topologies
    for config in configs
  ]
  figures = {(config, "v5e:8x8"): _FIGURES for config in configs[:2]}
  old = table_page.page(rows(figures))
  assert table_page.page(rows({}), old) == old
  # A page of one topology keeps the rows of the others.
  one = [row for row in rows({}) if row.topology == "v4:4x4x4"]
  assert table_page.page(one, old) == old
  new = _FIGURES | {"estimated_seconds": 0.5}
  changed = table_page.page(rows({(configs[1], "v5e:8x8"): new}), old)
  old_lines, lines = old.splitlines(), changed.splitlines()
  (index,) = [i for i, x in enumerate(old_lines) if x != lines[i]]
  assert "`x.py:a`" in lines[index]
  assert "500.0 ms" in lines[index]


def test_damaged_figures_are_reported(tmp_path):
  file = tmp_path / "x.json"
  file.write_text("{")
  with pytest.raises(UserError, match=r"x\.json is damaged .* delete it"):
    table.read(file)
  file.write_text("[1]")
  with pytest.raises(UserError, match=r"x\.json holds no figures"):
    table.read(file)


@pytest.mark.parametrize(
  "name",
  ["v9:2x2", "v5e", "v5e:eight", "v5e:8", "h100", "h100:0", "h100:1x2x3"],
)
def test_names_of_topologies_are_checked(name):
  with pytest.raises(UserError, match="is not a topology; give one like"):
    chips.check_topology(name)
  for topology in chips.TOPOLOGIES:
    chips.check_topology(topology)


def test_configs_are_chosen_by_file_or_variant():
  assert table.configs_named(["configs/digits.py"]) == [
    "configs/digits.py:",
    "configs/digits.py:pairs",
  ]
  assert table.configs_named(["configs/imagenet.py:icml"]) == [
    "configs/imagenet.py:icml"
  ]
  with pytest.raises(UserError, match=r"none\.py is no config"):
    table.configs_named(["configs/none.py"])


@pytest.mark.parametrize(
  ("topology", "batch_size", "expected"),
  [
    ("v5e:8x8", 1024, "v5e:8x8"),
    ("v5e:8x8", 32, "v5e:4x4"),
    ("v5p:4x4x4", 32, "v5p:2x2x1"),
    ("v4:4x4x4", 64, "v4:4x4x4"),
    ("v5e:2x2", 1024, "v5e:2x2"),
    ("v5e:2x2", 3, "v5e:2x2"),  # None divides it: the error says so.
  ],
)
def test_small_batches_get_smaller_slices(topology, batch_size, expected):
  assert chips.dividing(topology, batch_size) == expected


def test_leaves_that_the_data_decides_get_values():
  config = variants.complete(images.get_config("small"))
  assert config.model.num_classes == variants.NUM_CLASSES
  assert config.data.image_shape == (64, 64, 3)
  own = audioset.get_config("own")
  config = variants.complete(own)
  assert (config.data.num_frames, config.data.num_samples) == (16, 31_744)
  assert own.data.num_frames == 0  # The given config stays as it was.


def test_classes_of_ones_own_texts_need_no_data():
  config = variants.complete(glue.get_config("own"))
  task = registry.make_task(config, variants.metadata(config))
  assert task.tasks["own"].num_outputs == variants.NUM_CLASSES


@pytest.mark.parametrize(
  ("config", "steps"),
  [
    ("configs/imagenet.py:fourier", 137_626),
    ("configs/masked_lm.py:bytes", 500_000),
    ("configs/glue.py:cola", 2673),
    ("configs/imagenet.py:jft_pretrain_conv", 512_696),
    ("configs/audioset.py:raw", 166_016),
    ("configs/digits.py:", 0),  # Not known without its data.
  ],
)
def test_the_length_of_a_run_is_known_without_its_data(config, steps):
  file, _, variant = config.partition(":")
  assert variant in variants.names(file)
  assert variants.num_steps(table.costs.load_config(config)) == steps
