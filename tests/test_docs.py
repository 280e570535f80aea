"""The documents say what is so: their code runs, their links lead somewhere."""

import pathlib
import re
import runpy
import sys

import pytest

from perceiver_jax.tasks import registry as tasks
from perceiver_jax.training import loop

_ROOT = pathlib.Path(__file__).parent.parent
_PAGES = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").glob("*.md")])
_FILE = re.compile(r"^`(\S+\.py)`:\n\n```python\n(.*?)^```", re.M | re.S)


@pytest.fixture
def tutorial(tmp_path, monkeypatch):
  """Writes the files of docs/adding_a_task.md where Python finds them."""
  text = (_ROOT / "docs" / "adding_a_task.md").read_text()
  files = dict(_FILE.findall(text))
  for name, code in files.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
  for package in ("perceiver_jax.data", "perceiver_jax.tasks"):
    folder = str(tmp_path / package.replace(".", "/"))
    monkeypatch.setattr(
      sys.modules[package], "__path__", [*sys.modules[package].__path__, folder]
    )
  return tmp_path, files, text


def test_following_the_tutorial_trains_a_new_task(
  tutorial, monkeypatch, tmp_path
):
  folder, files, text = tutorial
  assert list(files) == [
    "perceiver_jax/data/solids.py",
    "perceiver_jax/tasks/solid_classification.py",
    "configs/solids.py",
  ]
  from perceiver_jax.tasks import solid_classification  # of the tutorial

  line = re.search(r"^TASKS\[.*$", text, re.M)[0]
  monkeypatch.setattr(tasks, "TASKS", dict(tasks.TASKS))
  exec(
    line, {"TASKS": tasks.TASKS, "solid_classification": solid_classification}
  )
  get_config = runpy.run_path(str(folder / "configs/solids.py"))["get_config"]
  config = get_config()
  task = tasks.make_task(config)
  outcome = loop.Trainer(config, task, tmp_path / "run", 1).run()
  assert outcome.results["metrics"]["eval/accuracy"] > 0.8
  report = (tmp_path / "run" / "report.html").read_text()
  assert "labelled by construction" in report
  smoke = get_config("smoke")
  assert smoke.num_steps < 10


def test_code_of_using_the_models_runs(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  text = (_ROOT / "docs" / "using_the_models.md").read_text()
  blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
  assert len(blocks) >= 8
  namespace = {}
  for block in blocks:
    exec(block, namespace)


@pytest.mark.parametrize("page", _PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
  text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
  for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
    if "://" not in target:
      assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", _PAGES, ids=lambda p: p.name)
def test_paths_that_are_named_exist(page):
  roots = "perceiver_jax|configs|experiments|scripts|tests|docs|requirements"
  tutorial = ("solids.py", "solid_classification.py")
  for path in re.findall(rf"`((?:{roots})/[\w/.-]+)`", page.read_text()):
    if not path.endswith(tutorial):
      assert (_ROOT / path).exists(), path
