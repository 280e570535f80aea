"""predict autoencode CLIP ...: video and audio reconstructed by the model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from scipy import special
from tqdm import tqdm

from experiments import launch
from experiments.predictions import models, outputs
from perceiver_jax import files
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.clips import audio, video, video_writer
from perceiver_jax.errors import UserError
from perceiver_jax.evaluation import decoding
from perceiver_jax.training import workdir
from perceiver_jax.viz import image_layout

# Raw inputs or decoded outputs of the model by modality, of one clip.
Clip = dict[str, np.ndarray]


class Rates(NamedTuple):
  """Frames and audio samples per second; by default the released model's."""

  fps: float = 25.0
  sample_rate: int = 48_000


class Autoencoder(NamedTuple):
  """A model that reconstructs clips.

  Attributes:
    read: Reads the raw inputs of a file from a second on.
    reconstruct: Encodes raw inputs and decodes all outputs.
    class_names: Names of the classes, by label.
    rates: Rates of the clips.
  """

  read: Callable[[Path, float], Clip]
  reconstruct: Callable[[Clip], Clip]
  class_names: Sequence[str]
  rates: Rates


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
  paths = [files.as_path(p).expanduser() for p in arguments]
  model = load()
  clips = [model.read(path, flags.FLAGS.start) for path in paths]
  for path, clip in zip(paths, clips, strict=True):
    reconstruction = model.reconstruct(clip)
    print(path)
    _print_classes(probabilities(reconstruction), model.class_names)
    for file in _save(path, clip, reconstruction, model.rates):
      print(f"  {file}")


def load(loaded: weights_lib.Weights | None = None) -> Autoencoder:
  """Loads the model of --weights or of the run in --workdir.

  Args:
    loaded: The weights of --weights, if they are loaded already.

  Raises:
    UserError: No model is given, or it does not reconstruct clips.
  """
  weights = models.load_weights(["multimodal"], "kinetics_784", loaded=loaded)
  output_specs = weights.spec["decoder"]["outputs"]
  rates, names = _run_settings() if models.uses_run() else (Rates(), ())
  if flags.FLAGS.labels or not names:
    names = outputs.class_names(output_specs["label"]["num_outputs"])
  apply = models.jit_apply(weights)
  num_parts = flags.FLAGS.parts
  return Autoencoder(
    lambda path, start: _read(path, start, output_specs, rates),
    lambda clip: _reconstruct(apply, clip, output_specs, num_parts),
    names,
    rates,
  )


def probabilities(reconstruction: Clip) -> np.ndarray:
  """Returns the probabilities of the classes [P]."""
  return special.softmax(reconstruction["label"][0])


def frames(clip: Clip) -> np.ndarray:
  """Returns the frames of a clip, uint8 [T, H, W, 3]."""
  pixels = np.clip(clip["image"][0], 0, 1) * 255
  return np.round(pixels).astype(np.uint8)


def samples(clip: Clip) -> np.ndarray:
  """Returns the audio of a clip, float32 [S, 1] in [-1, 1]."""
  return np.clip(clip["audio"].reshape(-1, 1), -1, 1)


def _run_settings() -> tuple[Rates, Sequence[str]]:
  """Returns rates and class names of the run in --workdir."""
  folder = launch.workdir()
  data = workdir.read_config(folder, "data").data
  names = workdir.read_metadata(folder).get("class_names", ())
  return Rates(data.fps, data.sample_rate), names


def _read(path: Path, start: float, output_specs: Any, rates: Rates) -> Clip:
  """Reads the raw inputs of a clip, with the label masked as in evaluation."""
  num_frames, *size = output_specs["image"]["shape"]
  audio_spec = output_specs["audio"]
  num_samples = audio_spec["shape"][0] * audio_spec["num_outputs"]
  pixels = video.read_video(path, num_frames, rates.fps, start, tuple(size))
  heard = audio.read_audio(path, rates.sample_rate, start, num_samples)
  return {
    "image": pixels[None].astype(np.float32) / 255,
    "audio": heard.mean(axis=1, keepdims=True)[None],
    "label": np.zeros((1, output_specs["label"]["num_outputs"]), np.float32),
    "masked": {"label": np.ones(1, bool)},
  }


def _reconstruct(
  apply: Callable[..., Any], clip: Clip, output_specs: Any, num_parts: int
) -> Clip:
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


def _print_classes(probabilities: np.ndarray, names: Sequence[str]) -> None:
  for label in np.argsort(-probabilities)[: flags.FLAGS.top]:
    print(f"  {probabilities[label]:6.1%}  {names[label]}")


def _save(
  path: Path, clip: Clip, reconstruction: Clip, rates: Rates
) -> list[Path]:
  """Saves video and audio of a reconstruction; returns their paths."""
  folder = outputs.output_folder()
  both = image_layout.side_by_side(
    {"original": frames(clip), "decoded": frames(reconstruction)}
  )
  heard = samples(reconstruction)
  video_path = outputs.unused_path(folder, f"{path.stem}-reconstruction.mp4")
  video_writer.write_video(
    video_path, both, rates.fps, heard, rates.sample_rate
  )
  audio_path = outputs.unused_path(folder, f"{path.stem}-reconstruction.wav")
  audio.write_wav(audio_path, heard, rates.sample_rate)
  return [video_path, audio_path]
