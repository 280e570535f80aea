"""Compares a run's masked-byte accuracy with an n-gram model's.

  python -m scripts.evaluation.ngram_baseline --workdir=runs/mlm

Counts byte n-grams in the run's training documents, and predicts the masked
bytes of its held-out crops from the unmasked bytes on both sides. Prints the
accuracy of both models.
"""

import json
from collections.abc import Sequence

from absl import flags

from experiments import launch
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import ngram
from perceiver_jax.tasks import masked_lm

launch.define_flags(config_required=False)
_ORDER = flags.DEFINE_integer(
  "order",
  5,
  "n of the n-grams: each byte depends on the n - 1 before it.",
  lower_bound=1,
)
_BATCH = 64


def main(argv: Sequence[str]) -> None:
  """Evaluates both models and prints their accuracy."""
  launch.no_arguments(argv)
  config, task, folder = launch.saved_run()
  if not isinstance(task, masked_lm.MaskedLanguageModel):
    raise UserError(f"{folder} holds a run of {config.task!r}, not masked_lm")
  if config.data.tokenizer != "bytes":
    raise UserError(
      f"{folder} holds a run on subwords; this script compares bytes"
    )
  results = folder / "results.json"
  if not results.exists():
    raise UserError(f"the run in {folder} is not finished; train it first")
  texts = (text.encode("utf-8", "replace") for text in task.train_texts())
  model = ngram.NGram(texts, _ORDER.value)
  pairs = (
    pair
    for batch in task.eval_datasets(global_batch=_BATCH)["eval"]
    for pair in masked_lm.masked_bytes(batch)
  )
  rows = {
    "this run": _accuracy(results.read_text(encoding="utf-8")),
    f"{_ORDER.value}-gram": ngram.accuracy(model, pairs),
  }
  for name, value in rows.items():
    print(f"{name:<10}{value:7.2%} of masked bytes correct")


def _accuracy(text: str) -> float:
  return json.loads(text)["metrics"]["eval/accuracy"]


if __name__ == "__main__":
  launch.run(main)
