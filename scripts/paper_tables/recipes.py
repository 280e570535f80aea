"""Compares the configs of runs with the variants of the papers' rows."""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from perceiver_jax import files
from perceiver_jax.data.text import glue_tasks
from perceiver_jax.models.published import tables
from scripts.paper_tables import costs

# Leaves that do not change what is learned.
FREE_LEAVES = (
  "checkpoint", "data_timeout_seconds", "eval_every_epochs", "eval_every_steps",
  "execution", "log", "max_seconds", "num_parts", "precision", "published",
  "seed", "shard_optimizer_state",
  "data.benchmarks", "data.num_workers", "data.tokenizer",
)  # fmt: skip
GLUE_SWEEP = "scripts.sweeps.glue --model="
# Arguments of sources that say where and in which form their data is.
_PLACES = {
  "classes", "data_dir", "directory", "documents", "eval", "field", "train",
  "trimmed",
}  # fmt: skip
# Sources that come with the code or are generated, not the papers' own.
_EMBEDDED = {
  "digits", "digit_pairs", "photos", "generated", "tiny", "python_docs",
  "rendered", "motorcycle", "mirrored",
}  # fmt: skip
_SOURCES = ("source", "train_source", "eval_source")


def nearest(
  config: Mapping[str, Any],
  variants: Sequence[str],
  free: Sequence[str] = (),
) -> tuple[str, list[str]]:
  """Returns the variant that a config is most like, and how they differ.

  Args:
    config: Config of a run, as read from its config.json.
    variants: Config variants, as `configs/FILE.py:VARIANT`.
    free: Leaves that may differ, besides `FREE_LEAVES`.
  """
  mine = _leaves(config)
  best: tuple[str, list[str]] | None = None
  for variant in variants:
    theirs = _leaves_of(variant)
    if mine.get("task") != theirs["task"]:
      continue
    different = [
      _difference(leaf, mine, theirs)
      for leaf in sorted(mine.keys() | theirs.keys())
      if not _is_free(leaf, mine, free) and not _is_same(leaf, mine, theirs)
    ]
    if best is None or len(different) < len(best[1]):
      best = variant, different
  return best or ("", ["a task of its own"])


def pretraining_differences(init_from: str, variant: str) -> list[str]:
  """Compares what a run was started from with what its variant requires.

  Args:
    init_from: The run's `init_from`; "" for none.
    variant: Config variant.
  """
  after = pretraining().get(variant, "")
  if bool(init_from) != bool(after):
    required = f"a model of {after}" if after else "no weights"
    return [f"init_from {init_from or 'no weights'}, not {required}"]
  config = config_of_run(init_from) if init_from else None
  if config is None:
    return []
  _, different = nearest(config, [after])
  return [f"init_from: {line}" for line in different]


@functools.cache
def pretraining() -> dict[str, str]:
  """Returns the pretraining's variant of each variant that is fine-tuned."""
  before: dict[str, str] = {}
  for row in tables.rows():
    if row.script.startswith(GLUE_SWEEP):
      model = row.script.removeprefix(GLUE_SWEEP)
      for task in glue_tasks.GLUE:
        before[f"configs/glue.py:{task},{model}"] = row.after or row.config
    elif row.config and row.after:
      before[row.config] = row.after
    before |= dict(zip(row.also, row.also_after, strict=False))
  return before


@functools.cache
def variants() -> tuple[str, ...]:
  """Returns the variants of all rows, and those of their pretraining."""
  names = {
    name
    for row in tables.rows()
    for name in (row.config, row.after, *row.also, *row.also_after)
  }
  return tuple(sorted(names - {""}))


def config_of_run(path: str | os.PathLike) -> dict[str, Any] | None:
  """Returns the config of the run that wrote some weights; None if unknown.

  Args:
    path: Folder of the run, or a file in it.

  Raises:
    UserError: Its bucket can't be read.
  """
  folder = files.as_path(path).expanduser()
  if not folder.is_dir():
    folder = folder.parent
  file = folder / "config.json"
  # A Hugging Face checkpoint has a config.json too.
  if not (file.is_file() and (folder / "results.json").is_file()):
    return None
  return json.loads(file.read_text(encoding="utf-8"))


def with_overrides(
  variant: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the leaves of a variant with some changed."""
  return _leaves_of(variant) | dict(overrides)


def _difference(
  leaf: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> str:
  if leaf not in theirs:
    return f"{leaf} {mine[leaf]}"
  return f"{leaf} {mine.get(leaf, 'missing')}, not {theirs[leaf]}"


def _is_free(leaf: str, mine: Mapping[str, Any], free: Sequence[str]) -> bool:
  if leaf == "num_microbatches":
    return not _has_local_batch_norm(mine)
  # `pretraining_differences` compares it.
  free = (*FREE_LEAVES, "init_from", *free)
  if any(leaf == name or leaf.startswith(f"{name}.") for name in free):
    return True
  for section in ("source_args", "arguments"):
    before, found, argument = leaf.partition(f".{section}.")
    if found:
      used = {mine.get(f"{before}.{name}") for name in _SOURCES}
      name, _, argument = argument.partition(".")
      return name not in used or argument in _PLACES
  return False


def _has_local_batch_norm(mine: Mapping[str, Any]) -> bool:
  """Tells whether a step's microbatches are normalized one by one."""
  has_batch_norm = mine.get("model.adapter.prep_type") == "conv" or mine.get(
    "model.adapter.use_convolutions"
  )
  return bool(has_batch_norm) and not mine.get("sync_batch_norm", True)


def _is_same(
  leaf: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]
) -> bool:
  if leaf not in mine or leaf not in theirs:
    return False
  is_source = leaf.rpartition(".")[2] in _SOURCES and leaf.startswith("data.")
  if is_source and mine[leaf] not in _EMBEDDED:
    return True
  return mine[leaf] == theirs[leaf]


@functools.cache
def _leaves_of(variant: str) -> dict[str, Any]:
  config = costs.load_config(variant).to_dict()
  return _leaves(json.loads(json.dumps(config, default=str)))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  leaves: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      leaves |= _leaves(value, f"{prefix}{name}.")
    else:
      leaves[prefix + name] = value
  return leaves
