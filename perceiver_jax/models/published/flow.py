"""Optical flow models (Perceiver IO v3, app. H and Table 16)."""

from perceiver_jax.models.published.entry import Entry, array, deep

_SIZE = (368, 496)
_NOTE = (
  "the published 27.9M and 987B are those of 16 layers and 1,024 latents; the"
  " table's and the released model have 24 and 2,048"
)


def _flow(
  num_parameters: int,
  patch_size: int = 3,
  concat_frames: bool = True,
  use_convolutions: bool = False,
  depth: int = 24,
  num_latents: int = 2048,
  note: str = "",
) -> Entry:
  factor = 4 if use_convolutions else 1
  grid = tuple(n // factor for n in _SIZE)
  spec = {
    "adapter": {
      "kind": "flow",
      "patch_size": patch_size,
      "concat_frames": concat_frames,
      "use_convolutions": use_convolutions,
      "num_channels": 64,
      "num_bands": 64,
      "max_resolution": grid if concat_frames else (2, *grid),
    },
    "encoder": deep(num_latents, 512, depth, num_self_attend_heads=16),
    "decoder": {
      "kind": "flow",
      "image_size": _SIZE,
      "use_convex_upsampling": use_convolutions,
    },
  }
  return Entry(spec, array(2, *_SIZE, 3), num_parameters, note)


MODELS = {
  "flow": _flow(41_057_134, note=_NOTE),
  "flow_16x1024": _flow(27_908_974, depth=16, num_latents=1024),
  "flow_separate": _flow(41_720_272, concat_frames=False),
  "flow_pixels": _flow(41_054_062, patch_size=1),
  "flow_pixels_separate": _flow(41_718_736, patch_size=1, concat_frames=False),
  "flow_conv": _flow(41_185_146, use_convolutions=True),
  "flow_conv_separate": _flow(
    41_848_602, use_convolutions=True, concat_frames=False
  ),
  "flow_conv_light": _flow(
    28_036_986, use_convolutions=True, depth=16, num_latents=1024
  ),
}
