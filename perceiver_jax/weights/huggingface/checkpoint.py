"""Reads and writes the Perceivers of Hugging Face's transformers.

A model of theirs is a folder with config.json and model.safetensors, or shards
of it and model.safetensors.index.json. `load` gives a spec with which our model
computes what theirs does, and `save` writes a model of ours so that theirs
computes what ours does. Beyond layout (PyTorch's channels come second) inputs
and outputs differ in this:

- Masked language modelling: theirs decodes `max_position_embeddings` positions
  for any input; ours decodes as many as there are tokens. A model that was
  trained with `use_query_mask` differs there at padding, which nothing reads.
- Optical flow: theirs is given the 3x3 patches around each pixel, ours frames.
  Both give flow in the model's unit (`adapters.flow.PIXELS_PER_UNIT`).
- Multimodal: theirs always hides the label; give ours `masked={"label": ...}`.
  Theirs joins the decoded patches of sound, and decodes only the points asked
  for: `queries` of ours.
"""

import json
import os
import pathlib
from collections.abc import (
  Iterable,
  Mapping,
)
from typing import Any

import haiku as hk
import jax
import numpy as np
import safetensors
import safetensors.numpy
from jax import numpy as jnp

from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights.huggingface import config as configs
from perceiver_jax.weights.huggingface import names
from perceiver_jax.weights.huggingface.architectures import ARCHITECTURES

Variables = dict[str, dict[str, np.ndarray]]
Tree = Mapping[str, Mapping[str, Any]]

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# After so many updates Haiku's averages, like PyTorch's, are no longer scaled
# up for having started at zero.
_SETTLED = 10_000


def load(
  folder: str | os.PathLike,
) -> tuple[dict[str, Any], Variables, Variables]:
  """Reads a model of theirs.

  Args:
    folder: What `save_pretrained` wrote.

  Returns:
    A spec for `zoo.build`, and the parameters and state of its model, float32.

  Raises:
    UserError: A file is missing, damaged, of another kind of model, or has too
      many tensors, too few or some of other shapes than it says.
  """
  folder = pathlib.Path(folder)
  architecture, config = configs.read(folder / _CONFIG)
  tensors = _read_tensors(folder)
  spec = configs.spec_of(architecture, config)
  shapes = _shapes(folder, spec, ARCHITECTURES[architecture].raw(config))
  places = names.places(architecture, config["num_self_attends_per_block"])
  _check_names(f"{folder}: tensors", tensors, places)
  abstract = shapes[0] | shapes[1]
  for name, place in places.items():
    target = abstract[place.module][place.leaf]
    _check_tensor(f"{folder}: tensor {name}", tensors[name], place, target)
  params, state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  variables = params | state
  for name, place in places.items():
    target = variables[place.module][place.leaf]
    part = target if place.layer is None else target[place.layer]
    part[...] = place.layout.to_ours(tensors[name])
  _complete_averages(state)
  return spec, params, state


def save(
  folder: str | os.PathLike,
  spec: Mapping[str, Any],
  params: Tree,
  state: Tree,
) -> None:
  """Writes a model of ours for `from_pretrained`.

  A classifier whose query is not added to what it reads gets a bias that takes
  the query off again, because theirs always add it.

  Args:
    folder: Where to; made if it is not there. Of a model that is, the files
      are replaced.
    spec: Its spec.
    params: Its parameters.
    state: Its state.

  Raises:
    UserError: No class of theirs computes it, or parameters or state are not
      those of the spec; then nothing is written. Or the folder cannot be
      written.
  """
  folder = pathlib.Path(folder)
  adds = _adds_query(spec)
  architecture, config = configs.config_of(adds, _num_positions(params))
  theirs = configs.spec_of(architecture, config)
  shapes = _shapes("spec", theirs, ARCHITECTURES[architecture].raw(config))
  variables = {
    **_checked("params", params, shapes[0]),
    **_checked("state", state, shapes[1]),
  }
  if adds is not spec:
    _take_query_off(variables)
  places = names.places(architecture, config["num_self_attends_per_block"])
  tensors = {
    name: _theirs(variables[place.module][place.leaf], place)
    for name, place in places.items()
  }
  try:
    folder.mkdir(parents=True, exist_ok=True)
    _write_tensors(folder / _WEIGHTS, tensors)
    configs.write(folder / _CONFIG, architecture, config)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{folder} cannot be written: {error}") from error


def _shapes(where: Any, spec: Mapping[str, Any], raw: Any) -> tuple[Any, Any]:
  """Shapes of parameters and state; nothing is allocated."""
  model = hk.transform_with_state(
    lambda x: zoo.build(spec)(x, is_training=True)
  )
  try:
    return jax.eval_shape(model.init, jax.random.key(0), raw)
  except (ValueError, ArithmeticError) as error:
    raise UserError(f"{where} does not make a model: {error}") from error


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  if (folder / _WEIGHTS).exists():
    return _read_file(folder / _WEIGHTS)
  if (folder / _INDEX).exists():
    return _read_shards(folder)
  for name in _PICKLES:
    if (folder / name).exists():
      raise UserError(
        f"{folder / name} is a pickle, which could run code and is not read:"
        " load it with transformers and save_pretrained it as safetensors"
      )
  raise UserError(f"{folder} has neither {_WEIGHTS} nor {_INDEX}")


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    return safetensors.numpy.load_file(path)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error


