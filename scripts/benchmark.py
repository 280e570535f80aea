"""Times models of the papers: python -m scripts.benchmark --models=flow.

One row a model and way to compute it (perceiver_jax/models/execution.py):
"auto", what this project does; "plain", what the authors' code does: layers
unrolled, the full attention matrix, nothing folded; or choices joined by +, as
in "depth=unroll+absorb=never". Columns: seconds to compile the forward pass and
the train step, seconds of each, temporary memory, operations by count and by
XLA (which counts the body of a loop once), the forward pass's share of what
large matrix products reach in the same run, and the step over three forward
passes.

The train step is loss, gradients and an update of the parameters: plain
gradient descent, or --optimizer=lamb as in the papers. It needs only jax and
dm-haiku (and optax for lamb).

--peer adds a PyTorch model of the same sizes, eager and compiled, and how many
times as fast the first way is. --peer=transformers is Hugging Face's (pip
install torch transformers); --peer=perceiver_pytorch, lucidrains', for
imagenet_icml, with its gated MLP replaced by the paper's, a sixth of it (pip
install torch perceiver-pytorch). --scaling times one cross-attend over 2,048 to
1,048,576 inputs instead. --norun compiles only: memory and operations, for what
is too large or too slow to run here.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import (
  Any,
  NoReturn,
)

import haiku as hk
import jax
from absl import (
  app,
  flags,
)
from jax import numpy as jnp

from perceiver_jax.models import (
  execution,
  flops,
  zoo,
)
from scripts import benchmark_scaling
from scripts import benchmark_timing as timing

_PEERS = ("transformers", "perceiver_pytorch")
_MODELS = flags.DEFINE_list(
  "models", ["imagenet_fourier"], "Names from perceiver_jax.models.zoo."
)
_WAYS = flags.DEFINE_list(
  "ways", ["auto"], "Ways to compute them: auto, plain, or choices."
)
_PEER = flags.DEFINE_enum(
  "peer", "none", ["none", *_PEERS], "Whose model to time as well."
)
_SCALING = flags.DEFINE_bool(
  "scaling", False, "Time one cross-attend over more and more inputs instead."
)
_BATCH = flags.DEFINE_integer("batch_size", 1, "Examples.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls.", lower_bound=1)
_OPTIMIZER = flags.DEFINE_enum(
  "optimizer", "sgd", ["sgd", "lamb"], "What updates the parameters."
)
_TRAIN = flags.DEFINE_bool("train", True, "Also time the train step.")
_RUN = flags.DEFINE_bool("run", True, "Run what is compiled.")
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_POSITIONS = 224 * 224  # Rows of the learned table at ImageNet's size.


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  if len(argv) > 1:
    _refuse(f"unexpected argument {argv[1]!r}; flags start with --")
  unknown = [name for name in _MODELS.value if name not in zoo.MODELS]
  if unknown:
    choices = ", ".join(zoo.MODELS)
    _refuse(f"--models: {unknown[0]!r} is none of {choices}")
  ways = {name: _execution(name) for name in _WAYS.value}
  device, peak = jax.devices()[0], timing.matmul_peak(_REPEATS.value)
  print(
    f"jax {jax.__version__}, {device.device_kind}, batch {_BATCH.value},"
    f" float32, median of {_REPEATS.value}; matrix products reach"
    f" {peak / 1e9:.0f} GFLOP/s"
  )
  rows, ratios = [], []
  if _SCALING.value:
    for way, how in ways.items():
      rows += benchmark_scaling.rows(way, how, _BATCH.value, _REPEATS.value)
  else:
    for name in _MODELS.value:
      found = _model_rows(name, ways, peak)
      rows += found
      ratios += _ratios(found)
  print("\n".join([timing.table(rows), *ratios]))
  if _JSON.value:
    facts = {"jax": jax.__version__, "device": device.device_kind}
    with open(_JSON.value, "w", encoding="utf-8") as file:
      json.dump({**facts, "peak": peak, "rows": rows}, file, indent=2)


def _model_rows(
  name: str, ways: dict[str, execution.Execution], peak: float
) -> list[dict[str, Any]]:
  rows = []
  for way, how in ways.items():
    print(f"{name}, {way}: compiling and running ...", flush=True)
    rows.append({"model": name, "way": way, **measure(name, how, peak)})
  if _PEER.value != "none":
    peer = _PEER.value
    for way, is_compiled in ((peer, False), (f"{peer} compiled", True)):
      print(f"{name}, {way}: running ...", flush=True)
      rows.append({"model": name, "way": way, **_peer(name, is_compiled)})
  return rows


def _ratios(rows: Sequence[dict[str, Any]]) -> list[str]:
  """How many times as fast (and small) the first way is as each other."""
  first, *others = rows
  lines = []
  for row in others:
    parts = [
      f"{column} {row[column] / first[column]:.3g} x"
      for column in ("forward", "step", "compile step", "step MiB")
      if first.get(column) and row.get(column)
    ]
    lines.append(
      f"{row['model']}: {row['way']} over {first['way']}: {', '.join(parts)}"
    )
  return lines


def measure(
  name: str, how: execution.Execution, peak: float
) -> dict[str, float]:
  """Figures of one model, by the names of the table's columns."""
  entry, spec = zoo.MODELS[name], zoo.spec(name)

  def run(raw, is_training):
    with execution.use(how):
      return zoo.build(spec)(raw, is_training=is_training)

  model = hk.transform_with_state(run)
  raw = jax.tree.map(_made_up, entry.example(_BATCH.value))
  params, state = jax.jit(model.init, static_argnums=2)(
    jax.random.key(0), raw, True
  )

  def forward(params, state, raw):
    return model.apply(params, state, None, raw, False)[0].logits

  count = flops.count_flops(forward, params, state, raw)
  compiled, found = timing.compiled(jax.jit(forward), params, state, raw)
  row = {"compile": found["compile"]}
  if _RUN.value:
    row["forward"] = timing.median(
      lambda: compiled(params, state, raw), _REPEATS.value
    )
  row |= {
    "forward MiB": found["temporary"] / timing.MIB,
    "GFLOP": count / 1e9,
    "GFLOP by XLA": found["flops"] / 1e9,
  }
  if _RUN.value:
    row["of peak"] = count / row["forward"] / peak
  if _TRAIN.value:
    step, carry = _train_step(model, params)
    compiled, found = timing.compiled(step, carry, state, raw)
    row["compile step"] = found["compile"]
    if _RUN.value:
      row["step"] = _median_step(compiled, carry, state, raw)
      row["step / 3 forward"] = row["step"] / (3 * row["forward"])
    row["step MiB"] = found["temporary"] / timing.MIB
  return row


