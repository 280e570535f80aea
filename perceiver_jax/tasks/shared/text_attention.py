"""Shows the attention of single latents to the characters of a text.

Perceiver IO, Figure 7. Shapes: L tokens of the text, M tokens with padding, N
latents.
"""

from collections.abc import Sequence

import numpy as np

from perceiver_jax.data.text.tokenizers import Tokenizer
from perceiver_jax.viz import attention_maps, attention_sections
from perceiver_jax.viz.sections import Section


def section(
  attention: np.ndarray,
  tokens: np.ndarray,
  tokenizer: Tokenizer,
  latents: Sequence[int] = (),
  head: int | None = None,
  *,
  is_softmax: bool = True,
) -> Section:
  """Returns a section that shows the text once for each latent.

  Args:
    attention: weights or logits of a cross-attend to the text, [heads, N, M].
    tokens: tokens of the text, [L], without padding.
    tokenizer: tokenizer of the model.
    latents: indices of latents; by default 8, evenly spaced.
    head: index of a head; by default the mean over all.
    is_softmax: whether `attention` has weights, which are added over the bytes
      of a character; of logits, the largest is used.
  """
  latents = latents or attention_maps.choose_latents(attention.shape[1])
  rows = attention_maps.latent_attention(attention, latents, head)
  starts = tokenizer.starts(tokens)
  texts = [tokenizer.display(part) for part in np.split(tokens, starts[1:])]
  merge = np.add if is_softmax else np.maximum
  texts_by_latent = []
  for latent, row in zip(latents, rows, strict=True):
    values = merge.reduceat(row[: len(tokens)], starts)
    if not is_softmax:
      values = values - values.min()
    strengths = (values / max(values.max(), 1e-30)).tolist()
    spans = list(zip(texts, strengths, strict=True))
    title = f"latent {latent}"
    texts_by_latent.append(attention_sections.TextAttention(title, spans))
  values_name = "the attention weight" if is_softmax else "the attention logit"
  if len(attention) > 1:
    mean = f"mean of {len(attention)} heads"
    values_name += f", {mean if head is None else f'head {head}'}"
  return attention_sections.text_attention(texts_by_latent, values_name)
