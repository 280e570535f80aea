"""Figures of the attention of single latents over images and clips.

As in the Perceiver's figures, maps of an image are beside it and not over it,
so that all their structure is that of the attention; maps of a video are over
its frames. Each map has its own color scale. Shapes as in `attention_maps`.
"""

from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np

from perceiver_jax.viz import attention_maps, image_layout

_COLUMNS = 8  # Maps in a row.
_FRAMES = 8  # Frames of a clip that are shown.
_AUDIO_WIDTH, _AUDIO_HEIGHT = 1024, 64  # Pixels.
_GAP = 8
_WHITE, _INK = 255, 60


def image_figure(
  image: np.ndarray,
  attention: Sequence[np.ndarray],
  latents: Sequence[int] = (),
  head: int | None = None,
) -> np.ndarray:
  """Draws an image and the maps of some latents, in rows per cross-attend.

  Args:
    image: uint8 [H, W, 1 or 3].
    attention: weights or logits [heads, N, M] of each cross-attend.
    latents: indices of latents; by default 8, evenly spaced.
    head: index of a head; by default the mean over all.

  Returns:
    uint8 [h, w, 3].
  """
  size = attention_maps.display_size(image.shape)
  method = attention_maps.interpolation(image.shape)
  rgb = cv2.resize(image_layout.as_rgb(image), size, interpolation=method)
  blank = np.full_like(rgb, _WHITE)
  latents = latents or attention_maps.choose_latents(attention[0].shape[1])
  rows = []
  for number, each in enumerate(attention, 1):
    chosen = attention_maps.latent_attention(each, latents, head)
    maps = attention_maps.image_maps(chosen, image.shape[:2])
    tiles = [
      (f"latent {n}", attention_maps.heat_map(each, size))
      for n, each in zip(latents, maps, strict=True)
    ]
    for start in range(0, len(tiles), _COLUMNS):
      row = tiles[start : start + _COLUMNS]
      lacking = min(len(tiles), _COLUMNS) - len(row)
      row += [(" " * (i + 2), blank) for i in range(lacking)]
      first = (" ", blank) if rows else ("input", rgb)
      tile_row = image_layout.side_by_side(dict([first, *row]), _GAP)
      title = f"cross-attend {number}"
      rows.append(image_layout.with_row_title(tile_row, title))
  return np.concatenate(rows)


def output_overlays(
  images: np.ndarray,
  encoder_logits: Sequence[np.ndarray],
  decoder_logits: np.ndarray,
) -> list[np.ndarray]:
  """Draws the attention of a classifier's output over each image.

  It is the decoder's attention to the latents times the latents' attention in
  the last cross-attend; see `attention_maps.output_attention`.

  Args:
    images: [B, H, W, C], uint8 or float in [-1, 1].
    encoder_logits: attention logits [B, heads, N, M] of each cross-attend;
      empty if the latents are the inputs themselves.
    decoder_logits: attention logits [B, heads, O, N].

  Returns:
    uint8 [h, w, 3] for each image.
  """
  overlays = []
  for i, image in enumerate(images):
    weights = attention_maps.output_attention(
      [logits[i] for logits in encoder_logits], decoder_logits[i]
    )
    grid = attention_maps.input_grid(image.shape[:2], weights.shape[-1])
    overlays.append(
      attention_maps.overlay(image, weights.mean(axis=0).reshape(grid))
    )
  return overlays


def clip_figure(
  frames: np.ndarray | None,
  audio: np.ndarray | None,
  attention: Sequence[Mapping[str, np.ndarray]],
  latents: Sequence[int] = (),
  head: int | None = None,
  *,
  temporal_downsample: int = 1,
  seconds: float = 0.0,
) -> np.ndarray:
  """Draws a clip, and below it each latent's attention to it.

  Some frames have heat maps over them. The waveform below is colored by the
  attention to it, above a plot of the attention against time; a spectrogram has
  a heat map over it.

  Args:
    frames: uint8 [T, H, W, 3], or None.
    audio: float32 samples [S] or a spectrogram [frames, bands], or None.
    attention: weights or logits [heads, N, M] of each cross-attend by modality:
      "image" if there are frames, "audio" if there is audio.
    latents: indices of latents; by default 8, evenly spaced.
    head: index of a head; by default the mean over all.
    temporal_downsample: number of frames that a patch spans.
    seconds: duration of the clip, for the titles of frames.

  Returns:
    uint8 [h, w, 3].
  """
  shown, titles = [], []
  if frames is not None:
    shown = attention_maps.choose_latents(len(frames), _FRAMES)
    titles = [f"{seconds * i / len(frames):.2f} s" for i in shown]
  if not latents:
    some = next(iter(attention[0].values()))
    latents = attention_maps.choose_latents(some.shape[1])
  blocks = [
    _block(
      dict(zip(titles, [_enlarged(frames[i]) for i in shown], strict=True)),
      None if audio is None else lambda width: _audio_panel(audio, width),
      "input",
    )
  ]
  for number, by_modality in enumerate(attention, 1):
    chosen = {
      name: attention_maps.latent_attention(each, latents, head)
      for name, each in by_modality.items()
    }
    for i, latent in enumerate(latents):
      tiles, panel = {}, None
      if frames is not None:
        maps = attention_maps.video_maps(
          chosen["image"][i], frames.shape[:3], temporal_downsample
        )
        heat = attention_maps.normalize(maps)
        tiles = {
          # Squared, since most logits are near the middle of the scale.
          title: attention_maps.blend(frames[t], heat[t] ** 2)
          for title, t in zip(titles, shown, strict=True)
        }
      if audio is not None:
        heat = attention_maps.normalize(
          attention_maps.audio_maps(chosen["audio"][i], audio.shape)
        )
        panel = lambda width, heat=heat: _audio_panel(audio, width, heat)
      title = f"cross-attend {number}, latent {latent}"
      blocks.append(_block(tiles, panel, title))
  return np.concatenate(blocks)


