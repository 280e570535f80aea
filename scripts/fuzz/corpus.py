"""Small files of every kind that is read, made by this project's writers."""

import json
import pickle
from pathlib import Path

import cv2
import jax
import numpy as np

from perceiver_jax import weights
from perceiver_jax.data.clips import audio, video_writer
from perceiver_jax.data.core import records
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
    "object": _objects(folder),
    "hdf5": [_hdf5(folder)],
    "points": [_prepared_points(folder)],
    "observation": [_observations(folder)],
    "tokens": _tokens(folder),
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


def _objects(folder: Path) -> list[Path]:
  """Writes a tetrahedron and its corners in all formats of objects."""
  import trimesh

  vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
  faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
  mesh = trimesh.Trimesh(vertices, faces, process=False)
  paths = [folder / f"object.{kind}" for kind in ("off", "obj", "ply", "stl")]
  for path in paths:
    mesh.export(path)
  trimesh.PointCloud(vertices).export(folder / "cloud.ply")
  np.save(folder / "cloud.npy", vertices)
  np.savetxt(folder / "cloud.xyz", vertices)
  return paths + sorted(folder.glob("cloud.*"))


def _clouds() -> np.ndarray:
  return np.random.default_rng(0).normal(size=(3, 8, 3)).astype(np.float32)


def _hdf5(folder: Path) -> Path:
  import h5py

  root = folder / "hdf5"
  root.mkdir()
  (root / "shape_names.txt").write_text("cube\ncone\n")
  (root / "train_files.txt").write_text("data/clouds.h5\n")
  with h5py.File(root / "clouds.h5", "w") as file:
    file.create_dataset("data", data=_clouds(), compression="gzip")
    file["label"] = np.array([[0], [1], [0]], np.uint8)
  return root


def _prepared_points(folder: Path) -> Path:
  root = folder / "points"
  root.mkdir()
  encoded = [records.encode({"points": points}) for points in _clouds()]
  contents = {
    "files": {"a": records.write_records(root / "a", encoded)},
    "names": ["cube/1", "cone/1", "cube/2"],
    "labels": [0, 1, 0],
    "class_names": ["cube", "cone"],
  }
  records.write_json(root / "train.json", contents)
  return root


def _tokens(folder: Path) -> list[Path]:
  ids = np.arange(40)
  root = folder / "tokens"
  root.mkdir()
  np.save(root / "a.npy", ids)
  np.savez_compressed(root / "b.npz", x=ids, y=ids)
  (root / "c.json").write_text(json.dumps({"ids": [ids.tolist()] * 2}))
  (root / "d.jsonl").write_text(f"{ids.tolist()}\n" * 2)
  return sorted(root.iterdir())


def _observations(folder: Path) -> Path:
  root = folder / "observations"
  arrays = {
    "unit_type": np.array([0, 1, 1]),
    "alliance": np.array([1, 4, 4]),
    "x": np.array([1.0, 2.0, 3.0], np.float32),
    "y": np.array([3.0, 2.0, 1.0], np.float32),
    "action": np.array(1),
    "selected": np.array(0),
    "target": np.array(-1),
  }
  for replay in ("first", "second"):
    (root / replay).mkdir(parents=True)
    (root / replay / "0.npz").write_bytes(records.encode(arrays))
  names = {"unit_types": ["Marine", "SCV"], "actions": ["Attack", "Move"]}
  records.write_json(root / "manifest.json", names)
  return root
