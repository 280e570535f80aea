"""Times the papers' models: python -m scripts.benchmark --models=flow.

Prints one row for each model and implementation. An implementation is "auto",
the default; "plain", which computes as DeepMind's code does (unrolled layers,
the full attention matrix, no absorbed projections); or choices joined by +,
such as "remat=full+absorb_projections=never" (see
perceiver_jax/models/ops/execution.py). The columns are the seconds to compile
the forward pass and the train step, the seconds of each, temporary memory,
operations as we count them and as XLA does (which counts the body of a loop
once), the forward pass's share of the speed of large matrix products in the
same run, and the step's time over that of three forward passes.

The train step computes the loss and its gradients and updates the parameters by
plain gradient descent, or with --optimizer=lamb as in the papers. The benchmark
needs only jax and dm-haiku (and optax for lamb).

--baseline adds a PyTorch model of the same sizes, eager and compiled, and its
time and memory relative to the first implementation. --baseline=transformers is
Hugging Face's (pip install torch transformers). --baseline=perceiver_pytorch is
lucidrains', for imagenet_icml only, with its gated MLP replaced by the paper's,
which is a sixth as large (pip install torch perceiver-pytorch).

--published shows the models in the papers' units, beside what the papers
measured and on which devices: train steps per second and operations (Perceiver
IO v3, Tables 1, 8, 10 and 17), and frames of optical flow per second at
1088 x 436 pixels (app. H; --models=flow,flow_conv_light). With --norun it only
counts operations.

--scaling times one cross-attention over 2,048 to 1,048,576 inputs instead.
--norun only compiles, and reports memory and operations of models that are too
large or too slow to run here.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import haiku as hk
import jax
from absl import app, flags
from jax import numpy as jnp

from perceiver_jax import files
from perceiver_jax.models import flops, zoo
from perceiver_jax.models.ops.execution import PLAIN, Execution
from scripts.benchmark import published, scaling, steps, timing

_BASELINES = ("transformers", "perceiver_pytorch")
_MODELS = flags.DEFINE_list(
  "models", ["imagenet_fourier"], "Names from perceiver_jax.models.zoo."
)
_IMPLEMENTATIONS = flags.DEFINE_list(
  "implementations", ["auto"], "auto, plain, or choices joined by +."
)
_BASELINE = flags.DEFINE_enum(
  "baseline",
  "none",
  ["none", *_BASELINES],
  "Package whose model is timed as well.",
)
_SCALING = flags.DEFINE_bool(
  "scaling", False, "Time one cross-attend by the number of inputs instead."
)
_PUBLISHED = flags.DEFINE_bool(
  "published",
  False,
  "Show train steps, frames and operations as the papers do, and what they"
  " measured.",
)
_BATCH = flags.DEFINE_integer(
  "batch_size", 1, "Examples per batch.", lower_bound=1
)
_REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Number of timed calls.", lower_bound=1
)
_OPTIMIZER = flags.DEFINE_enum(
  "optimizer", "sgd", steps.OPTIMIZERS, "Optimizer of the train step."
)
_TRAIN = flags.DEFINE_bool("train", True, "Also time the train step.")
_RUN = flags.DEFINE_bool(
  "run", True, "Run the compiled functions; --norun only compiles."
)
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_POSITIONS = 224 * 224  # Rows of the learned table at ImageNet's size.


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  if len(argv) > 1:
    _refuse(f"unexpected argument {argv[1]!r}; flags start with --")
  for name in ("models", "implementations"):
    if not flags.FLAGS[name].value:
      _refuse(f"--{name} is empty; --help lists the flags")
  unknown = [name for name in _MODELS.value if name not in zoo.MODELS]
  if unknown:
    choices = ", ".join(zoo.MODELS)
    _refuse(f"--models: {unknown[0]!r} is none of {choices}")
  implementations = {name: _execution(name) for name in _IMPLEMENTATIONS.value}
  if _JSON.value:
    _check_writable(files.as_path(_JSON.value))
  device, peak = jax.devices()[0], timing.matmul_peak(_REPEATS.value)
  print(
    f"jax {jax.__version__}, {device.device_kind}, batch {_BATCH.value},"
    f" float32, median of {_REPEATS.value}; matrix products reach"
    f" {peak / 1e9:.0f} GFLOP/s"
  )
  rows, ratios = [], []
  if _SCALING.value:
    for implementation, choices in implementations.items():
      rows += scaling.rows(
        implementation, choices, _BATCH.value, _REPEATS.value, _RUN.value
      )
  elif _PUBLISHED.value:
    rows, ratios = _published_rows(implementations)
  else:
    for name in _MODELS.value:
      model_rows = _model_rows(name, implementations, peak)
      rows += model_rows
      ratios += _ratios(model_rows)
  print("\n".join([timing.table(rows), *ratios]))
  if _JSON.value:
    versions = {"jax": jax.__version__, "device": device.device_kind}
    text = json.dumps({**versions, "peak": peak, "rows": rows}, indent=2)
    files.write_text(_JSON.value, text)


def _parse(argv: Sequence[str]) -> Sequence[str]:
  """Parses flags; `experiments.launch` does too, but needs more packages."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _refuse(f"{error}; --help lists the flags")


