"""Converts texts to inputs of a GLUE model, and its outputs to answers.

Shapes: M tokens of a text, P maximum number of outputs of a task.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from perceiver_jax.data.text import (
  byte_tokenizer,
  sentence_pairs,
  tokenizers,
)
from perceiver_jax.data.text.glue_tasks import Task
from perceiver_jax.data.text.tokenizers import Tokenizer
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.viz import sections

FIRST_TOKENS = ("none", "cls", "task")
# Range of the scores of STS-B.
_LOWEST_SCORE, _HIGHEST_SCORE = 0.0, 5.0


class GlueTexts(NamedTuple):
  """Converts texts to tokens and outputs to answers.

  Attributes:
    tasks: the tasks by name, in the order in which the model numbers them.
    tokenizer: the tokenizer of the model.
    length: M.
    first_token: one of `FIRST_TOKENS`.
  """

  tasks: Mapping[str, Task]
  tokenizer: Tokenizer
  length: int
  first_token: str

  def describe_model(self, tokenizer_name: str) -> base.ModelDescription:
    """Describes the tokens and the outputs.

    Args:
      tokenizer_name: see `tokenizers.describe_tokens`.
    """
    names = ", ".join(f"{i} {name}" for i, name in enumerate(self.tasks))
    firsts = [self.token_before(i) for i in range(len(self.tasks))]
    before = {
      "none": "",
      "cls": f" after the token {firsts[0]}",
      "task": f" after the token of the task: {firsts[0]} for task 0 and so on",
    }[self.first_token]
    outputs = "; ".join(
      f"{name}: {', '.join(task.classes) or 'a score'}"
      for name, task in self.tasks.items()
    )
    return base.ModelDescription(
      {
        "tokens": f"one text, or two joined by the token SEP{before};"
        f" {tokenizers.describe_tokens(tokenizer_name)}",
        "task": f"the number of the task: {names}",
      },
      {
        "logits": "logits of the classes of the task, whose softmax is the"
        " probabilities, or its score, then -1e9 where a task has fewer;"
        f" {outputs}"
      },
    )

  def tokens(self, number: int, texts: Sequence[str]) -> np.ndarray:
    """Returns the tokens int32 [M] of one or two texts of a task."""
    first = self.token_before(number)
    return sentence_pairs.join(texts, self.tokenizer, self.length, first)

  def token_before(self, number: int) -> int | None:
    """Returns the token that precedes the texts of a task; None for none."""
    return {
      "none": None,
      "cls": byte_tokenizer.CLS,
      "task": self.tokenizer.vocab_size + number,
    }[self.first_token]

  def batch_of(self, name: str, texts: Sequence[Sequence[str]]) -> Batch:
    """Returns a batch of given texts, without labels.

    Args:
      name: name of the task.
      texts: for each example the one or two texts that the task takes.
    """
    number = list(self.tasks).index(name)
    return {
      "tokens": np.stack([self.tokens(number, each) for each in texts]),
      "task": np.full(len(texts), number, np.int32),
    }

  def probabilities(self, name: str, outputs: np.ndarray) -> np.ndarray:
    """Returns the probabilities of a task's classes, from the outputs [P]."""
    count = len(self.tasks[name].classes)
    return special.softmax(outputs[:count])

  def answer(self, name: str, outputs: np.ndarray) -> tuple[str, float | None]:
    """Returns the class and its probability, or the score and None.

    Args:
      name: name of the task.
      outputs: outputs of the model for one text, [P].
    """
    task = self.tasks[name]
    if not task.classes:
      score = float(np.clip(outputs[0], _LOWEST_SCORE, _HIGHEST_SCORE))
      return f"{score:.3f}", None
    probabilities = self.probabilities(name, outputs)
    best = int(probabilities.argmax())
    return task.classes[best], float(probabilities[best])

  def sample(
    self, tokens: np.ndarray, label: float, number: int, outputs: np.ndarray
  ) -> sections.TextSample:
    """Returns an example with its prediction, for the report.

    Args:
      tokens: tokens of the text, [M].
      label: index of a class, or a score.
      number: number of the task.
      outputs: outputs of the model, [P].
    """
    name = list(self.tasks)[number]
    classes = self.tasks[name].classes
    label_name = classes[int(label)] if classes else f"{label:.3f}"
    # Leaves out the tokens of tasks, which the tokenizer does not know.
    known = tokens[tokens < self.tokenizer.vocab_size]
    text = self.tokenizer.display(known[known != byte_tokenizer.PAD])
    return sections.TextSample(text, label_name, *self.answer(name, outputs))
