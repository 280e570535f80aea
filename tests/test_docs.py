"""Tests that the code of the documentation runs and that its links exist."""

import ast
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_PAGES = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").glob("*.md")])
_PACKAGE = _ROOT / "perceiver_jax"
_FILE = re.compile(r"^`(\S+\.py)`:\n\n```python\n(.*?)^```", re.M | re.S)


@pytest.mark.slow
def test_the_files_of_adding_a_task_train_evaluate_and_report(
  call, monkeypatch, tmp_path, compile_once
):
  text = (_ROOT / "docs" / "adding_a_task.md").read_text()
  files = dict(_FILE.findall(text))
  assert list(files) == ["solids.py", "solids_config.py"]
  folder = tmp_path / "solids"
  folder.mkdir()
  for name, code in files.items():
    (folder / name).write_text(code)
  monkeypatch.setattr(sys, "path", list(sys.path))
  workdir = tmp_path / "run"
  config = folder / "solids_config.py"
  flags = f"--config={config}", f"--workdir={workdir}", "--num_devices=1"
  done = call("train", *flags)
  assert done.status == 0, done.err
  results = json.loads((workdir / "results.json").read_text())
  assert results["metrics"]["eval/accuracy"] > 0.8
  assert (workdir / "report.html").is_file()
  done = call("evaluate", f"--workdir={workdir}", "--checkpoint=latest")
  assert done.status == 0, done.err


def test_the_code_of_using_the_models_runs(tmp_path, monkeypatch, compile_once):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").symlink_to(_ROOT / "configs")
  text = (_ROOT / "docs" / "using_the_models.md").read_text()
  blocks = re.findall(r"^```(python|sh)\n(.*?)^```", text, re.M | re.S)
  assert len(blocks) >= 8
  namespace = {}
  for language, block in blocks:
    if language == "python":
      exec(block, namespace)
    else:
      _run_in_checkout(block)


def _run_in_checkout(command):
  """Runs a command that begins with "python", with this project on the path."""
  program, *arguments = shlex.split(command.replace("\\\n", " "))
  assert program == "python"
  environment = os.environ | {"PYTHONPATH": str(_ROOT)}
  subprocess.run([sys.executable, *arguments], env=environment, check=True)


@pytest.mark.parametrize("page", _PAGES, ids=lambda p: p.name)
def test_relative_links_lead_to_files(page):
  text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
  for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
    if "://" not in target:
      assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", _PAGES, ids=lambda p: p.name)
def test_paths_in_the_documentation_exist(page):
  roots = "perceiver_jax|configs|experiments|scripts|tests|docs|requirements"
  for path in re.findall(rf"`((?:{roots})/[\w/.-]+)`", page.read_text()):
    assert (_ROOT / path).exists(), path


def _layout():
  """Returns the modules that each folder may import, by architecture.md."""
  text = (_ROOT / "docs" / "architecture.md").read_text()
  allowed = {}
  for folder, cell in re.findall(
    r"^\| `perceiver_jax/([\w/]+)/` \|.*\| (.*) \|$", text, re.M
  ):
    names = set(re.findall(r"`([\w.]+)`", cell))
    if cell.startswith("all of the above"):
      names = set(allowed) - names
    allowed[folder.replace("/", ".")] = names
  return allowed


def _imports(path):
  """Yields the full names that a file imports, other than for its types."""
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
      node.body = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import | ast.ImportFrom):
      module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
      yield from (module + alias.name for alias in node.names)


@pytest.mark.parametrize(("folder", "allowed"), _layout().items())
def test_folders_import_what_the_layout_allows(folder, allowed):
  paths = list((_PACKAGE / folder.replace(".", "/")).rglob("*.py"))
  assert paths
  for path in paths:
    for name in _imports(path):
      package, _, module = name.partition(".")
      if package != "perceiver_jax":
        continue
      is_file = (_PACKAGE / f"{module.split('.')[0]}.py").is_file()
      assert (is_file and not folder.startswith("models")) or any(
        f"{module}.".startswith(f"{prefix}.") for prefix in {folder, *allowed}
      ), f"{path.relative_to(_ROOT)} imports {name}"


def test_the_models_need_no_other_packages():
  paths = (_PACKAGE / "models").rglob("*.py")
  used = {name.split(".")[0] for path in paths for name in _imports(path)}
  needed = {"haiku", "jax", "jaxtyping", "numpy", "perceiver_jax"}
  assert used - sys.stdlib_module_names == needed
