"""predict autoencode CLIP ...: video and audio reconstructed by the model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import launch
from experiments.predictions import models, outputs
from perceiver_jax.data.clips import audio, video, video_writer
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import decoding
from perceiver_jax.training import workdir
from perceiver_jax.viz import image_layout


class _Rates(NamedTuple):
  """Frames and audio samples per second; by default the released model's."""

  fps: float = 25.0
  sample_rate: int = 48_000


def run(arguments: Sequence[str]) -> None:
  """Reconstructs clips and prints their most likely classes.

  Writes NAME-reconstruction.mp4 (original and reconstructed frames side by
  side, with the reconstructed audio) and NAME-reconstruction.wav.

  Args:
    arguments: Paths of videos with audio.

  Raises:
    UserError: No clip is given, or one can't be read, is too short or has no
      audio.
  """
  if not arguments:
    raise UserError("no clip is given; name a video with an audio track")
  paths = [Path(p).expanduser() for p in arguments]
  weights = models.load_weights(["multimodal"], "kinetics_784")
  output_specs = weights.spec["decoder"]["outputs"]
  rates, names = _run_settings() if models.uses_run() else (_Rates(), ())
  if flags.FLAGS.labels or not names:
    names = outputs.class_names(output_specs["label"]["num_outputs"])
  clips = [
    _read(path, flags.FLAGS.start, output_specs, rates) for path in paths
  ]
  apply = models.jit_apply(weights)
  for path, clip in zip(paths, clips, strict=True):
    reconstruction = _reconstruct(apply, clip, output_specs, flags.FLAGS.parts)
    print(path)
    _print_classes(reconstruction["label"][0], names)
    for file in _save(path, clip, reconstruction, rates):
      print(f"  {file}")


def _run_settings() -> tuple[_Rates, Sequence[str]]:
  """Returns rates and class names of the run in --workdir."""
  folder = launch.workdir()
  data = workdir.read_config(folder, "data").data
  names = workdir.read_metadata(folder).get("class_names", ())
  return _Rates(data.fps, data.sample_rate), names


def _read(
  path: Path, start: float, output_specs: Any, rates: _Rates
) -> dict[str, np.ndarray]:
  """Reads the raw inputs of a clip, with the label masked as in evaluation."""
  num_frames, *size = output_specs["image"]["shape"]
  audio_spec = output_specs["audio"]
  num_samples = audio_spec["shape"][0] * audio_spec["num_outputs"]
  frames = video.read_video(path, num_frames, rates.fps, start, tuple(size))
  samples = audio.read_audio(path, rates.sample_rate, start, num_samples)
  return {
    "image": frames[None].astype(np.float32) / 255,
    "audio": samples.mean(axis=1, keepdims=True)[None],
    "label": np.zeros((1, output_specs["label"]["num_outputs"]), np.float32),
    "masked": {"label": np.ones(1, bool)},
  }


def _reconstruct(
  apply: Callable[..., Any],
  clip: dict[str, np.ndarray],
  output_specs: Any,
  num_parts: int,
) -> dict[str, np.ndarray]:
  """Encodes a clip once and decodes its outputs in parts."""
  grids = {n: o["shape"] for n, o in output_specs.items() if "shape" in o}
  # Decoding one point per modality is enough to get the latents.
  first = {name: np.zeros(1, np.int32) for name in grids}
  latents = apply(clip, queries=first).latents
  return decoding.decode_in_parts(
    lambda queries: apply(clip, latents=latents, queries=queries).logits,
    grids,
    num_parts,
    # With disable=None, tqdm shows the bar only on a terminal.
    lambda parts: tqdm(parts, "decode", leave=False, disable=None),
  )


def _print_classes(logits: np.ndarray, names: Sequence[str]) -> None:
  exponentials = np.exp(logits - logits.max())
  probabilities = exponentials / exponentials.sum()
  for label in np.argsort(-probabilities)[: flags.FLAGS.top]:
    print(f"  {probabilities[label]:6.1%}  {names[label]}")


def _save(
  path: Path,
  clip: dict[str, np.ndarray],
  reconstruction: dict[str, np.ndarray],
  rates: _Rates,
) -> list[Path]:
  """Saves video and audio of a reconstruction; returns their paths."""
  folder = outputs.output_folder()
  to_pixels = lambda x: np.round(np.clip(x[0], 0, 1) * 255).astype(np.uint8)
  frames = image_layout.side_by_side(
    {
      "original": to_pixels(clip["image"]),
      "decoded": to_pixels(reconstruction["image"]),
    }
  )
  samples = np.clip(reconstruction["audio"].reshape(-1, 1), -1, 1)
  video_path = outputs.unused_path(folder, f"{path.stem}-reconstruction.mp4")
  video_writer.write_video(
    video_path, frames, rates.fps, samples, rates.sample_rate
  )
  audio_path = outputs.unused_path(folder, f"{path.stem}-reconstruction.wav")
  audio.write_wav(audio_path, samples, rates.sample_rate)
  return [video_path, audio_path]
