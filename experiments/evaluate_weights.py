"""Prepares the evaluation of any weights, with or without a run."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax import numpy as jnp

from perceiver_jax import weights as weights_lib
from perceiver_jax.errors import UserError
from perceiver_jax.tasks import registry as tasks
from perceiver_jax.tasks.base import Task
from perceiver_jax.training import restore, workdir
from perceiver_jax.training import step as step_lib
from perceiver_jax.weights import initialize
from perceiver_jax.weights import model as weights_model

_CLASSIFIERS = ("classification", "average_and_project")
_LANGUAGE_MODELS = ("masked_lm", "token")
# Settings in which Hugging Face's classes differ from DeepMind's code. Their
# files of the released models are still those models.
_CONVERTED = ("gelu", "padding", "use_query_mask", "use_query_residual")

_BLOCK = 2**20


class Subject(NamedTuple):
  """Weights and the task to evaluate them on.

  Attributes:
    config: config of the evaluation, with the model of the weights.
    task: the task; its data has been opened.
    restored: the model with the weights, on all devices.
    differences: messages about leaves of the model that differ from those of
      the given config.
    published: the task's published results; {} if there are differences.
  """

  config: ml_collections.ConfigDict
  task: Task
  restored: restore.Restored
  differences: list[str]
  published: Mapping[str, Any]


def load(path: Path, config: ml_collections.ConfigDict) -> Subject:
  """Loads weights and the task of a config.

  The model is the one stored with the weights. A file of DeepMind's code other
  than the released ones stores none, and gets the model of the config.

  Args:
    path: a file or folder that `weights.load` reads.
    config: config of the evaluation.

  Raises:
    UserError: the weights can't be read, or do not fit the config or the data.
      All but the last is checked before the data is opened.
  """
  config = tasks.complete_config(config)
  given = config.model.to_dict()
  config, _, restored = load_without_data(path, config)
  spec = config.model.to_dict()
  task = tasks.make_task(config)
  _check_class_names(path, task)
  differences = [
    line for line in initialize.differences(given, spec) if _changes_model(line)
  ]
  return Subject(
    config,
    task,
    restored._replace(model=step_lib.model_of(task, config.precision)),
    differences,
    {} if differences else task.published,
  )


def load_without_data(
  path: Path, config: ml_collections.ConfigDict
) -> tuple[ml_collections.ConfigDict, Task, restore.Restored]:
  """Loads weights and a task that does not know the names of its classes.

  Args:
    path: see `load`.
    config: see `load`.

  Returns:
    The config with the model of the weights, the task, and the model with the
    weights, on all devices.

  Raises:
    UserError: the weights can't be read, or do not fit the config.
  """
  given = config.model.to_dict()
  weights = weights_lib.load(path, spec=given)
  _check_purpose(path, weights.spec, given)
  weights_model.check_finite(weights, path)
  config = _with_model(config, weights.spec)
  with _blaming(path):
    # With given class names, no task has to open its data.
    task = tasks.make_task(config, unnamed_classes(weights.spec))
    return config, task, _place(task, config, weights, path)


def sha256(path: Path) -> str:
  """Returns the checksum of a file, or of all weights in a folder, in hex.

  Args:
    path: a file or folder that `weights.load` has read.
  """
  files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
  digest = hashlib.sha256()
  for name in files:
    with name.open("rb") as file:
      while block := file.read(_BLOCK):
        digest.update(block)
  return digest.hexdigest()


def _check_purpose(
  path: Path, spec: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
  """Checks that both models take the same inputs and predict the same.

  Raises:
    UserError: they differ.
  """
  mine, theirs = _purpose(spec), _purpose(given)
  for leaf in mine | theirs:
    # A number of classes of 0 is left to the data.
    if theirs.get(leaf) not in (mine.get(leaf), 0):
      raise UserError(
        f"--weights={path} has {leaf} {mine.get(leaf, 'none')!r}, and --config"
        f" {theirs.get(leaf, 'none')!r}; give the --config and variant of these"
        " weights, or other weights"
      )


def _purpose(spec: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the leaves that say what a model takes and predicts."""
  adapter, decoder = spec["adapter"], spec["decoder"]
  kind = decoder["kind"]
  purpose = {"model.adapter.kind": adapter.get("kind", "image")}
  if modalities := adapter.get("modalities"):
    purpose["model.adapter.modalities"] = ", ".join(sorted(modalities))
  if kind in _CLASSIFIERS:
    purpose["model.decoder.kind"] = "classification"
    purpose["model.num_classes"] = spec["num_classes"]
  else:
    purpose["model.decoder.kind"] = (
      "masked_lm" if kind in _LANGUAGE_MODELS else kind
    )
  for name, output in sorted(dict(decoder.get("outputs", {})).items()):
    size = output["num_outputs"] if isinstance(output, Mapping) else output
    if size:  # A task of GLUE is left out by a 0.
      purpose[f"model.decoder.outputs.{name}"] = size
  return purpose


def unnamed_classes(spec: Mapping[str, Any]) -> dict[str, Any]:
  """Returns metadata with a number for the name of each class."""
  label = spec["decoder"].get("outputs", {}).get("label", {})
  count = spec.get("num_classes", spec["decoder"].get("num_actions"))
  if isinstance(label, Mapping):
    count = label.get("num_outputs", count)
  return {"class_names": tuple(map(str, range(count or 0)))}


def _with_model(
  config: ml_collections.ConfigDict, spec: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  changed = config.copy_and_resolve_references()
  with changed.unlocked():
    changed.model = ml_collections.ConfigDict(dict(spec))
  return changed


def _place(
  task: Task,
  config: ml_collections.ConfigDict,
  weights: weights_lib.Weights,
  path: Path,
) -> restore.Restored:
  """Checks the shapes of the weights and copies them to every device."""
  mesh = step_lib.make_mesh()
  abstract = restore.abstract_state(config, task, mesh)
  expected = abstract.params, abstract.net_state
  for loaded, tree in zip(weights[1:], expected, strict=True):
    weights_model.check_same_shapes(loaded, tree, str(path))
  place = lambda like, array: jax.device_put(
    np.asarray(array, like.dtype), like.sharding
  )
  params, net_state = jax.tree.map(place, expected, tuple(weights[1:]))
  state = step_lib.TrainState(
    step=jnp.int32(0),
    params=params,
    net_state=net_state,
    opt_state=(),
    ema_params=(),
    rng=jax.random.key_data(jax.random.key(config.seed)),
  )
  model = step_lib.model_of(task, config.precision)
  return restore.Restored(model, state, 0, mesh)


def _check_class_names(path: Path, task: Task) -> None:
  """Checks that the data has the classes of the run that wrote the weights.

  Raises:
    UserError: they differ in name or order.
  """
  folder = path if path.is_dir() else path.parent
  with _blaming(path):
    workdir.check_metadata(folder, task.metadata())


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
  """Adds to an error that `config.model` is the model of the weights."""
  try:
    yield
  except UserError as error:
    raise UserError(
      f"{error}; the model is that of --weights={path}, so change the data, or"
      " give other weights or the --config of these"
    ) from error


def _changes_model(difference: str) -> bool:
  leaf = difference.split(" ", 1)[0]
  return leaf.rpartition(".")[2] not in _CONVERTED
