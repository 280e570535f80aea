"""Models for predictions: from --weights, or from the run in --workdir."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from experiments import launch
from perceiver_jax import files
from perceiver_jax.errors import UserError

if TYPE_CHECKING:
  from perceiver_jax import weights as weights_lib

# JAX is imported in functions, because scripts import this module for --help.


def check_flags() -> None:
  """Checks that the flags name one model.

  Raises:
    UserError: A run or its checkpoint is given in addition to --weights.
  """
  values = flags.FLAGS
  for name in ("workdir", "checkpoint"):
    if values.weights and values[name].present:
      raise UserError(
        f"--{name} and --weights are given; give --workdir and --checkpoint,"
        " or --weights alone"
      )


def uses_run() -> bool:
  """Tells whether the model is that of --workdir and not of --weights."""
  return bool(flags.FLAGS.workdir and not flags.FLAGS.weights)


def run_of_weights() -> Path | None:
  """Returns the folder in --weights if it is that of a run."""
  from perceiver_jax.training import workdir

  path = files.as_path(flags.FLAGS.weights).expanduser()
  is_run = flags.FLAGS.weights and (path / workdir.CHECKPOINTS).is_dir()
  return path if is_run else None


def read_spec() -> tuple[dict[str, Any], "weights_lib.Weights | None"]:
  """Returns the spec of the model, and the weights if --weights is given.

  Raises:
    UserError: No model is given, or it can't be read.
  """
  from perceiver_jax import weights as weights_lib
  from perceiver_jax.training import workdir

  if uses_run():
    return workdir.read_config(launch.workdir(), "model").model.to_dict(), None
  if not flags.FLAGS.weights:
    raise UserError(
      "no model is given: --weights takes a file or folder, --workdir a run"
    )
  loaded = weights_lib.load(flags.FLAGS.weights)
  return loaded.spec, loaded


def load_weights(
  decoder_kinds: Sequence[str], *releases: str, loaded: Any = None
) -> Any:
  """Loads --weights, or the weights of the run in --workdir.

  Those of a run are the exported ones, or with --checkpoint a checkpoint's.

  Args:
    decoder_kinds: Kinds of decoder that the command supports.
    *releases: Released models that it supports, for the error message.
    loaded: The weights, if they are loaded already.

  Returns:
    A `perceiver_jax.weights.Weights`.

  Raises:
    UserError: No weights are given, or they are of an unsupported model.
  """
  from perceiver_jax import weights as weights_lib
  from perceiver_jax.weights import model
  from perceiver_jax.weights.deepmind import files as deepmind_files

  path = flags.FLAGS.weights or (flags.FLAGS.workdir and launch.workdir())
  if not path:
    raise UserError(
      "no weights are given: --weights takes a file or folder, --workdir a"
      f" finished run; {deepmind_files.download_hint(*releases)}"
    )
  if uses_run() and flags.FLAGS["checkpoint"].present:
    weights = _restore()
  else:
    weights = loaded or weights_lib.load(path)
  kind = weights.spec["decoder"]["kind"]
  if kind not in decoder_kinds:
    raise UserError(
      f"{path} holds a model with a {kind!r} decoder; this command needs"
      f" {' or '.join(map(repr, decoder_kinds))}"
    )
  model.check_finite(weights, path)
  return weights


def _restore() -> "weights_lib.Weights":
  """Restores --checkpoint of the run in --workdir."""
  from perceiver_jax import weights as weights_lib
  from perceiver_jax.training import restore

  config, task, folder = launch.saved_run()
  restored = restore.restore(config, task, folder, flags.FLAGS.checkpoint)
  params, state = restore.local_params(restored.state)
  return weights_lib.Weights(config.model.to_dict(), params, state)


def jit_apply(weights: Any, **options: Any) -> Callable[..., Any]:
  """Returns a compiled function `apply(raw, **kwargs)` of a model's outputs.

  Args:
    weights: The result of `load_weights`.
    **options: Static options of the model.
  """
  import jax

  from perceiver_jax import weights as weights_lib

  model = weights_lib.transform(weights.spec)
  variables = jax.device_put((weights.params, weights.state))

  @jax.jit
  def apply(variables, raw, kwargs):
    return model.apply(*variables, None, raw, **kwargs, **options)[0]

  def apply_or_explain(raw, **kwargs):
    try:
      return apply(variables, raw, kwargs)
    except (ValueError, TypeError, ArithmeticError) as error:
      raise UserError(
        "the model can't be applied to these inputs: they have another size or"
        " number of channels than the model was trained with, or the weights"
        f" are damaged ({error})"
      ) from error

  return apply_or_explain


def saved_run(
  task_class: type, ability: str, folder: Path | None = None
) -> tuple[Any, Any, Path]:
  """Returns config, task and folder of a run.

  Args:
    task_class: Class of the tasks that the command supports.
    ability: Description of such tasks for the error, such as "classify
      images".
    folder: Folder of the run; by default --workdir.

  Raises:
    UserError: There is no such run, or it is of another task.
  """
  config, task, folder = launch.saved_run(folder)
  if not isinstance(task, task_class):
    raise UserError(
      f"{folder} holds a run of {config.task!r}, which does not {ability}"
    )
  return config, task, folder
