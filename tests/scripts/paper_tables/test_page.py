"""The page has every row, and our results where they belong."""

import pathlib
import re
import shutil
import subprocess

import made_runs
import pytest

from configs import masked_lm
from perceiver_jax.models.published import tables
from scripts.paper_tables import costs, page, runs

_ROOT = pathlib.Path(__file__).parents[3]
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FOURIER = "Perceiver IO v3, Table 7: Perceiver IO, config A (2D FF)"
_SIZES = {_FOURIER: costs.Costs(48_440_627, 406_541_000_000)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Runs: one of a row, another seed of it, weights, and a small one."""
  root = tmp_path_factory.mktemp("runs")
  made_runs.imagenet_run(root / "first")
  made_runs.imagenet_run(root / "second", accuracy=0.7804, seed=1)
  made_runs.imagenet_run(root / "shrunk", "conv,smoke", accuracy=0.999)
  made_runs.imagenet_run(root / "low", "learned", accuracy=0.5)
  made_runs.evaluation(root / "released.json")
  return root


@pytest.fixture(scope="module")
def content(folder):
  return page.content(runs.collect([folder]), _SIZES, folder)


def _line(content, source, name):
  table = next(t for t in content.tables if t.source == source)
  return next(line for line in table.lines if line.name == name)


def test_the_page_has_every_row_with_a_command_or_a_note(content):
  shown = [
    (table.source, line.name)
    for table in content.tables
    for line in table.lines
    if line.commands or line.note
  ]
  assert shown == [(row.source, row.name) for row in tables.rows()]


def test_results_stand_beside_the_published_value(content):
  line = _line(
    content, "Perceiver IO v3, Table 7", "Perceiver IO, config A (2D FF)"
  )
  accuracy, flops, parameters = line.cells
  assert accuracy.published == "79.0"
  ours, weights = accuracy.ours
  assert ours.text == "78.3 (−0.7)"
  assert ours.closeness == "middling"
  assert ours.title == "mean of 2 runs: first, second (fourier)"
  assert ours.link == "first/report.html"
  assert weights.text == "79.0 (+0.0)"
  assert weights.title == "weights imagenet_fourier_position_encoding.pystate"
  assert weights.closeness == "near"
  assert (flops.published, flops.ours[0].text) == ("407", "406.5")
  assert (parameters.published, parameters.ours[0].text) == ("48.4", "48.44")
  assert line.commands[0].startswith(
    "python -m experiments.train --config=configs/imagenet.py:fourier "
  )
  low = _line(
    content, "Perceiver IO v3, Table 7", "Perceiver IO, config A (learned pos)"
  )
  assert low.cells[0].ours[0].closeness == "far"


def test_a_value_that_is_better_than_published_is_near(folder, tmp_path):
  made_runs.imagenet_run(tmp_path / "good", "conv", accuracy=0.9)
  content = page.content(runs.collect([tmp_path]), {}, tmp_path)
  line = _line(
    content, "Perceiver IO v3, Table 7", "Perceiver IO, config A (conv)"
  )
  assert line.cells[0].ours[0].closeness == "near"


def test_readings_of_the_paper_are_not_averaged(tmp_path):
  for variant, accuracy in (("", 0.8), ("_projected", 0.6)):
    made_runs.imagenet_run(
      tmp_path / f"run{variant}",
      f"jft_fourier{variant}",
      accuracy,
      init_from="pretrained.safetensors",
    )
  content = page.content(runs.collect([tmp_path]), {}, tmp_path)
  name = "Perceiver IO, config B (2D FF), pretrained"
  line = _line(content, "Perceiver IO v3, Table 7", name)
  assert [(e.text, e.title) for e in line.cells[0].ours] == [
    ("80.0 (−4.5)", "run (jft_fourier)"),
    ("60.0 (−24.5)", "run_projected (jft_fourier_projected)"),
  ]


def test_small_runs_are_in_a_table_of_their_own(content):
  (other,) = content.others
  assert other.name == "shrunk"
  assert other.link == "shrunk/report.html"
  assert "num_steps 4, not 0" in other.differences
  values = [
    entry.value
    for table in content.tables
    for line in table.lines
    for cell in line.cells
    for entry in cell.ours
  ]
  assert 99.9 not in values


def test_benchmarks_stand_beside_what_the_papers_measured(tmp_path):
  made_runs.benchmark(
    tmp_path / "h200.json", **{"steps/s": 2.25, "training GFLOP": 260.3}
  )
  content = page.content(runs.collect([tmp_path]), {}, tmp_path)
  line = _line(content, "Perceiver IO v3, Table 17", "784 latents")
  _, train_flops, _, speed = line.cells
  assert (speed.published, speed.ours[0].text) == ("4.4", "2.25")
  # Another device is as fast as it is.
  assert speed.ours[0].closeness == ""
  assert speed.ours[0].title == "NVIDIA H200, batch 16"
  assert speed.ours[0].link == "h200.json"
  assert train_flops.ours[0].text == "260.3"
  assert train_flops.ours[0].closeness == "far"
  assert not content.others


def test_pretraining_has_a_table_of_its_own(tmp_path):
  config = masked_lm.get_config("bytes")
  made_runs.run(tmp_path / "bytes", config, {"eval/accuracy": 0.7})
  content = page.content(runs.collect([tmp_path]), {}, tmp_path)
  assert not content.others
  (run,) = content.recipes
  assert (run.name, run.nearest) == ("bytes", "configs/masked_lm.py:bytes")
  assert 'id="recipes"' in page.render(content, ".html")
  assert "| bytes | masked_lm |" in page.render(content, ".md")


def test_what_is_neither_run_nor_computed_is_blank(content):
  line = _line(content, "Perceiver IO v3, Table 11", "BERT Base")
  latents = line.cells[3]
  assert (latents.published, latents.ours, latents.is_run) == ("-", (), False)
  speed = line.cells[-1]
  assert (speed.published, speed.ours, speed.is_run) == ("7.3", (), True)


def test_leaves_of_configs_stand_beside_the_published_recipe(content):
  line = _line(content, "Perceiver IO v3, Table 12", "all models")
  assert [cell.published for cell in line.cells] == [
    "500,000", "2,048", "0.00125", "1,000", "0.01",
  ]  # fmt: skip
  for cell in line.cells:
    assert cell.ours[0].closeness == "near"


def test_the_html_page_needs_nothing_else(content, folder):
  text = page.render(content, ".html")
  assert not re.search(r"(src=|<link|@import|url\()", text)
  targets = re.findall(r'href="([^"]+)"', text)
  outside = [t for t in targets if not t.startswith(("#", "https://arxiv.org"))]
  assert outside
  assert all((folder / target).exists() for target in outside)
  anchors = {t[1:] for t in targets if t.startswith("#")}
  assert anchors <= set(re.findall(r'id="([^"]+)"', text))
  assert "<script" in text


def test_text_is_escaped(content):
  other = content.others[0]._replace(differences=("<script>alert()</script>",))
  text = page.render(content._replace(others=(other,)), ".html")
  assert "<script>alert" not in text


def _dom(text, click, tmp_path):
  """The page after a script, as Chromium has it."""
  file = tmp_path / "page.html"
  file.write_text(text.replace("</body>", f"<script>{click}</script></body>"))
  done = subprocess.run(
    [
      _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
      f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri(),
    ],
    capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  return done.stdout


def _column(dom, anchor, index):
  """Texts of a column of a table, and the sort of its head."""
  section = dom.split(f'id="{anchor}"')[1].split("</section>")[0]
  lines = section.split("<tbody>")[1].split("<tr")[1:]
  cells = [re.findall(r"<t[hd].*?</t[hd]>", line, re.S) for line in lines]
  return [re.sub(r"<[^>]+>", "", line[index]).strip() for line in cells]


@pytest.mark.skipif(_CHROMIUM is None, reason="Chromium is not installed")
def test_clicking_on_a_head_sorts_by_its_column(content, tmp_path):
  anchor = "perceiver-io-v3--table-7"
  click = (
    f"const heads = document.getElementById('{anchor}').parentElement"
    ".querySelectorAll('thead button');"
  )
  text = page.render(content, ".html")
  published = [
    f"{row.values['accuracy']:.1f}"
    for row in tables.rows()
    if row.source == "Perceiver IO v3, Table 7"
  ]
  dom = _dom(text, f"{click} heads[1].click();", tmp_path)
  assert _column(dom, anchor, 1) == sorted(published, key=float)
  assert 'aria-sort="ascending"' in dom
  dom = _dom(text, f"{click} heads[1].click(); heads[1].click();", tmp_path)
  assert _column(dom, anchor, 1) == sorted(published, key=float, reverse=True)
  # Ours: what has not been run comes last.
  dom = _dom(text, f"{click} heads[2].click();", tmp_path)
  ours = _column(dom, anchor, 2)
  assert ours[:2] == ["50.0 (−22.7)", "78.3 (−0.7)\n79.0 (+0.0)"]
  assert not any(map(str.split, set(ours[2:]) - {"not run", ""}))
  # Other tables keep their order.
  first = [r.name for r in tables.rows() if r.source == tables.rows()[0].source]
  assert _column(dom, "perceiver-v2--table-1", 0) == first


@pytest.mark.skipif(_CHROMIUM is None, reason="Chromium is not installed")
def test_the_filter_hides_rows_and_empty_tables(content, tmp_path):
  script = (
    "const f = document.getElementById('filter'); f.value = 'PointNet';"
    " f.dispatchEvent(new Event('input'));"
    " const open = [...document.querySelectorAll('tbody tr')]"
    ".filter((line) => line.checkVisibility());"
    " document.title = open.length + ' ' + open[0].cells[0].textContent;"
  )
  dom = _dom(page.render(content, ".html"), script, tmp_path)
  assert "<title>1 PointNet++</title>" in dom


def test_coverage_stands_in_the_readme():
  readme = (_ROOT / "README.md").read_text(encoding="utf-8")
  assert str(page.coverage()) in " ".join(readme.split())


def _published_cells(text):
  """Lines of a page in Markdown, without what the library computes."""
  kept, columns = [], []
  for line in text.splitlines():
    cells = line.strip("| ").split(" | ")
    if line.startswith("| row |"):
      columns = [
        i
        for i, head in enumerate(cells)
        if (head in ("parameters (M)", "FLOPs (B)") and cells[i + 1] != "ours")
        or head == "ours"
      ]
    if line.startswith("|"):
      cells = [
        c for i, c in enumerate(line[2:-2].split(" | ")) if i not in columns
      ]
    kept.append(cells)
  return kept


def test_the_checked_in_page_has_every_published_number():
  text = (_ROOT / "docs" / "paper_tables.md").read_text(encoding="utf-8")
  computed = dict.fromkeys(
    (r.key for r in tables.rows() if r.config or r.models), costs.Costs(1, 1)
  )
  content = page.content([], computed, _ROOT / "docs")
  assert _published_cells(page.render(content, ".md")) == _published_cells(text)


@pytest.mark.slow  # Traces every model of the papers.
def test_the_checked_in_page_is_up_to_date():
  text = (_ROOT / "docs" / "paper_tables.md").read_text(encoding="utf-8")
  content = page.content([], costs.of_rows(), _ROOT / "docs")
  assert page.render(content, ".md") == text


def test_commands_of_other_readings_follow_an_or(content):
  markdown = page.render(content, ".md")
  assert "`or " not in markdown
  assert "` or `python -m experiments.train " in markdown
