"""The page of autoencoders of video, audio and label."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.demo_pages import examples, page
from experiments.predictions import autoencode
from perceiver_jax import weights as weights_lib
from perceiver_jax.data.clips.windows import Window
from perceiver_jax.viz import clip_media, image_layout, sections


def make(
  spec: dict[str, Any], loaded: weights_lib.Weights | None, folder: Path
) -> page.Page:
  """Makes the page; see `page.make`."""
  model = autoencode.load(loaded)
  decoded = spec["decoder"]["outputs"]
  num_frames, *size = decoded["image"]["shape"]
  num_samples = decoded["audio"]["shape"][0] * decoded["audio"]["num_outputs"]
  fps, sample_rate = model.rates
  window = Window(num_frames, fps, num_samples, sample_rate, tuple(size))

  def predict(clip, start=""):
    path = page.path_of(clip, "a video")
    original = model.read(path, page.seconds_of(start))
    reconstruction = model.reconstruct(original)
    shares = autoencode.probabilities(reconstruction).tolist()
    return [
      [_players(original, reconstruction, model.rates)],
      page.by_name(model.class_names, shares),
    ]

  return page.Page(
    "Autoencoding of video and audio",
    f"{num_frames} frames and {num_samples / sample_rate:.2f} seconds of audio,"
    " compressed to the latents and decoded again, with the class, which the"
    " model does not see.",
    [
      page.Input("file", "Video with audio", suffixes=examples.VIDEO),
      page.Input("text", "Start", "seconds", is_option=True),
    ],
    [
      page.Output("sections", "Reconstruction"),
      page.Output("classes", "Classes"),
    ],
    predict,
    examples.clips(folder, window),
  )


def _players(
  original: autoencode.Clip,
  reconstruction: autoencode.Clip,
  rates: autoencode.Rates,
) -> sections.Section:
  """Returns the clip beside its reconstruction, to be played."""
  both = image_layout.side_by_side(
    {
      "original": clip_media.enlarge(autoencode.frames(original)),
      "decoded": clip_media.enlarge(autoencode.frames(reconstruction)),
    }
  )
  media = clip_media.encode(
    "with the decoded audio", both, autoencode.samples(reconstruction), *rates
  )
  media += clip_media.encode(
    "the original audio", None, autoencode.samples(original), *rates
  )
  section = sections.clip_samples([sections.ClipSample(media, {})])
  description = "" if media else section.description
  return dataclasses.replace(section, title="", description=description)
