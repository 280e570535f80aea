"""Reads files of each kind, and checks what was read."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments import launch
from perceiver_jax import weights
from perceiver_jax.data.clips import audio, segment_lists, video
from perceiver_jax.data.core.source import Source
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.data.images import codec, image_list
from perceiver_jax.data.points import files as object_files
from perceiver_jax.data.points import hdf5, sampling, shards
from perceiver_jax.data.sequences import token_files
from perceiver_jax.data.starcraft import features, observations
from perceiver_jax.training.logs import metric_writers
from perceiver_jax.weights import model
from perceiver_jax.weights.unpickle import trees


def _weights(path: Path) -> None:
  """Reads weights; those that are accepted are the same when saved again."""
  read = weights.load(path)
  again = path.with_name("again.safetensors")
  weights.save(again, read)
  saved = weights.load(again)
  assert saved.spec == read.spec
  for mine, theirs in zip(saved[1:], read[1:], strict=True):
    mine, theirs = model.flatten(mine), model.flatten(theirs)
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
      assert mine[name].dtype == array.dtype
      assert mine[name].tobytes() == array.tobytes()


def _huggingface(path: Path) -> None:
  spec, params, _ = weights.load(path)
  assert set(spec) >= {"adapter", "encoder", "decoder"}
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


def _pickle(path: Path) -> None:
  for leaf in jax.tree.leaves(trees.read_tree(path)):
    assert type(leaf) is np.ndarray
    assert not leaf.dtype.hasobject


def _image(path: Path) -> None:
  image = codec.read_image(path)
  assert image.dtype == np.uint8
  assert image.shape[2] == 3


def _flow(path: Path) -> None:
  flow = flow_files.read_flow(path)
  assert flow.dtype == np.float32
  assert flow.shape[2] == 2
  assert not np.isinf(flow).any()


def _audio(path: Path) -> None:
  samples = audio.read_audio(path, 16_000)
  assert samples.dtype == np.float32
  assert samples.ndim == 2


def _video(path: Path) -> None:
  frames = video.read_video(path, 2)
  assert frames.dtype == np.uint8
  assert frames.shape[3] == 3


def _run(path: Path) -> None:
  """Opens a run as the entry points do, and continues its metrics."""
  flags.FLAGS.workdir = str(path)
  launch.saved_run()
  metric_writers.MetricWriters(path, resume_step=2, tensorboard=False).close()


def _list(path: Path) -> None:
  if path.name.startswith("images"):
    image_list.image_list(path.parent, path.stem)
  elif path.name.startswith("segments"):
    segment_lists.read_rows(path)
  else:
    segment_lists.read_classes(path)


def _object(path: Path) -> None:
  _check_points(sampling.sample(object_files.read(path), 16))


def _hdf5(path: Path) -> None:
  _read_points(hdf5.hdf5(str(path), "train"))


def _points(path: Path) -> None:
  source = shards.shards(str(path), "train")
  source.source.check_files()
  _read_points(source)


def _read_points(source: Source) -> None:
  for i in range(len(source)):
    example = source[i]
    assert 0 <= example["label"] < source.num_classes
    _check_points(example["points"])


def _check_points(points: np.ndarray) -> None:
  assert points.dtype == np.float32
  assert points.ndim == 2
  assert points.shape[1] == 3
  assert len(points)
  assert np.isfinite(points).all()


def _observation(path: Path) -> None:
  """Reads recorded observations, and encodes them as the model takes them."""
  for split in observations.SPLITS:
    source = observations.observation_files(path, split)
    for i in range(len(source)):
      example = source[i]
      del example["unreadable"]
      for array in features.encode(example).values():
        assert np.isfinite(array).all()


def _tokens(path: Path) -> None:
  for ids in token_files.read(str(path), num_values=40):
    assert ids.dtype == np.int32
    assert 0 <= ids.min() <= ids.max() < 40


READERS: dict[str, Callable[[Path], None]] = {
  "weights": _weights,
  "huggingface": _huggingface,
  "pickle": _pickle,
  "image": _image,
  "flow": _flow,
  "audio": _audio,
  "video": _video,
  "run": _run,
  "list": _list,
  "object": _object,
  "hdf5": _hdf5,
  "points": _points,
  "observation": _observation,
  "tokens": _tokens,
}
