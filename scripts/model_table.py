"""Prints docs/models.md.

  python -m scripts.model_table > docs/models.md

Counts parameters and operations of every model from shapes alone, without
weights.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments import launch
from perceiver_jax.models import flops, zoo
from perceiver_jax.models.ops.execution import PLAIN
from perceiver_jax.weights import model as weights_model

_HEAD = """\
# The papers' models

`zoo.get_spec(NAME)` returns the spec of a model, and `zoo.build` builds it at
this or another size (`perceiver_jax/models/zoo.py`). Parameter counts are exact
for the models as built here. Operations are counted as in the papers, in a
forward pass of one example: multiplies and adds separately, 3 for each
attention logit, without biases, norms and activations. Published figures are as
printed, parameters in millions and operations in units of 1e9.
`tests/models/test_zoo.py` checks that ours agree with them, up to rounding and
within 0.5%, in all rows without a note.

`python -m scripts.model_table` prints this page.
"""
_WIDTH = 80


def main(argv: Sequence[str]) -> None:
  """Prints the page."""
  launch.no_arguments(argv)
  print(_HEAD)
  print("| model | parameters | published | operations | published | source |")
  print("| --- | ---: | ---: | ---: | ---: | --- |")
  notes: dict[str, list[str]] = {}
  for name, entry in zoo.MODELS.items():
    if entry.note:
      notes.setdefault(entry.note, []).append(name)
    mark = f" ({list(notes).index(entry.note) + 1})" if entry.note else ""
    print(
      f"| `{name}`{mark} | {entry.num_parameters:,} |"
      f" {_or_dash(entry.published_parameters, 'M')} |"
      f" {sizes(entry.spec, entry.example())[1] / 1e9:,.1f} |"
      f" {_or_dash(entry.published_flops, '')} | {entry.source} |"
    )
  print("\nDifferences:\n")
  for number, (note, names) in enumerate(notes.items(), 1):
    line = f"{number}. {', '.join(f'`{n}`' for n in names)}: {note}."
    print("\n   ".join(textwrap.wrap(line, _WIDTH - 3)))


def sizes(spec: Mapping[str, Any], raw: Any) -> tuple[Any, int]:
  """Returns abstract parameters and the operations of a forward pass.

  Args:
    spec: Argument of `zoo.build`.
    raw: Shapes of a batch of raw data.
  """
  # The papers count projections that the other implementations absorb.
  model = weights_model.transform(spec, PLAIN)
  params, state = weights_model.abstract_variables(spec, raw)
  count = flops.count_flops(
    lambda p, s, x: model.apply(p, s, None, x)[0], params, state, raw
  )
  return params, count


def _or_dash(figure: str, unit: str) -> str:
  return f"{figure}{unit}" if figure else "–"


if __name__ == "__main__":
  jax.config.update("jax_platforms", "cpu")
  launch.run(main)
