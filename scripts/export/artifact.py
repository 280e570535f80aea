"""Exported programs, and the JSON files that describe them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from experiments.predictions import outputs as outputs_lib
from perceiver_jax import files as files_lib
from perceiver_jax import weights as weights_lib
from perceiver_jax.errors import UserError
from perceiver_jax.training import step as step_lib
from perceiver_jax.weights import safetensors_file
from scripts.export.subject import Subject

# JAX stores a program in a FlatBuffer, which has less than 2 GiB.
_MAX_BYTES = 2**31 - 2**24
_LATENTS = (
  "the processed latents; their mean over the second axis is a feature vector"
)


class Files(NamedTuple):
  """The files of an exported model.

  Attributes:
    program: The artifact of `jax.export`.
    description: A JSON file.
    weights: A safetensors file; None if the program holds the weights.
  """

  program: Path
  description: Path
  weights: Path | None

  @classmethod
  def of(cls, path: Path, separate_weights: bool) -> "Files":
    """Returns the files beside a program."""
    weights = path.with_suffix(".safetensors") if separate_weights else None
    return cls(path, path.with_suffix(".json"), weights)


def export_model(
  subject: Subject,
  platforms: Sequence[str],
  *,
  batch_size: int = 0,
  separate_weights: bool = False,
) -> export.Exported:
  """Exports a model as a function of its inputs.

  Args:
    subject: The model.
    platforms: Platforms on which the program shall run.
    batch_size: Number of examples in a call; 0 for any number.
    separate_weights: Whether the arrays of a weights file are the function's
      first argument, not constants of the program.

  Raises:
    UserError: The task describes no inputs, or the weights are too large.
  """
  inputs = _abstract_inputs(subject, batch_size)
  arrays = safetensors_file.to_arrays(subject.weights)
  apply = _function(subject)
  if separate_weights:
    return export.export(jax.jit(apply), platforms=platforms)(arrays, inputs)
  size = sum(array.nbytes for array in arrays.values())
  if size > _MAX_BYTES:
    raise UserError(
      f"the weights have {size:,} bytes, and a program holds at most"
      f" {_MAX_BYTES:,}; add --separate_weights"
    )
  constants = jax.device_put(arrays)
  run = jax.jit(lambda inputs: apply(constants, inputs))
  return export.export(run, platforms=platforms)(inputs)


def _abstract_inputs(subject: Subject, batch_size: int) -> dict[str, Any]:
  """Returns the shapes and types of the inputs.

  Raises:
    UserError: The task does not describe them.
  """
  names = subject.task.describe_model().inputs
  if not names:
    raise UserError(
      f"the task {subject.config.task!r} does not say what its model takes;"
      " define its method describe_model"
    )
  batch = subject.task.dummy_batch()
  size = batch_size or export.symbolic_shape("b")[0]
  abstract = lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
  return {name: abstract(batch[name]) for name in names}


def _function(subject: Subject) -> Any:
  """Returns a function from weights and inputs to outputs, all flat dicts."""
  model = step_lib.model_of(subject.task, subject.config.precision)

  def apply_to_one(arrays, example):
    params, state = safetensors_file.from_arrays(arrays)
    batch = {name: x[None] for name, x in example.items()}
    out, _ = model.apply(params, state, None, batch, False)
    by_name = isinstance(out.logits, Mapping)
    outputs = dict(out.logits) if by_name else {"logits": out.logits}
    # Those of a Hierarchical Perceiver are several arrays.
    outputs["latents"] = getattr(out.latents, "bottleneck", out.latents)
    return {name: x[0] for name, x in outputs.items()}

  # The models choose among implementations by comparing sizes, which needs a
  # known batch size. So they are applied to one example, and mapped.
  return jax.vmap(apply_to_one, in_axes=(None, 0))


def describe(
  exported: export.Exported, subject: Subject, files: Files
) -> dict[str, Any]:
  """Returns the description of a program, as JSON data."""
  model = subject.task.describe_model()
  meanings = {**model.outputs, "latents": _LATENTS}
  arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
  results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  call = "(weights, inputs)" if files.weights else "(inputs)"
  batch_size = next(iter(arguments[-1].values())).shape[0]
  any_size = "" if isinstance(batch_size, int) else "; b is any size"
  description = {
    "program": files.program.name,
    "format": f"jax.export; exported.call{call} takes and returns dicts of"
    f" arrays by name, whose first axis is the batch{any_size}",
    "jax_version": jax.__version__,
    "calling_convention_version": exported.calling_convention_version,
    "platforms": list(exported.platforms),
    "task": str(subject.config.task),
    "inputs": _describe_arrays(arguments[-1], model.inputs),
    "outputs": _describe_arrays(results, meanings),
  }
  if files.weights:
    description["weights"] = files.weights.name
  if subject.class_names:
    description["class_names"] = list(subject.class_names)
  return description


def _describe_arrays(
  arrays: Mapping[str, Any], meanings: Mapping[str, str]
) -> dict[str, Any]:
  """Returns shape, type and meaning by name; "b" is the batch axis."""
  return {
    name: {
      "shape": [n if isinstance(n, int) else str(n) for n in x.shape],
      "dtype": np.dtype(x.dtype).name,
      "meaning": meanings.get(name, ""),
    }
    for name, x in arrays.items()
  }


def write(
  files: Files,
  exported: export.Exported,
  description: Mapping[str, Any],
  weights: weights_lib.Weights,
) -> None:
  """Writes the files of an exported model.

  Raises:
    UserError: One can't be written.
  """
  with outputs_lib.writing(files.program, "another --out"):
    files_lib.write_bytes(files.program, exported.serialize())
    text = json.dumps(description, indent=2, ensure_ascii=False)
    files_lib.write_text(files.description, text + "\n")
  if files.weights:
    weights_lib.save(files.weights, weights)
