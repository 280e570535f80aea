"""Compares a run of a language model of bytes with an n-gram model.

  python -m scripts.evaluation.ngram_baseline --workdir=runs/mlm

Counts byte n-grams in the run's training documents. For a masked language model
it predicts the masked bytes of its held-out crops from the unmasked bytes on
both sides, and prints the accuracy of both models; for an autoregressive model
it predicts each held-out byte from those before it, and prints the bits per
byte of both.
"""

import functools
import json
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from experiments import launch
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import ngram
from perceiver_jax.tasks import autoregressive, masked_lm

launch.define_flags(config_required=False)
_ORDER = flags.DEFINE_integer(
  "order",
  5,
  "n of the n-grams: each byte depends on the n - 1 before it.",
  lower_bound=1,
)
_BATCH = 64
_progress = functools.partial(tqdm, leave=False, disable=None)


def main(argv: Sequence[str]) -> None:
  """Evaluates both models and prints the metric of each."""
  launch.no_arguments(argv)
  config, task, folder = launch.saved_run()
  if not isinstance(
    task, masked_lm.MaskedLanguageModel | autoregressive.Autoregressive
  ):
    raise UserError(
      f"{folder} holds a run of {config.task!r}, not masked_lm or"
      " autoregressive"
    )
  if config.data.get("source", "text") != "text":
    raise UserError(
      f"{folder} holds a run on {config.data.source!r}, not on text"
    )
  if config.data.tokenizer != "bytes":
    raise UserError(
      f"{folder} holds a run on subwords; this script compares bytes"
    )
  results = folder / "results.json"
  if not results.exists():
    raise UserError(f"the run in {folder} is not finished; train it first")
  metrics = json.loads(results.read_text(encoding="utf-8"))["metrics"]
  if isinstance(task, masked_lm.MaskedLanguageModel):
    own = f"{metrics['eval/accuracy']:7.2%}"
    other = f"{_accuracy(task):7.2%}"
    unit = "of masked bytes correct"
  else:
    own = f"{metrics['eval/bits_per_byte']:7.3f}"
    other = f"{_bits_per_byte(task):7.3f}"
    unit = "bits per byte"
  print(f"{'this run':<10}{own} {unit}")
  print(f"{f'{_ORDER.value}-gram':<10}{other} {unit}")


def _accuracy(task: masked_lm.MaskedLanguageModel) -> float:
  """Returns the n-gram model's accuracy of the task's masked bytes."""
  texts = _progress(task.train_texts(), "count")
  model = ngram.NGram(map(_encode, texts), _ORDER.value)
  batches = task.eval_datasets(global_batch=_BATCH)["eval"]
  pairs = (
    pair
    for batch in _progress(batches, "predict", batches.num_batches())
    for pair in masked_lm.masked_bytes(batch)
  )
  return ngram.accuracy(model, pairs)


def _bits_per_byte(task: autoregressive.Autoregressive) -> float:
  """Returns the n-gram model's code length of the task's held-out texts."""
  texts = _progress(task.texts("train"), "count")
  model = ngram.NGram(map(_encode, texts), _ORDER.value)
  texts = _progress(task.texts("eval"), "predict")
  return ngram.bits_per_byte(model, map(_encode, texts))


def _encode(text: str) -> bytes:
  return text.encode("utf-8", "replace")


if __name__ == "__main__":
  launch.run(main)
