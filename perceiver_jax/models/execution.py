"""How a model is computed, which does not change what it computes.

Every choice has an exact alternative, tested equal in value and gradient;
"auto" picks by counted cost. Choices hold for the models that are traced inside
`use`, and are no part of a model's spec:

    with execution.use(attention="xla", absorb="never"):
      out = model.apply(...)
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

CHOICES = {
  "attention": ("auto", "xla", "head_major", "chunked", "cudnn"),
  "absorb": ("auto", "never", "inputs", "latents"),
  "share_positions": ("auto", "never"),
  "fuse_qkv": ("auto", "never", "always"),
  "backward": ("auto", "derived", "written"),
  "depth": ("scan", "unroll"),
  "remat": ("auto", "nothing", "dots", "mlp", "layers"),
  "cut_queries": ("auto", "never"),
}


class Execution(NamedTuple):
  """The choices; see `CHOICES` for their values.

  Attributes:
    attention: How logits, softmax and values are computed: "xla", as plain
      products; "head_major", the same with heads before elements; "chunked",
      without the full matrix (see `chunked`); "cudnn", in one kernel of NVIDIA
      GPUs (see `fused`).
    absorb: Whether a single-head cross-attend folds projections into its
      "inputs" (see `reading`) or its "latents" side.
    share_positions: Whether positions that all examples share meet learned
      queries once a batch.
    fuse_qkv: Whether a self-attend projects to queries, keys and values in one
      product.
    backward: Whether the backward passes of linear layers and norms are those
      that autodiff derives or those written in `layers`; "auto" takes the
      written ones on CPUs.
    depth: Whether the self-attends of a block are scanned or unrolled.
    remat: What the backward pass recomputes of a self-attend: "nothing";
      "dots", all but its products with weights; "mlp", the MLP's first product
      too;
      "layers", everything; "auto" is "layers" where `EncoderConfig.remat` says
      so, else "mlp" (docs/performance.md has time and memory of each).
    cut_queries: Whether a decoder with many output queries decodes them part
      by part, each recomputed in the backward pass.
  """

  attention: str = "auto"
  absorb: str = "auto"
  share_positions: str = "auto"
  fuse_qkv: str = "auto"
  backward: str = "auto"
  depth: str = "scan"
  remat: str = "auto"
  cut_queries: str = "auto"


# Each layer by itself, the full matrix, no folding: the definition.
PLAIN = Execution(
  attention="xla",
  absorb="never",
  share_positions="never",
  fuse_qkv="never",
  backward="derived",
  depth="unroll",
  remat="nothing",
  cut_queries="never",
)

_AUTO = Execution()
_notes = contextvars.ContextVar("notes", default=None)
_current = contextvars.ContextVar("execution", default=_AUTO)


def current() -> Execution:
  """The choices in force."""
  return _current.get()


@contextlib.contextmanager
def use(base: Execution | None = None, **choices: str) -> Iterator[None]:
  """Models traced inside are computed as chosen.

  Args:
    base: Choices to start from; those in force if not given.
    **choices: Fields of `Execution`.

  Raises:
    ValueError: A field or a value is unknown.
  """
  for name in choices:
    if name not in CHOICES:
      known = ", ".join(CHOICES)
      raise ValueError(f"execution.{name}: choose one of {known}")
  how = (base or current())._replace(**choices)
  for name, value in how._asdict().items():
    if value not in CHOICES[name]:
      known = ", ".join(CHOICES[name])
      raise ValueError(f"execution.{name} {value!r}: choose one of {known}")
  token = _current.set(how)
  try:
    yield
  finally:
    _current.reset(token)


@contextlib.contextmanager
def noted() -> Iterator[dict[str, None]]:
  """Collects, in order, what was chosen for models traced inside."""
  notes: dict[str, None] = {}
  token = _notes.set(notes)
  try:
    yield notes
  finally:
    _notes.reset(token)


def note(text: str) -> None:
  """Says what was chosen, to whoever collects it."""
  if (notes := _notes.get()) is not None:
    notes[text] = None