def _check_writable(path: Path) -> None:
  """Checks that a file can be written, and creates its folder."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.check_writable(path)
  except OSError as error:
    _refuse(f"--json={path} can't be written: {error}; give another --json")


def _published_rows(
  implementations: dict[str, Execution],
) -> tuple[list[dict[str, Any]], list[str]]:
  """Returns rows and ratios of --published."""
  choices = published.choices()
  for name in _MODELS.value:
    if name not in choices:
      choices = ", ".join(choices)
      _refuse(f"--published: {name} has no published speed; use {choices}")
  if len(implementations) > 1:
    _refuse("--published takes one of --implementations")
  (execution,) = implementations.values()
  rows = []
  for name in _MODELS.value:
    print(f"{name}: counting and running ...", flush=True)
    rows += published.measure(
      name,
      execution,
      batch_size=_BATCH.value,
      repeats=_REPEATS.value,
      optimizer=_OPTIMIZER.value,
      run=_RUN.value,
    )
  return rows, published.ratios(rows)


def _model_rows(
  name: str, implementations: dict[str, Execution], peak: float
) -> list[dict[str, Any]]:
  rows = []
  for implementation, choices in implementations.items():
    print(f"{name}, {implementation}: compiling and running ...", flush=True)
    rows.append(
      {
        "model": name,
        "implementation": implementation,
        **measure(name, choices, peak),
      }
    )
  if _BASELINE.value != "none":
    baseline = _BASELINE.value
    for implementation, is_compiled in (
      (baseline, False),
      (f"{baseline} compiled", True),
    ):
      print(f"{name}, {implementation}: running ...", flush=True)
      rows.append(
        {
          "model": name,
          "implementation": implementation,
          **_baseline(name, is_compiled),
        }
      )
  return rows


def _ratios(rows: Sequence[dict[str, Any]]) -> list[str]:
  """Returns lines with time and memory relative to those of the first row."""
  first, *others = rows
  lines = []
  for row in others:
    parts = [
      f"{column} {row[column] / first[column]:.3g} x"
      for column in ("forward", "step", "compile step", "step MiB")
      if first.get(column) and row.get(column)
    ]
    lines.append(
      f"{row['model']}: {row['implementation']} over"
      f" {first['implementation']}: {', '.join(parts)}"
    )
  return lines


def measure(name: str, choices: Execution, peak: float) -> dict[str, float]:
  """Measures one model; returns its figures by the table's columns."""
  entry, spec = zoo.MODELS[name], zoo.get_spec(name)

  def run(raw, is_training):
    return zoo.build(spec, choices)(raw, is_training=is_training)

  model = hk.transform_with_state(run)
  raw = steps.random_inputs(entry.example(_BATCH.value))
  params, state = jax.jit(model.init, static_argnums=2)(
    jax.random.key(0), raw, True
  )

  def forward(params, state, raw):
    return model.apply(params, state, None, raw, False)[0].logits

  count = flops.count_flops(forward, params, state, raw)
  compiled, costs = timing.compiled(jax.jit(forward), params, state, raw)
  row = {"compile": costs["compile"]}
  if _RUN.value:
    row["forward"] = timing.median(
      lambda: compiled(params, state, raw), _REPEATS.value
    )
  row |= {
    "forward MiB": costs["temporary"] / timing.MIB,
    "GFLOP": count / 1e9,
    "GFLOP by XLA": costs["flops"] / 1e9,
  }
  if _RUN.value:
    row["of peak"] = count / row["forward"] / peak
  if _TRAIN.value:
    step, carry = steps.train_step(model, params, _OPTIMIZER.value)
    compiled, costs = timing.compiled(step, carry, state, raw)
    row["compile step"] = costs["compile"]
    if _RUN.value:
      row["step"] = steps.median_step(
        compiled, carry, state, raw, _REPEATS.value
      )
      row["step / 3 forward"] = row["step"] / (3 * row["forward"])
    row["step MiB"] = costs["temporary"] / timing.MIB
  return row


