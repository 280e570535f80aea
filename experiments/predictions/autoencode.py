"""predict autoencode CLIP: a video with sound through the Kinetics model."""

from collections.abc import Sequence
from pathlib import Path
from typing import (
  Any,
  NamedTuple,
)

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import launch
from experiments.predictions import source
from perceiver_jax.errors import UserError


class _Rates(NamedTuple):
  """Frames and samples per second; the published model's if not given."""

  fps: float = 25.0
  sample_rate: int = 48_000


def run(arguments: Sequence[str]) -> None:
  """Reconstructs clips and names what they show.

  Writes NAME-reconstruction.mp4 (original and reconstruction side by side, with
  the reconstructed sound) and NAME-reconstruction.wav, and prints the likeliest
  classes.

  Raises:
    UserError: there is no clip, it can't be read, is too short or silent.
  """
  if not arguments:
    raise UserError("no clip is given; name a video with sound")
  paths = [Path(p).expanduser() for p in arguments]
  weights = source.load_weights(["multimodal"], "kinetics_784")
  outputs = weights.spec["decoder"]["outputs"]
  rates, names = _of_run() if not flags.FLAGS.weights else (_Rates(), ())
  if flags.FLAGS.labels or not names:
    names = source.labels(outputs["label"]["num_outputs"])
  clips = [_read(path, outputs, rates) for path in paths]
  apply = source.jitted(weights)
  for path, clip in zip(paths, clips, strict=True):
    found = _reconstruct(apply, clip, outputs)
    print(path)
    _show_classes(found["label"][0], names)
    for file in _save(path, clip, found, rates):
      print(f"  {file}")


def _of_run() -> tuple[_Rates, Sequence[str]]:
  """Rates and names of the classes of the run in --workdir."""
  from perceiver_jax.training import workdir

  folder = launch.workdir()
  data = workdir.read_config(folder).data
  names = workdir.read_metadata(folder).get("class_names", ())
  return _Rates(data.fps, data.sample_rate), names


def _read(path: Path, outputs: Any, rates: _Rates) -> dict[str, np.ndarray]:
  """Raw data of one clip, with the label masked as at evaluation."""
  from perceiver_jax.data.clips import audio, video

  frames, *size = outputs["image"]["shape"]
  samples = outputs["audio"]["shape"][0] * outputs["audio"]["num_outputs"]
  start = flags.FLAGS.start
  pictures = video.read_video(path, frames, rates.fps, start, tuple(size))
  sound = audio.read_audio(path, rates.sample_rate, start, samples)
  return {
    "image": pictures[None].astype(np.float32) / 255,
    "audio": sound.mean(axis=1, keepdims=True)[None],
    "label": np.zeros((1, outputs["label"]["num_outputs"]), np.float32),
    "masked": {"label": np.ones(1, bool)},
  }


def _reconstruct(
  apply: Any, clip: dict[str, np.ndarray], outputs: Any
) -> dict[str, np.ndarray]:
  from perceiver_jax.evaluation import decoding

  grids = {n: o["shape"] for n, o in outputs.items() if "shape" in o}
  # One point of each is enough to encode; the latents serve all parts.
  first = {name: np.zeros(1, np.int32) for name in grids}
  latents = apply(clip, queries=first).latents
  return decoding.decode_in_parts(
    lambda queries: apply(clip, latents=latents, queries=queries).logits,
    grids,
    flags.FLAGS.parts,
    # disable=None: no bar where nobody watches it.
    lambda parts: tqdm(parts, "decode", leave=False, disable=None),
  )


def _show_classes(logits: np.ndarray, names: Sequence[str]) -> None:
  weights = np.exp(logits - logits.max())
  probabilities = weights / weights.sum()
  for label in np.argsort(-probabilities)[: flags.FLAGS.top]:
    print(f"  {probabilities[label]:6.1%}  {names[label]}")


def _save(
  path: Path,
  clip: dict[str, np.ndarray],
  found: dict[str, np.ndarray],
  rates: _Rates,
) -> list[Path]:
  from perceiver_jax.data.clips import audio, video_writer
  from perceiver_jax.viz import side_by_side

  folder = source.output_folder()
  pixels = lambda x: np.round(np.clip(x[0], 0, 1) * 255).astype(np.uint8)
  both = side_by_side.side_by_side(
    {"original": pixels(clip["image"]), "decoded": pixels(found["image"])}
  )
  sound = np.clip(found["audio"].reshape(-1, 1), -1, 1)
  film = source.free_path(folder, f"{path.stem}-reconstruction.mp4")
  video_writer.write_video(film, both, rates.fps, sound, rates.sample_rate)
  wav = source.free_path(folder, f"{path.stem}-reconstruction.wav")
  audio.write_wav(wav, sound, rates.sample_rate)
  return [film, wav]
