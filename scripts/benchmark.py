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
dm-haiku (and optax for lamb). --peer=transformers adds Hugging Face's model of
the same sizes, eager (needs torch and transformers).
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import haiku as hk
import jax
from absl import app, flags
from jax import numpy as jnp

from perceiver_jax.models import execution, flops, zoo

_MODELS = flags.DEFINE_list(
  "models", ["imagenet_fourier"], "Names from perceiver_jax.models.zoo."
)
_WAYS = flags.DEFINE_list(
  "ways", ["auto"], "Ways to compute them: auto, plain, or choices."
)
_PEER = flags.DEFINE_enum(
  "peer", "none", ["none", "transformers"], "Whose model to time as well."
)
_BATCH = flags.DEFINE_integer("batch_size", 1, "Examples.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls.", lower_bound=1)
_OPTIMIZER = flags.DEFINE_enum(
  "optimizer", "sgd", ["sgd", "lamb"], "What updates the parameters."
)
_TRAIN = flags.DEFINE_bool("train", True, "Also time the train step.")
_JSON = flags.DEFINE_string("json", "", "File to write the figures to.")

_PEAK_SIZE = 2048
_MIB = 2**20


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  if len(argv) > 1:
    _refuse(f"unexpected argument {argv[1]!r}; flags start with --")
  unknown = [name for name in _MODELS.value if name not in zoo.MODELS]
  if unknown:
    choices = ", ".join(zoo.MODELS)
    _refuse(f"--models: {unknown[0]!r} is none of {choices}")
  ways = {name: _execution(name) for name in _WAYS.value}
  device, peak = jax.devices()[0], matmul_peak()
  print(
    f"jax {jax.__version__}, {device.device_kind}, batch {_BATCH.value},"
    f" float32, median of {_REPEATS.value}; matrix products reach"
    f" {peak / 1e9:.0f} GFLOP/s"
  )
  rows = []
  for name in _MODELS.value:
    for way, how in ways.items():
      print(f"{name}, {way}: compiling and running ...", flush=True)
      rows.append({"model": name, "way": way, **measure(name, how, peak)})
    rows += _peer_rows(name)
  print(table(rows))
  if _JSON.value:
    facts = {"jax": jax.__version__, "device": device.device_kind}
    with open(_JSON.value, "w", encoding="utf-8") as file:
      json.dump({**facts, "peak": peak, "rows": rows}, file, indent=2)


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
  compiled, found = _compile(jax.jit(forward), params, state, raw)
  seconds = median(lambda: compiled(params, state, raw))
  row = {
    "compile": found["compile"],
    "forward": seconds,
    "forward MiB": found["temporary"] / _MIB,
    "GFLOP": count / 1e9,
    "GFLOP by XLA": found["flops"] / 1e9,
    "of peak": count / seconds / peak,
  }
  if _TRAIN.value:
    step, carry = _train_step(model, params)
    compiled, found = _compile(step, carry, state, raw)
    row["compile step"] = found["compile"]
    row["step"] = _median_step(compiled, carry, state, raw)
    row["step / 3 forward"] = row["step"] / (3 * seconds)
    row["step MiB"] = found["temporary"] / _MIB
  return row


def matmul_peak() -> float:
  """Operations a second of large float32 matrix products."""
  x = jnp.ones((_PEAK_SIZE, _PEAK_SIZE), jnp.float32)
  product = jax.jit(lambda x: x @ x)
  return 2 * _PEAK_SIZE**3 / median(lambda: product(x))


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Rows under their columns' names; what a row lacks is '-'."""
  names = list(dict.fromkeys(name for row in rows for name in row))
  cells = [names] + [[_text(row.get(n, "-")) for n in names] for row in rows]
  widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
  return "\n".join(
    "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True))
    for line in cells
  )


def median(fn: Callable[[], Any]) -> float:
  """Seconds of a call, after one that is not counted."""
  times = []
  for _ in range(_REPEATS.value + 1):
    start = time.perf_counter()
    jax.block_until_ready(fn())
    times.append(time.perf_counter() - start)
  return statistics.median(times[1:])


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


def _compile(fn: Any, *args: Any) -> tuple[Any, dict[str, float]]:
  lowered = fn.lower(*args)
  start = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  return compiled, {
    "compile": seconds,
    "temporary": memory.temp_size_in_bytes,
    "flops": compiled.cost_analysis().get("flops", 0.0),
  }


def _median_step(compiled: Any, carry: Any, state: Any, raw: Any) -> float:
  def call():
    nonlocal carry
    carry = compiled(carry, state, raw)
    return carry

  return median(call)


def _peer_rows(name: str) -> list[dict[str, Any]]:
  """Hugging Face's model of the same sizes: forward and train step."""
  if _PEER.value == "none":
    return []
  from scripts import benchmark_peer

  print(f"{name}, transformers: running ...", flush=True)
  forward, step = benchmark_peer.functions(name, _BATCH.value)
  row = {"model": name, "way": "transformers", "forward": median(forward)}
  if _TRAIN.value:
    row["step"] = median(step)
  return [row]


def _made_up(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  if jnp.issubdtype(leaf.dtype, jnp.integer):
    return jax.random.randint(jax.random.key(1), leaf.shape, 6, 262)
  return jax.random.uniform(jax.random.key(1), leaf.shape, leaf.dtype, -1, 1)


def _text(value: Any) -> str:
  return value if isinstance(value, str) else f"{value:,.4g}"


if __name__ == "__main__":
  app.run(main)
