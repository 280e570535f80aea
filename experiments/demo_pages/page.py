"""A page: what it asks for, what it shows, and the function between them."""

import collections
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.predictions import models
from perceiver_jax.errors import UserError


class Input(NamedTuple):
  """A field to fill in.

  Attributes:
    kind: "image" or "file", which give the path of an upload or None; "text";
      or "choice", which gives one of `choices`.
    label: Text above the field.
    hint: Text that explains the field.
    suffixes: Suffixes of a "file".
    choices: Values of a "choice"; the first is the default.
    is_option: Whether the field may stay as it is.
  """

  kind: str
  label: str
  hint: str = ""
  suffixes: Sequence[str] = ()
  choices: Sequence[str] = ()
  is_option: bool = False


class Output(NamedTuple):
  """A part of the result.

  Attributes:
    kind: "classes", a dict of probabilities by name; "image", uint8 [h, w, 3];
      "text"; or "sections", a list of `viz.sections.Section`.
    label: Text above it.
    is_wide: Whether it needs the whole width of the page.
  """

  kind: str
  label: str
  is_wide: bool = False


class Page(NamedTuple):
  """The fields, results and examples of a model's page.

  Attributes:
    title: Title of the page.
    description: One or two sentences below the title.
    inputs: The fields.
    outputs: The parts of the result.
    predict: Takes the values of the fields in order, and returns those of the
      outputs; raises UserError if the model can't take them.
    examples: Values of the fields that are not options.
  """

  title: str
  description: str
  inputs: Sequence[Input]
  outputs: Sequence[Output]
  predict: Callable[..., Sequence[Any]]
  examples: Sequence[Sequence[str]]


# Options of pages that show the attention of single latents.
LATENT_INPUTS = (
  Input("text", "Latents", "0,17,255; empty: 8, evenly spaced", is_option=True),
  Input("text", "Head", "empty: the mean over all heads", is_option=True),
)

# Kind of decoder to module of this package. Classifiers differ in their input.
_BY_DECODER = {
  "entities": "command",
  "flow": "flow",
  "masked_lm": "fill_mask",
  "multimodal": "autoencode",
  "multitask_classification": "classify_text",
  "token": "fill_mask",
  "transformer_entities": "command",
}
_BY_ADAPTER = {
  "image": "classify",
  "multimodal": "classify_clip",
  "points": "classify_points",
}


def make(folder: Path) -> Page:
  """Makes the page of the model in --weights or --workdir.

  Args:
    folder: An existing folder for the files of examples.

  Raises:
    UserError: No model is given, or there is no page for it.
  """
  spec, loaded = models.read_spec()
  decoder = spec["decoder"]["kind"]
  adapter = spec["adapter"].get("kind", "image")
  name = _BY_DECODER.get(decoder) or _BY_ADAPTER.get(adapter)
  if name is None:
    raise UserError(
      f"there is no page for a model with a {adapter!r} adapter and a"
      f" {decoder!r} decoder"
    )
  module = importlib.import_module(f"experiments.demo_pages.{name}")
  return module.make(spec, loaded, folder)


def by_name(
  names: Sequence[str], probabilities: Sequence[float]
) -> dict[str, float]:
  """Returns the probabilities of classes by name.

  Names that several classes share, as "crane" in ImageNet, are followed by the
  number of the class.
  """
  counts = collections.Counter(names)
  return {
    f"{name} ({i})" if counts[name] > 1 else name: probability
    for i, (name, probability) in enumerate(
      zip(names, probabilities, strict=True)
    )
  }


def has_latents(spec: dict[str, Any]) -> bool:
  """Tells whether a model has latents, and so attention to show."""
  return spec["encoder"].get("kind", "perceiver") == "perceiver"


def latent_options(latents: str, head: str) -> dict[str, Any]:
  """Returns the values of `LATENT_INPUTS` for `attention_values.of_encoder`.

  Raises:
    UserError: The head is not a number.
  """
  head = head.strip()
  if head and not head.isdecimal():
    raise UserError(f"head {head!r} is not a number; give one, or none")
  indices = [text.strip() for text in latents.split(",")]
  return {
    "latents": [text for text in indices if text],
    "head": int(head) if head else None,
  }


def path_of(upload: str | None, what: str) -> Path:
  """Returns the path of an upload.

  Raises:
    UserError: There is none.
  """
  if not upload:
    raise UserError(f"nothing is given; drop {what} into the field")
  return Path(upload)


def seconds_of(text: str) -> float:
  """Returns the value of a field for the start of a clip.

  Raises:
    UserError: It is not a number.
  """
  try:
    return float(text or 0)
  except ValueError as error:
    raise UserError(f"start {text!r} is not a number of seconds") from error
