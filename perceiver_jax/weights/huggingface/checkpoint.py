"""Loads and saves the Perceivers of Hugging Face's transformers.

A checkpoint is a folder with config.json and model.safetensors, or shards of it
and model.safetensors.index.json. Models give the same outputs here and in
transformers. Besides the layout (PyTorch has channels second), inputs and
outputs differ as follows:

- Masked language modeling: transformers decodes `max_position_embeddings`
  positions for any input, and this project as many as there are tokens. Models
  trained with `use_query_mask` give other outputs at padding.
- Optical flow: transformers takes the 3x3 patches around each pixel, and this
  project frames. Both give flow in the model's unit
  (`modalities.flow.PIXELS_PER_UNIT`).
- Multimodal autoencoding: transformers always masks the label; give
  `masked={"label": ...}` here. It joins the decoded patches of audio. Here, the
  points to decode are given as `queries`.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import haiku as hk
import jax
import numpy as np
import safetensors
from jax import numpy as jnp

from perceiver_jax import files
from perceiver_jax.errors import UserError
from perceiver_jax.models import zoo
from perceiver_jax.weights import model, spec_checks
from perceiver_jax.weights import tensors as tensor_files
from perceiver_jax.weights.huggingface import config as config_json
from perceiver_jax.weights.huggingface import names
from perceiver_jax.weights.huggingface.architectures import ARCHITECTURES

Variables = dict[str, dict[str, np.ndarray]]
Tree = Mapping[str, Mapping[str, Any]]

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# After this many updates, the bias correction of Haiku's running averages
# (which PyTorch does not have) is negligible.
_DEBIASED_COUNT = 10_000


def load(
  folder: str | os.PathLike,
) -> tuple[dict[str, Any], Variables, Variables]:
  """Loads a checkpoint of transformers.

  Args:
    folder: A folder written by `save_pretrained`.

  Returns:
    A spec for `zoo.build`, and the parameters and state of its model in
    float32.

  Raises:
    UserError: A file is missing, damaged or of another kind of model, or the
      names or shapes of the tensors do not match the configuration.
  """
  folder = files.as_path(folder)
  architecture, config = config_json.read(folder / _CONFIG)
  tensors = _read_tensors(folder)
  spec = config_json.spec_from_config(architecture, config)
  spec_checks.check_spec(spec, folder / _CONFIG)
  locations = names.locations(
    architecture, config["num_self_attends_per_block"]
  )
  _check_names(f"{folder}: tensors", tensors, locations)
  spec_checks.check_size(spec, sum(x.size for x in tensors.values()), folder)
  shapes = _shapes(
    folder, spec, ARCHITECTURES[architecture].dummy_inputs(config)
  )
  abstract = shapes[0] | shapes[1]
  for name, location in locations.items():
    target = abstract[location.module][location.leaf]
    _check_tensor(f"{folder}: tensor {name}", tensors[name], location, target)
  params, state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  variables = params | state
  for name, location in locations.items():
    target = variables[location.module][location.leaf]
    part = target if location.layer is None else target[location.layer]
    part[...] = location.layout.from_torch(tensors[name])
  _complete_averages(state)
  return spec, params, state


def save(
  folder: str | os.PathLike,
  spec: Mapping[str, Any],
  params: Tree,
  state: Tree,
) -> None:
  """Saves a model for `from_pretrained`.

  The classifiers of transformers always add the query to the output of the
  decoder's attention. A classifier that does not gets a bias that subtracts the
  query again.

  Args:
    folder: Target folder; created if it does not exist. The files of a model
      in it are replaced.
    spec: The spec.
    params: The parameters.
    state: The state.

  Raises:
    UserError: No class of transformers computes the model, or parameters or
      state do not match the spec (then nothing is written), or the folder
      cannot be written.
  """
  folder = files.as_path(folder)
  residual_spec = _with_query_residual(spec)
  architecture, config = config_json.config_from_spec(
    residual_spec, _num_positions(params)
  )
  saved_spec = config_json.spec_from_config(architecture, config)
  shapes = _shapes(
    "spec", saved_spec, ARCHITECTURES[architecture].dummy_inputs(config)
  )
  variables = {
    **_checked("params", params, shapes[0]),
    **_checked("state", state, shapes[1]),
  }
  if residual_spec is not spec:
    _subtract_query(variables)
  locations = names.locations(
    architecture, config["num_self_attends_per_block"]
  )
  tensors = {
    name: _to_torch(variables[location.module][location.leaf], location)
    for name, location in locations.items()
  }
  try:
    folder.mkdir(parents=True, exist_ok=True)
    tensor_files.write(folder / _WEIGHTS, tensors, {"format": "pt"})
    config_json.write(folder / _CONFIG, architecture, config)
  except (OSError, safetensors.SafetensorError) as error:
    raise UserError(f"{folder} cannot be written: {error}") from error


def _shapes(source: Any, spec: Mapping[str, Any], raw: Any) -> tuple[Any, Any]:
  """Returns the shapes of parameters and state without allocating memory."""
  # Tracing takes time for each block, and all blocks share their weights.
  spec = {**spec, "encoder": {**spec["encoder"], "num_blocks": 1}}
  init = hk.transform_with_state(
    lambda x: zoo.build(spec)(x, is_training=True)
  ).init
  try:
    return jax.eval_shape(init, jax.random.key(0), raw)
  except (ValueError, TypeError, ArithmeticError) as error:
    raise UserError(
      f"{source} does not describe a valid model: {error}"
    ) from error


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  if (folder / _WEIGHTS).exists():
    return tensor_files.read(folder / _WEIGHTS)[1]
  if (folder / _INDEX).exists():
    return _read_shards(folder)
  for name in _PICKLES:
    if (folder / name).exists():
      raise UserError(
        f"{folder / name} is a pickle, which could run code and is not read:"
        " load it with transformers and call save_pretrained to get safetensors"
      )
  raise UserError(f"{folder} has neither {_WEIGHTS} nor {_INDEX}")


def _read_shards(folder: pathlib.Path) -> dict[str, np.ndarray]:
  path = folder / _INDEX
  try:
    index = files.read_json(path)
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error
  names = index.get("weight_map") if isinstance(index, dict) else None
  if not isinstance(names, dict):
    raise UserError(f"{path} does not map tensors to files")
  tensors = {}
  for shard in names.values():
    if not isinstance(shard, str) or pathlib.PurePath(shard).name != shard:
      raise UserError(
        f"{path} names {shard!r}, which is not a file in the same folder"
      )
  for shard in sorted(set(names.values())):
    shard_tensors = tensor_files.read(folder / shard)[1]
    listed = [name for name, file in names.items() if file == shard]
    _check_names(f"{folder / shard}: tensors", shard_tensors, listed)
    tensors |= shard_tensors
  return tensors


def _check_tensor(
  what: str,
  tensor: np.ndarray,
  location: names.Location,
  target: jax.ShapeDtypeStruct,
) -> None:
  empty = np.broadcast_to(np.zeros((), target.dtype), target.shape)
  shape = _torch_view(empty, location).shape
  if tensor.shape != shape:
    raise UserError(
      f"{what} has shape {tensor.shape}; the config makes it {shape}"
    )
  kind = jnp.floating if target.dtype == np.float32 else jnp.integer
  if not jnp.issubdtype(tensor.dtype, kind):
    raise UserError(
      f"{what} has type {tensor.dtype}; save it as {kind.__name__}"
    )


def _torch_view(array: np.ndarray, location: names.Location) -> np.ndarray:
  """Returns the part of an array that is one tensor, in PyTorch's layout."""
  part = array if location.layer is None else array[location.layer]
  return location.layout.to_torch(part)


