"""AudioSet classifiers (Perceiver v2, Table 3; Perceiver IO v3, Table 10).

Inputs of 487 channels imply 16 bands per dimension for video. Bands for audio
are not stated; chosen are 64 for raw samples, so that 128 samples and their
features leave room for the learned padding, and 192 for a spectrogram. The
model of the attention maps reads single samples and smaller patches.
"""

from collections.abc import Mapping
from typing import Any

from perceiver_jax.models.published.entry import Entry, array, deep, encoder

_AUDIO = {
  "raw": (
    {"kind": "audio", "samples_per_patch": 128, "num_bands": 64},
    array(61_440, 1),
  ),
  "samples": (
    {"kind": "audio", "samples_per_patch": 1, "num_bands": 64},
    array(61_440, 1),
  ),
  "mel": (
    {"kind": "audio", "samples_per_patch": 1, "num_bands": 192},
    array(4_800, 1),
  ),
}
_VIDEO = (
  {
    "kind": "image",
    "prep_type": "patches",
    "spatial_downsample": 8,
    "temporal_downsample": 2,
    "num_bands": 16,
  },
  array(32, 224, 224, 3),
)
# The first paper's encoder: ImageNet's latents, 512 x 1,024, with nothing
# shared and 2 cross-attends x 8 self-attends (Perceiver, section 4.2).
_ICML = encoder(
  num_blocks=2,
  num_self_attends_per_block=8,
  num_cross_attends=2,
  share_cross_attends="none",
  share_blocks=False,
)
_AVERAGE = {"kind": "average_and_project"}
# Like ImageNet's, with 1,024 query channels (Perceiver IO v3, Table 6).
_QUERY = {"kind": "classification", "num_query_channels": 1024}


# That of the model whose attention the Perceiver's Figures 16 to 31 show.
_FINE_VIDEO = ({**_VIDEO[0], "spatial_downsample": 4}, _VIDEO[1])


def _audioset(
  audio: str,
  video: tuple[Mapping[str, Any], Any] | None,
  sizes: Mapping[str, Any],
  decoder: Mapping[str, Any],
  num_parameters: int,
  note: str = "",
) -> Entry:
  chosen = {"audio": _AUDIO[audio]} if audio else {}
  chosen |= {"image": video} if video else {}
  spec = {
    "num_classes": 527,
    "adapter": {
      "kind": "multimodal",
      "min_padding": 4 if len(chosen) > 1 else 0,
      "use_mask_tokens": False,
      "modalities": {name: dict(part) for name, (part, _) in chosen.items()},
    },
    "encoder": dict(sizes),
    "decoder": dict(decoder),
  }
  raw = {name: shape for name, (_, shape) in chosen.items()}
  return Entry(spec, raw, num_parameters, note)


def _icml(
  audio: str, video: tuple[Mapping[str, Any], Any] | None, num_parameters: int
) -> Entry:
  note = (
    "the paper does not state the size of the latents; with 512 channels"
    " instead of 1,024 the models of Table 3 have 27.6M to 28.8M parameters"
  )
  return _audioset(audio, video, _ICML, _AVERAGE, num_parameters, note=note)


def _io(
  audio: str, decoder: Mapping[str, Any], channels: int, num_parameters: int
) -> Entry:
  surplus = "the published parameters are 0.1M (D = 512) and 1.6M (1,024) more"
  note = surplus if decoder is _QUERY else ""
  sizes = deep(512, channels, 12)
  return _audioset(audio, _VIDEO, sizes, decoder, num_parameters, note=note)


MODELS = {
  "audioset_icml_raw": _icml("raw", None, 107_419_677),
  "audioset_icml_mel": _icml("mel", None, 108_281_139),
  "audioset_icml_video": _icml("", _VIDEO, 109_016_593),
  "audioset_icml_raw_video": _icml("raw", _VIDEO, 109_048_771),
  "audioset_icml_mel_video": _icml("mel", _VIDEO, 109_048_642),
  "audioset_icml_attention_maps": _icml("samples", _FINE_VIDEO, 107_075_810),
  "audioset_average_raw_video": _io("raw", _AVERAGE, 512, 20_971_870),
  "audioset_average_mel_video": _io("mel", _AVERAGE, 512, 20_971_741),
  "audioset_io_raw_video": _io("raw", _QUERY, 512, 24_922_462),
  "audioset_io_mel_video": _io("mel", _QUERY, 1024, 86_568_157),
}
