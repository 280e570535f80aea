"""Reads the section `data.corpora` of the configs of language models."""

import math

import ml_collections

from perceiver_jax.checks import check_leaf
from perceiver_jax.data.text.corpora import Documents, make_documents
from perceiver_jax.errors import UserError


def weights(corpora: ml_collections.ConfigDict) -> dict[str, float]:
  """Returns the weights of the corpora that are used.

  Raises:
    UserError: no corpus is used, or a weight is out of range.
  """
  values = {name: corpus.weight for name, corpus in corpora.items()}
  for name, weight in values.items():
    check_leaf(
      f"data.corpora.{name}.weight",
      weight,
      0 <= weight < math.inf,
      "a positive number, or 0 to leave the corpus out",
    )
  used = {name: weight for name, weight in values.items() if weight}
  if not used:
    raise UserError(
      "no corpus of config.data.corpora has a weight; give one a positive"
      " weight"
    )
  return used


def documents(
  corpora: ml_collections.ConfigDict, name: str, role: str
) -> Documents:
  """Returns the documents of a corpus.

  Args:
    corpora: the section of the config.
    name: name of the corpus.
    role: "train" or "eval".

  Raises:
    UserError: there is no document, or one can't be read.
  """
  corpus = corpora[name]
  return make_documents(
    corpus.source,
    split=corpus.train_split if role == "train" else corpus.eval_split,
    **corpus.arguments.to_dict().get(corpus.source, {}),
  )