def _execution(text: str) -> Execution:
  if text == "auto":
    return Execution()
  if text == "plain":
    return PLAIN
  try:
    choices = dict(part.partition("=")[::2] for part in text.split("+"))
    return Execution.from_choices(choices)
  except ValueError as error:
    _refuse(f"--implementations={text}: {error}")


def _refuse(message: str) -> NoReturn:
  """Exits with a one-line error; absl's own errors would print every flag."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def _baseline(name: str, is_compiled: bool) -> dict[str, float]:
  """Returns figures of a PyTorch model of the same sizes, from `baselines`."""
  raw = zoo.MODELS[name].example(_BATCH.value)
  if not isinstance(raw, jax.ShapeDtypeStruct):
    _refuse(f"--baseline: {name} takes several inputs, which is not supported")
  if _BASELINE.value == "transformers":
    # Imported here because it needs more than jax and dm-haiku.
    from perceiver_jax.weights.huggingface import config as huggingface_config

    rows = _POSITIONS if name == "imagenet_learned" else 0
    architecture, config = huggingface_config.config_from_spec(
      zoo.get_spec(name), rows
    )
  else:
    architecture, config = "Perceiver", _perceiver_pytorch(name, raw.shape)
  request = {
    "package": _BASELINE.value,
    "architecture": architecture,
    "config": config,
    "shape": raw.shape,
    "is_text": jnp.issubdtype(raw.dtype, jnp.integer),
    "is_compiled": is_compiled,
    "train": _TRAIN.value,
    "repeats": _REPEATS.value,
  }
  done = subprocess.run(
    [sys.executable, "-m", "scripts.benchmark.baselines"],
    input=json.dumps(request),
    stdout=subprocess.PIPE,
    text=True,
    check=False,
  )
  if done.returncode:
    _refuse(
      f"--baseline={_BASELINE.value}: its process failed; its error is above"
    )
  return json.loads(done.stdout.splitlines()[-1])


def _perceiver_pytorch(name: str, shape: Sequence[int]) -> dict[str, Any]:
  """Returns arguments of perceiver_pytorch's Perceiver for images of `shape`.

  Its first block has separate weights; the others share theirs.
  """
  if name != "imagenet_icml":
    _refuse(f"--baseline=perceiver_pytorch: has no {name}; use imagenet_icml")
  spec = zoo.get_spec(name)
  adapter, encoder = spec["adapter"], spec["encoder"]
  bands, heads = adapter["num_bands"], encoder["num_self_attend_heads"]
  width = encoder["num_latent_channels"]
  return {
    "num_freq_bands": bands,
    "max_freq": shape[1],
    "depth": encoder["num_blocks"],
    "num_latents": encoder["num_latents"],
    "latent_dim": width,
    "cross_heads": encoder["num_cross_attend_heads"],
    "cross_dim_head": shape[-1] + 2 * (2 * bands + 1),
    "latent_heads": heads,
    "latent_dim_head": width // heads,
    "num_classes": spec["num_classes"],
    "weight_tie_layers": True,
    "self_per_cross_attn": encoder["num_self_attends_per_block"],
  }


if __name__ == "__main__":
  app.run(main, flags_parser=_parse)