def _read_shards(folder: pathlib.Path) -> dict[str, np.ndarray]:
  path = folder / _INDEX
  try:
    files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    shards = sorted(set(files.values()))
  except (OSError, ValueError, RecursionError, LookupError) as error:
    raise UserError(f"{path} cannot be read: {error!r}") from error
  except (AttributeError, TypeError) as error:
    raise UserError(f"{path} does not map tensors to files") from error
  tensors = {}
  for shard in shards:
    if not isinstance(shard, str) or pathlib.PurePath(shard).name != shard:
      raise UserError(f"{path} names {shard!r}, which is no file beside it")
    found = _read_file(folder / shard)
    listed = [name for name, file in files.items() if file == shard]
    _check_names(f"{folder / shard}: tensors", found, listed)
    tensors |= found
  return tensors


def _check_tensor(
  what: str,
  tensor: np.ndarray,
  place: names.Place,
  target: jax.ShapeDtypeStruct,
) -> None:
  empty = np.broadcast_to(np.zeros((), target.dtype), target.shape)
  shape = _at(empty, place).shape
  if tensor.shape != shape:
    raise UserError(
      f"{what} has shape {tensor.shape}; the config makes it {shape}"
    )
  kind = jnp.floating if target.dtype == np.float32 else jnp.integer
  if not jnp.issubdtype(tensor.dtype, kind):
    raise UserError(
      f"{what} has type {tensor.dtype}; save it as {kind.__name__}"
    )


def _at(array: np.ndarray, place: names.Place) -> np.ndarray:
  """What a tensor of theirs is in our array."""
  part = array if place.layer is None else array[place.layer]
  return place.layout.to_theirs(part)


def _theirs(array: np.ndarray, place: names.Place) -> np.ndarray:
  dtype = np.float32 if array.dtype == np.float32 else np.int64
  return np.array(_at(array, place), dtype, order="C")


def _complete_averages(state: Variables) -> None:
  """Fills the leaves of running statistics that theirs do not have."""
  for leaves in state.values():
    leaves["hidden"] = leaves["average"].copy()
    count = np.maximum(state[names.MEAN]["counter"], _SETTLED)
    leaves["counter"] = count.astype(np.int32)


def _write_tensors(
  path: pathlib.Path, tensors: Mapping[str, np.ndarray]
) -> None:
  """Writes beside, then renames, so that no half-written file is left."""
  part = path.with_name(f"{path.name}.part")
  try:
    safetensors.numpy.save_file(dict(tensors), part, {"format": "pt"})
    part.replace(path)
  finally:
    part.unlink(missing_ok=True)


def _adds_query(spec: Mapping[str, Any]) -> Mapping[str, Any]:
  """The same spec; if it is a classifier's, one that adds the query."""
  decoder = dict(spec["decoder"])
  if decoder["kind"] != "query" or decoder.get("use_query_residual", True):
    return spec
  return {**spec, "decoder": decoder | {"use_query_residual": True}}


def _take_query_off(variables: Variables) -> None:
  output = variables["decoder/cross_attend/attention/output"]
  query = variables["decoder/query"]["embeddings"][0]
  variables["decoder/cross_attend/attention/output"] = {
    **output,
    "b": output["b"] - query,
  }


def _num_positions(params: Tree) -> int:
  table = params.get("adapter/positions", {}).get("embeddings")
  return 0 if table is None else len(table)


def _checked(what: str, tree: Tree, shapes: Tree) -> Variables:
  """The arrays of a tree, if they are those of the spec."""
  found = {
    f"{m}/{k}": x for m, leaves in tree.items() for k, x in leaves.items()
  }
  wanted = {
    f"{m}/{k}": x for m, leaves in shapes.items() for k, x in leaves.items()
  }
  _check_names(what, found, wanted)
  for name, x in wanted.items():
    if np.shape(found[name]) != x.shape:
      raise UserError(
        f"{what}: {name} has shape {np.shape(found[name])}; the spec makes it"
        f" {x.shape}"
      )
  return {
    module: {k: np.asarray(tree[module][k], x.dtype) for k, x in leaves.items()}
    for module, leaves in shapes.items()
  }


def _check_names(
  what: str, found: Iterable[str], wanted: Iterable[str]
) -> None:
  found, wanted = set(found), set(wanted)
  problems = [
    f"{label} {_listed(some)}"
    for label, some in (
      ("missing are", wanted - found),
      ("not used are", found - wanted),
    )
    if some
  ]
  if problems:
    raise UserError(f"{what} are not those of the model: {'; '.join(problems)}")


def _listed(some: Iterable[str]) -> str:
  some = sorted(some)
  more = f" and {len(some) - 6} more" if len(some) > 6 else ""
  return ", ".join(some[:6]) + more
