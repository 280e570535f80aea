"""Small files of every kind that is read, made by this project's writers."""

import json
import pickle
from pathlib import Path

import cv2
import jax
import numpy as np

from perceiver_jax import weights
from perceiver_jax.data.clips import audio, video_writer
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.models import zoo
from perceiver_jax.weights import model

_SIZES = {
  "num_latents": 3,
  "num_latent_channels": 8,
  "num_blocks": 2,
  "num_self_attends_per_block": 2,
  "num_self_attend_heads": 2,
}


def make(folder: Path) -> dict[str, list[Path]]:
  """Writes the files.

  Args:
    folder: A new folder.

  Returns:
    Paths by the name of the reader in `readers.READERS`; a path is a file, or a
    folder of several.
  """
  folder.mkdir(parents=True)
  return {
    "weights": _weights(folder),
    "huggingface": [_huggingface(folder)],
    "pickle": _pickles(folder),
    "image": _images(folder),
    "flow": _flows(folder),
    "audio": _audio(folder),
    "video": [_video(folder)],
    "run": [_run(folder)],
    "list": _lists(folder),
  }


def _classifier() -> weights.Weights:
  spec = zoo.get_spec(
    "imagenet_fourier",
    num_classes=3,
    encoder=_SIZES,
    adapter={"num_bands": 2},
    decoder={"num_query_channels": 8},
  )
  return _random(spec, jax.ShapeDtypeStruct((1, 8, 8, 3), "float32"))


def _language_model() -> weights.Weights:
  spec = zoo.get_spec("language_bytes", encoder=_SIZES)
  spec["encoder"] |= {"qk_channels": 4, "v_channels": 8}
  spec["encoder"]["num_cross_attend_heads"] = 2
  spec["adapter"] |= {"max_length": 16, "num_channels": 8}
  spec["decoder"] |= {"max_length": 16, "num_query_channels": 8}
  spec["decoder"] |= {"num_heads": 2, "qk_channels": 4, "v_channels": 8}
  return _random(spec, jax.ShapeDtypeStruct((1, 16), "int32"))


def _random(spec: dict, raw: jax.ShapeDtypeStruct) -> weights.Weights:
  rng = np.random.default_rng(0)
  trees = model.abstract_variables(spec, raw)
  draw = lambda x: rng.normal(size=x.shape).astype(x.dtype)
  return weights.Weights(spec, *(jax.tree.map(draw, tree) for tree in trees))


def _weights(folder: Path) -> list[Path]:
  paths = [folder / f"{name}.safetensors" for name in ("image", "text")]
  for path, make_weights in zip(
    paths, (_classifier, _language_model), strict=True
  ):
    weights.save(path, make_weights())
  return paths


def _huggingface(folder: Path) -> Path:
  saved = _language_model()
  for section in ("encoder", "decoder"):
    saved.spec[section]["gelu"] = "tanh"
  saved.spec["decoder"] |= {"num_heads": 8, "qk_channels": 256}
  saved.spec["decoder"]["use_query_mask"] = False
  saved = _random(saved.spec, jax.ShapeDtypeStruct((1, 16), "int32"))
  weights.save_huggingface(folder / "huggingface", saved)
  return folder / "huggingface"


def _pickles(folder: Path) -> list[Path]:
  tree = {
    "params": {"a": {"w": np.ones((2, 3), "f4"), "b": np.zeros(3)}},
    "state": {"n": {"count": np.int32(3) * np.ones((), "i4")}},
  }
  paths = []
  for protocol in (0, 2, 4, 5):
    paths.append(folder / f"protocol_{protocol}.pystate")
    paths[-1].write_bytes(pickle.dumps(tree, protocol))
  return paths


def _images(folder: Path) -> list[Path]:
  rng = np.random.default_rng(0)
  paths = []
  for suffix, shape, dtype in (
    ("png", (12, 9, 3), np.uint8),
    ("png", (12, 9, 4), np.uint16),
    ("jpg", (16, 24, 3), np.uint8),
    ("webp", (12, 9, 3), np.uint8),
    ("bmp", (12, 9, 3), np.uint8),
    ("gif", (12, 9, 3), np.uint8),
    ("tiff", (12, 9, 3), np.uint8),
  ):
    pixels = rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    encoded = cv2.imencode(f".{suffix}", pixels)[1].tobytes()
    paths.append(folder / f"{shape[2]}.{suffix}")
    paths[-1].write_bytes(encoded)
  return paths


def _flows(folder: Path) -> list[Path]:
  flow = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
  flow[2, 3] = np.nan
  paths = [folder / f"flow.{suffix}" for suffix in ("flo", "png", "pfm")]
  for path in paths:
    flow_files.write_flow(path, flow)
  return paths


def _audio(folder: Path) -> list[Path]:
  path = folder / "audio.wav"
  audio.write_wav(path, np.sin(np.arange(4_000) / 9), 8_000)
  return [path]


def _video(folder: Path) -> Path:
  frames = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), np.uint8)
  video_writer.write_video(folder / "video.mp4", frames, 25)
  return folder / "video.mp4"


def _run(folder: Path) -> Path:
  from configs import digits

  run = folder / "run"
  run.mkdir()
  config = digits.get_config("smoke").to_dict()
  (run / "config.json").write_text(json.dumps(config))
  names = {"class_names": list("0123456789")}
  (run / "task.json").write_text(json.dumps(names))
  (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n' * 3)
  return run


def _lists(folder: Path) -> list[Path]:
  contents = {
    "images.csv": "image,labels\na.png,cat;dog\nb.png,cat\n",
    "images.jsonl": '{"image": "a.png", "labels": ["cat", "dog"]}\n',
    "segments.csv": "file,label\na.mp4,cat;dog\n",
    "classes.txt": "cat\ndog\n",
  }
  for name, text in contents.items():
    (folder / name).write_text(text)
  return [folder / name for name in contents]
