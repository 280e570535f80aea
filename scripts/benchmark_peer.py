"""Hugging Face's Perceiver of the sizes of one of ours, for `benchmark`.

Its weights are random: only time is compared. Needs torch and transformers:
pip install -e '.[huggingface]'.
"""

from collections.abc import Callable
from typing import Any

import jax
import torch
import transformers

from perceiver_jax.models import zoo
from perceiver_jax.weights import huggingface_configs

_POSITIONS = 224 * 224  # Rows of the learned table at ImageNet's size.


def functions(
  name: str, batch_size: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
  """A forward pass and a train step (gradients, plain gradient descent).

  Args:
    name: Of `models.zoo`: one that transformers has a class for.
    batch_size: Examples.
  """
  torch.manual_seed(0)
  model = _model(name)
  inputs = _inputs(name, batch_size)

  def forward():
    with torch.no_grad():
      return model(**inputs).logits

  def step():
    model.train()
    (model(**inputs).logits ** 2).mean().backward()
    with torch.no_grad():
      for parameter in model.parameters():
        if parameter.grad is not None:
          parameter -= 1e-3 * parameter.grad
          parameter.grad = None
    model.eval()

  return forward, step


def _model(name: str) -> Any:
  rows = _POSITIONS if name == "imagenet_learned" else 0
  architecture, config = huggingface_configs.config_of(zoo.spec(name), rows)
  settings = transformers.PerceiverConfig(
    **config, attention_probs_dropout_prob=0.0
  )
  return getattr(transformers, architecture)(settings).eval()


def _inputs(name: str, batch_size: int) -> dict[str, Any]:
  raw = zoo.MODELS[name].example(batch_size)
  if not isinstance(raw, jax.ShapeDtypeStruct):
    raise SystemExit(f"{name}: its peer takes several inputs; not supported")
  if zoo.MODELS[name].has_input_mask:
    tokens = torch.randint(6, 262, raw.shape)
    return {"inputs": tokens, "attention_mask": torch.ones_like(tokens)}
  x = torch.rand(raw.shape) * 2 - 1
  if len(raw.shape) == 4:
    return {"inputs": x.permute(0, 3, 1, 2)}
  return {"inputs": _flow_patches(x)}


def _flow_patches(frames: torch.Tensor) -> torch.Tensor:
  """Theirs takes the 3 x 3 patches of each frame, channels first."""
  batch, time, height, width, channels = frames.shape
  x = frames.permute(0, 1, 4, 2, 3).reshape(-1, channels, height, width)
  x = torch.nn.functional.unfold(x, 3, padding=1)
  return x.reshape(batch, time, -1, height, width)
