"""Multimodal autoencoders of Kinetics-700 (Perceiver IO v3, app. I, Table 17).

Bands and resolutions are those of the released model, which encodes pixel
queries at a resolution of 56 and patches of audio at one of 30,720.
"""

from perceiver_jax.models.published.entry import Entry, array, deep

_FRAMES, _SIDE, _SAMPLES, _CLASSES = 16, 224, 30_720, 700
_PATCH, _SAMPLES_PER_PATCH = 4, 16
_VIDEO_RESOLUTION = (_FRAMES, _SIDE // _PATCH, _SIDE // _PATCH)


def _autoencoder(num_latents: int, num_parameters: int) -> Entry:
  video = {"num_bands": 32, "max_resolution": _VIDEO_RESOLUTION}
  audio = {"num_bands": 192, "max_resolution": (_SAMPLES,)}
  spec = {
    "adapter": {
      "kind": "multimodal",
      "min_padding": 4,
      "modalities": {
        "audio": {
          "kind": "audio",
          "samples_per_patch": _SAMPLES_PER_PATCH,
          **audio,
        },
        "image": {
          "kind": "image",
          "prep_type": "patches",
          "spatial_downsample": _PATCH,
          **video,
        },
        "label": {"kind": "label"},
      },
    },
    "encoder": deep(num_latents, 512, 8),
    "decoder": {
      "kind": "multimodal",
      "min_padding": 2,
      "num_decoded_channels": 512,
      "outputs": {
        "audio": {
          "shape": (_SAMPLES // _SAMPLES_PER_PATCH,),
          "num_outputs": _SAMPLES_PER_PATCH,
          **audio,
        },
        "image": {
          "shape": (_FRAMES, _SIDE, _SIDE),
          "num_outputs": 3,
          **video,
        },
        "label": {"num_outputs": _CLASSES, "num_query_channels": 1024},
      },
    },
  }
  raw = {
    "audio": array(_SAMPLES, 1),
    "image": array(_FRAMES, _SIDE, _SIDE, 3),
    "label": array(_CLASSES),
  }
  note = "neither published figure follows from the structure"
  return Entry(spec, raw, num_parameters, note)


MODELS = {
  "kinetics_784": _autoencoder(784, 19_858_855),
  "kinetics_392": _autoencoder(392, 19_658_151),
  "kinetics_196": _autoencoder(196, 19_557_799),
}
