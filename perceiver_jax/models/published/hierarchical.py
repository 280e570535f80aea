"""Hierarchical Perceivers (arXiv 2202.10890) at the authors' sizes.

Their positions are learned by masked autoencoding, with the label of an image
as an input and an output of the bottleneck.
"""

from perceiver_jax.models.published.entry import Entry, array

_CLASSES = 1000


def _entry(
  num_groups: tuple[int, ...],
  num_latents: tuple[int, ...],
  num_latent_channels: tuple[int, ...],
  num_self_attends: tuple[int, ...],
  num_self_attend_heads: tuple[int, ...],
  num_channels: int,
  num_parameters: int,
) -> Entry:
  """Returns a model of ImageNet's pixels from the sizes of all its blocks."""
  sizes = {
    "num_groups": num_groups,
    "num_latents": num_latents,
    "num_latent_channels": num_latent_channels,
    "num_self_attends": num_self_attends,
    "num_self_attend_heads": num_self_attend_heads,
  }
  middle = len(num_groups) // 2
  blocks = lambda part: {
    "kind": "hierarchical",
    **{leaf: values[part] for leaf, values in sizes.items()},
  }
  spec = {
    "adapter": {
      "kind": "grouped",
      "num_channels": num_channels,
      "modalities": ("image",),
      "label_modalities": ("label",),
    },
    "encoder": blocks(slice(middle + 1)),
    "decoder": blocks(slice(middle + 1, None)),
  }
  raw = {"image": array(224, 224, 3), "label": array(1, _CLASSES)}
  return Entry(spec, raw, num_parameters)


def _flat(
  num_latents: int, num_channels: int, depth: int, num_heads: int, count: int
) -> Entry:
  """Returns one of the flat Perceivers IO in the authors' code."""
  same = {"num_latents": num_latents, "num_latent_channels": num_channels}
  spec = {
    "adapter": {
      "kind": "grouped",
      "num_channels": num_channels,
      "modalities": ("image", "label"),
    },
    "encoder": {
      "kind": "hierarchical",
      "num_groups": (1,),
      **same,
      "num_self_attends": depth,
      "num_self_attend_heads": num_heads,
      "num_cross_attend_heads": num_heads,
      "cross_attend_widening_factor": 4,
    },
    # Without blocks: the positions query the bottleneck.
    "decoder": {
      "kind": "hierarchical",
      "num_groups": (),
      **same,
      "num_self_attends": 0,
      "num_self_attend_heads": num_heads,
    },
  }
  raw = {"image": array(224, 224, 3), "label": array(1, _CLASSES)}
  return Entry(spec, raw, count)


MODELS = {
  "hip_16": _entry(
    (16, 4, 1, 1, 1, 4, 16),
    (128, 256, 256, 64, 256, 256, 128),
    (128, 256, 512, 1024, 512, 256, 128),
    (2, 2, 18, 2, 1, 1, 1),
    (4, 8, 16, 32, 16, 8, 4),
    32,
    105_492_683,
  ),
  "hip_256": _entry(
    (256, 64, 16, 4, 1, 1, 1, 4, 16, 64, 256),
    (32, 64, 128, 256, 256, 64, 256, 256, 128, 64, 32),
    (64, 96, 128, 256, 512, 1024, 256, 128, 64, 32, 16),
    (1, 1, 2, 2, 18, 2, 1, 1, 1, 1, 1),
    (1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1),
    16,
    101_071_899,
  ),
  "hip_16x3": _entry(
    (16, 1, 16), (128, 256, 128), (128, 1024, 128), (2, 18, 2), (4, 32, 4), 32,
    237_458_635,
  ),
  "hip_mini": _entry(
    (16, 1, 16), (128, 64, 128), (128, 1024, 128), (2, 1, 1), (4, 32, 4), 32,
    22_927_947,
  ),
  "hip_io_50m": _flat(1024, 512, 8, 8, 57_195_499),
  "hip_io_150m": _flat(1024, 896, 12, 16, 177_896_427),
}  # fmt: skip
