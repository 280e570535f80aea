"""Computes parameters and operations of the models of the papers' rows.

Tracing a model takes a second, so results are kept in a file until the code of
the models changes.
"""

import hashlib
import importlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import logging
from jax import numpy as jnp

from perceiver_jax import files, models
from perceiver_jax.data.starcraft import features
from perceiver_jax.models import zoo
from perceiver_jax.models.published import tables
from perceiver_jax.weights import model as weights_model
from scripts import model_table

_INPUT_NORM = "encoder/cross_attend_0/input_norm/scale"
_QUERY_NORM = "decoder/cross_attend/query_norm/scale"


class Costs(NamedTuple):
  """Sizes of a model, from shapes alone.

  Attributes:
    parameters: Number of trainable parameters.
    flops: Operations of a forward pass of one example, as the papers count.
    input_channels: Channels of the encoder's keys and values; 0 without a
      cross-attend.
    query_channels: Channels of the output queries; 0 if there are none.
  """

  parameters: int
  flops: int
  input_channels: int = 0
  query_channels: int = 0


def load_config(config: str) -> ml_collections.ConfigDict:
  """Loads `configs/FILE.py:VARIANT`."""
  path, _, variant = config.partition(":")
  module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
  return module.get_config(variant)


def of_rows(
  progress: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> dict[str, Costs]:
  """Returns the costs of each row with a config or a model, by the row's key.

  Args:
    progress: Shows how far an iteration is, like `tqdm.tqdm`.
  """
  specs = {
    row.key: json.dumps(_spec(row), sort_keys=True)
    for row in tables.rows()
    if row.config or row.models
  }
  path = _cache_file()
  known = _read(path)
  # Rows share models, which are traced once.
  missing = [
    spec for spec in dict.fromkeys(specs.values()) if spec not in known
  ]
  for spec in progress(missing) if missing else ():
    known[spec] = of_spec(json.loads(spec))
    _write(path, known)
  return {key: Costs(*known[spec]) for key, spec in specs.items()}


def _cache_file() -> Path:
  """Returns the file of known costs, whose name depends on the code."""
  folder = Path(models.__file__).parent
  digest = hashlib.sha256()
  for file in sorted(folder.rglob("*.py")):
    if file.parent.name != "published":  # Its specs are the keys.
      digest.update(file.read_bytes())
  cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  return cache / "perceiver_jax" / f"costs-{digest.hexdigest()[:16]}.json"


def _read(path: Path) -> dict[str, Any]:
  """Returns the costs that are kept; none if the file can't be read."""
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError):
    return {}


def _write(path: Path, known: Mapping[str, Costs]) -> None:
  """Keeps the costs, unless the folder can't be written."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(known))
  except OSError as error:
    logging.warning("costs are not kept in %s: %s", path, error)


def _spec(row: tables.Row) -> dict[str, Any]:
  if row.models:
    return zoo.get_spec(row.models[0])
  return load_config(row.config).model.to_dict()


def of_spec(spec: Mapping[str, Any]) -> Costs:
  """Returns the costs of a model with an adapter of a published model."""
  # Coordinates that come with the images do not change any size.
  adapter = {**spec["adapter"]}
  adapter.pop("coordinates", None)
  spec = {**spec, "adapter": adapter}
  raw = _example(spec)
  params, flops = model_table.sizes(spec, raw)
  shapes = weights_model.shapes(params)
  return Costs(
    parameters=sum(map(math.prod, shapes.values())),
    flops=flops,
    input_channels=sum(shapes.get(_INPUT_NORM, ())),
    query_channels=sum(shapes.get(_QUERY_NORM, ())),
  )


def _example(spec: Mapping[str, Any]) -> Any:
  """Returns the shapes of a raw example of a published model.

  It is that of the same model, or else of the first one with the same adapter.
  """
  spec = json.loads(json.dumps(spec))  # Tuples are lists then.
  for entry in zoo.MODELS.values():
    if json.loads(json.dumps(entry.spec)) == spec:
      return entry.example()
  adapter = spec["adapter"]
  if adapter.get("kind") == "entity_features":
    # The published models of entities start after this adapter's first layer.
    return _entities(zoo.MODELS["starcraft"].raw.shape[0])
  for entry in zoo.MODELS.values():
    known = json.loads(json.dumps(entry.spec["adapter"]))
    if all(adapter.get(leaf) == value for leaf, value in known.items()):
      return entry.example()
  raise ValueError(f"no published model has the adapter {adapter}")


def _entities(count: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of the encoded features of entities."""
  shapes = {
    "categories": (features.NUM_CATEGORY_COLUMNS, jnp.int32),
    "numbers": (features.NUM_NUMBERS, jnp.float32),
    "positions": (2, jnp.float32),
  }
  return {
    name: jax.ShapeDtypeStruct((1, count, size), dtype)
    for name, (size, dtype) in shapes.items()
  }