def _to_torch(array: np.ndarray, location: names.Location) -> np.ndarray:
  dtype = np.float32 if array.dtype == np.float32 else np.int64
  return np.array(_torch_view(array, location), dtype, order="C")


def _complete_averages(state: Variables) -> None:
  """Fills the leaves of running statistics that PyTorch does not have."""
  for leaves in state.values():
    leaves["hidden"] = leaves["average"].copy()
    count = np.maximum(state[names.MEAN]["counter"], _DEBIASED_COUNT)
    leaves["counter"] = count.astype(np.int32)


def _with_query_residual(spec: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the spec, with a query residual if it is a classifier's."""
  decoder = dict(spec["decoder"])
  if decoder["kind"] != "classification" or decoder.get(
    "use_query_residual", True
  ):
    return spec
  return {**spec, "decoder": decoder | {"use_query_residual": True}}


def _subtract_query(variables: Variables) -> None:
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
  """Returns the arrays of a tree, if they match the shapes of the spec."""
  given, expected = model.flatten(tree), model.flatten(shapes)
  _check_names(what, given, expected)
  for name, x in expected.items():
    if np.shape(given[name]) != x.shape:
      raise UserError(
        f"{what}: {name} has shape {np.shape(given[name])}; the spec makes it"
        f" {x.shape}"
      )
  return {
    module: {k: np.asarray(tree[module][k], x.dtype) for k, x in leaves.items()}
    for module, leaves in shapes.items()
  }


def _check_names(
  what: str, given: Iterable[str], expected: Iterable[str]
) -> None:
  given, expected = set(given), set(expected)
  problems = [
    f"{label} {_listed(some)}"
    for label, some in (
      ("missing are", expected - given),
      ("not used are", given - expected),
    )
    if some
  ]
  if problems:
    raise UserError(f"{what} are not those of the model: {'; '.join(problems)}")


def _listed(some: Iterable[str]) -> str:
  some = sorted(some)
  more = f" and {len(some) - 6} more" if len(some) > 6 else ""
  return ", ".join(some[:6]) + more