def _block(tiles, panel, title) -> np.ndarray:
  """Draws a row of frames with an audio panel of the same width below it."""
  parts = []
  width = _AUDIO_WIDTH
  if tiles:
    parts.append(image_layout.side_by_side(tiles, _GAP))
    width = parts[0].shape[1]
  if panel is not None:
    parts.append(panel(width))
  image = np.concatenate(parts)
  image = image_layout.with_row_title(image, title)
  space = np.full((2 * _GAP, image.shape[1], 3), _WHITE, np.uint8)
  return np.concatenate([image, space])


def _audio_panel(
  audio: np.ndarray, width: int, heat: np.ndarray | None = None
) -> np.ndarray:
  """Draws audio and, if given, heat of the audio's shape, uint8 [h, w, 3]."""
  if audio.ndim == 2:
    return _spectrogram_panel(audio, width, heat)
  gap = np.full((_GAP, width, 3), _WHITE, np.uint8)
  peak = np.abs(audio).max() or 1.0
  panels = [gap, _envelope(audio / peak, width, heat)]
  if heat is not None:
    panels += [gap, _envelope(2 * heat - 1, width, heat, from_bottom=True)]
  return np.concatenate(panels)


def _spectrogram_panel(audio, width, heat) -> np.ndarray:
  """Draws a spectrogram with time to the right and high bands at the top."""
  image = audio.T[::-1]
  low, high = image.min(), image.max()
  gray = 255 * (image - low) / max(high - low, 1e-6)
  gray = np.repeat(gray.astype(np.uint8)[..., None], 3, axis=-1)
  if heat is not None:
    gray = attention_maps.blend(gray, heat.T[::-1] ** 2)
  height = max(_AUDIO_HEIGHT, 2 * _AUDIO_HEIGHT * (audio.shape[1] > 32))
  panel = cv2.resize(gray, (width, height), interpolation=cv2.INTER_NEAREST)
  return np.concatenate([np.full((_GAP, width, 3), _WHITE, np.uint8), panel])


def _envelope(
  values: np.ndarray,
  width: int,
  heat: np.ndarray | None = None,
  *,
  from_bottom: bool = False,
) -> np.ndarray:
  """Draws the range of values in each of `width` columns.

  Args:
    values: [S] from -1 to 1.
    width: width of the drawing in pixels.
    heat: [S] from 0 to 1, for the colors; None for gray.
    from_bottom: whether columns start at the bottom, not at the lowest value.

  Returns:
    uint8 [h, width, 3].
  """
  edges = np.arange(width + 1) * len(values) // width
  starts = np.minimum(edges[:-1], len(values) - 1)
  high = np.maximum.reduceat(values, starts)
  low = np.minimum.reduceat(values, starts)
  if from_bottom:
    low = np.full_like(low, -1)
  to_row = lambda v: (1 - v) / 2 * (_AUDIO_HEIGHT - 1)
  rows = np.arange(_AUDIO_HEIGHT)[:, None]
  filled = (rows >= to_row(high) - 0.5) & (rows <= to_row(low) + 0.5)
  color = np.full((width, 3), _INK, np.float32)
  if heat is not None:
    mean = np.add.reduceat(heat, starts)
    mean /= np.maximum(np.diff(np.append(starts, len(heat))), 1)
    color = matplotlib.colormaps["plasma"](0.95 * mean)[:, :3] * 255
  panel = np.where(filled[..., None], color[None], 245)
  return np.round(panel).astype(np.uint8)


def _enlarged(frame: np.ndarray) -> np.ndarray:
  size = attention_maps.display_size(frame.shape)
  method = attention_maps.interpolation(frame.shape)
  return cv2.resize(frame, size, interpolation=method)
