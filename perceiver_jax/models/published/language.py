"""Masked language models (Perceiver IO v3, Tables 1, 11 and 15).

Queries and keys have 256 channels, as in the released checkpoint; this also
fits the published counts of IO++.
"""

from jax import numpy as jnp

from perceiver_jax.models.published.entry import Entry, array, deep


def _language(
  vocab_size: int,
  length: int,
  sizes: tuple[int, int, int],
  num_parameters: int,
  note: str = "",
) -> Entry:
  num_latents, channels, depth = sizes
  widths = {"qk_channels": 256}
  spec = {
    "adapter": {
      "kind": "text",
      "vocab_size": vocab_size,
      "num_channels": 768,
      "max_length": length,
    },
    "encoder": deep(
      num_latents, channels, depth,
      num_cross_attend_heads=8, v_channels=channels, **widths,
    ),
    "decoder": {
      "kind": "masked_lm",
      "max_length": length,
      "num_query_channels": 768,
      "num_heads": 8,
      "v_channels": 768,
      "use_query_residual": False,
      **widths,
    },
  }  # fmt: skip
  tokens = array(length, dtype=jnp.int32)
  return Entry(spec, tokens, num_parameters, note, has_input_mask=True)


def _bert(
  vocab_size: int,
  length: int,
  channels: int,
  sizes: tuple[int, int],
  num_parameters: int,
  note: str = "",
) -> Entry:
  depth, num_heads = sizes
  spec = {
    "adapter": {
      "kind": "text",
      "vocab_size": vocab_size,
      "num_channels": channels,
      "max_length": length,
    },
    "encoder": {
      "kind": "transformer",
      "num_layers": depth,
      "num_heads": num_heads,
      "widening_factor": 4,
    },
    "decoder": {"kind": "token"},
  }
  tokens = array(length, dtype=jnp.int32)
  return Entry(spec, tokens, num_parameters, note, has_input_mask=True)


_BERT_NOTE = (
  "BERT's segment embeddings, which distinguish two sentences, are left out,"
  " since its pretraining here has single texts"
)
_LM_NOTE = (
  "the published operations leave out the decoder's projection and MLP and"
  " count the logits' multiply-adds once; IO++ does not"
)
MODELS = {
  "language_bytes": _language(
    262, 2048, (256, 1280, 26), 201_108_230,
    note=_LM_NOTE,
  ),
  "language_bytes_plus_plus": _language(
    262, 2048, (256, 1536, 40), 425_607_430,
  ),
  "language_sentencepiece": _language(
    32_000, 512, (256, 1280, 26), 223_155_456,
    note=_LM_NOTE,
  ),
  "language_bytes_128": _language(
    262, 2048, (128, 1920, 26), 430_132_230,
    note=_LM_NOTE,
  ),
  "language_bytes_512": _language(
    262, 2048, (512, 896, 26), 105_849_862,
    note=_LM_NOTE,
  ),
  "byte_bert": _bert(
    262, 2048, 512, (6, 8), 20_098_310,
    note=_BERT_NOTE,
  ),
  "bert_base": _bert(
    32_000, 512, 768, (12, 12), 110_057_216,
    note=_BERT_NOTE + "; the published operations of BERT Base count the"
    " logits' multiply-adds once",
  ),
}  # fmt: skip