def _execution(way: str) -> execution.Execution:
  if way == "auto":
    return execution.Execution()
  if way == "plain":
    return execution.PLAIN
  try:
    choices = dict(part.partition("=")[::2] for part in way.split("+"))
    with execution.use(**choices):
      return execution.current()
  except ValueError as error:
    _refuse(f"--ways={way}: {error}")


def _refuse(message: str) -> NoReturn:
  """Ends with one line; absl's own errors print every flag."""
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def _train_step(model: hk.TransformedWithState, params: Any) -> tuple:
  """A jitted `(carry, state, raw) -> carry` and its first carry, donated."""
  if _OPTIMIZER.value == "lamb":
    from perceiver_jax.training import optimizers

    optimizer = optimizers.make_optimizer(
      "lamb", lambda _: 2e-3, weight_decay=0.1, clip_norm=10.0
    )
    start, update = optimizer.init(params), optimizer.update
  else:
    start = ()
    update = lambda g, s, _: (jax.tree.map(lambda x: -1e-3 * x, g), s)

  def loss(params, state, raw):
    out, _ = model.apply(params, state, None, raw, True)
    return sum(jnp.mean(x**2) for x in jax.tree.leaves(out.logits))

  def step(carry, state, raw):
    params, opt_state = carry
    grads = jax.grad(loss)(params, state, raw)
    updates, opt_state = update(grads, opt_state, params)
    return jax.tree.map(jnp.add, params, updates), opt_state

  copy = jax.tree.map(jnp.copy, params)
  return jax.jit(step, donate_argnums=0), (copy, start)


def _median_step(compiled: Any, carry: Any, state: Any, raw: Any) -> float:
  def call():
    nonlocal carry
    carry = compiled(carry, state, raw)
    return carry

  return timing.median(call, _REPEATS.value)


def _peer(name: str, is_compiled: bool) -> dict[str, float]:
  """Figures of the peer's model of the same sizes; see `benchmark_peer`."""
  entry, raw = zoo.MODELS[name], zoo.MODELS[name].example(_BATCH.value)
  if not isinstance(raw, jax.ShapeDtypeStruct):
    _refuse(f"--peer: {name} takes several inputs, which is not supported")
  if _PEER.value == "transformers":
    # Here, since it needs more than jax and dm-haiku.
    from perceiver_jax.weights.huggingface import config as huggingface_config

    rows = _POSITIONS if name == "imagenet_learned" else 0
    architecture, config = huggingface_config.config_from_spec(
      zoo.spec(name), rows
    )
  else:
    architecture, config = "Perceiver", _perceiver_pytorch(name, raw.shape)
  request = {
    "package": _PEER.value,
    "architecture": architecture,
    "config": config,
    "shape": raw.shape,
    "is_text": entry.has_input_mask,
    "is_compiled": is_compiled,
    "train": _TRAIN.value,
    "repeats": _REPEATS.value,
  }
  done = subprocess.run(
    [sys.executable, "-m", "scripts.benchmark_peer"],
    input=json.dumps(request),
    stdout=subprocess.PIPE,
    text=True,
    check=False,
  )
  if done.returncode:
    _refuse(f"--peer={_PEER.value}: its process failed; its error is above")
  return json.loads(done.stdout.splitlines()[-1])


def _perceiver_pytorch(name: str, shape: Sequence[int]) -> dict[str, Any]:
  """Arguments of perceiver_pytorch's Perceiver for images of `shape`.

  Its first block has weights of its own, beside those that the others share.
  """
  if name != "imagenet_icml":
    _refuse(f"--peer=perceiver_pytorch: has no {name}; use imagenet_icml")
  spec = zoo.spec(name)
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


def _made_up(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return jax.random.randint(jax.random.key(1), leaf.shape, 6, 262)
  return jax.random.uniform(jax.random.key(1), leaf.shape, leaf.dtype, -1, 1)


if __name__ == "__main__":
  app.run(main)
