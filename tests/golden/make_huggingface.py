"""Writes tiny models of transformers and their outputs to tests/golden.

Run `python tests/golden/make_huggingface.py` where torch and transformers are
installed. Tensors repeat 997 random numbers, so that large ones, whose sizes
transformers does not let us choose, compress well.
"""

import gzip
import pathlib
import tempfile

import numpy as np
import torch
import transformers
from torch.nn import functional as F

FOLDER = pathlib.Path(__file__).parent / "huggingface"
_SIZES = {
  "num_latents": 3,
  "d_latents": 8,
  "num_self_attends_per_block": 2,
  "num_self_attention_heads": 2,
  "num_cross_attention_heads": 1,
}
_TEXT = {"d_model": 8, "vocab_size": 11, "max_position_embeddings": 9}
CONFIGS = {
  "PerceiverForMaskedLM": {
    **_SIZES,
    **_TEXT,
    "num_blocks": 2,
    "qk_channels": 12,
    "v_channels": 8,
    "num_cross_attention_heads": 4,
    "self_attention_widening_factor": 3,
  },
  "PerceiverForSequenceClassification": {
    **_SIZES,
    **_TEXT,
    "d_model": 6,
    "hidden_act": "gelu_new",
    "cross_attention_widening_factor": 2,
    "cross_attention_shape_for_attention": "q",
    "num_labels": 4,
  },
  "PerceiverForImageClassificationLearned": {
    **_SIZES,
    "image_size": 3,
    "cross_attention_shape_for_attention": "q",
    "use_query_residual": False,
  },
  "PerceiverForImageClassificationFourier": {
    **_SIZES,
    "d_latents": 9,
    "num_self_attention_heads": 3,
    "num_cross_attention_heads": 3,
    "num_labels": 5,
  },
  "PerceiverForImageClassificationConvProcessing": {
    **_SIZES,
    "hidden_act": "gelu_pytorch_tanh",
    "num_labels": 3,
  },
  "PerceiverForOpticalFlow": {**_SIZES, "train_size": [5, 6]},
  "PerceiverForMultimodalAutoencoding": {
    **_SIZES,
    "num_labels": 5,
    "num_frames": 2,
    "image_size": 2,
    "audio_samples_per_frame": 12,
    "samples_per_patch": 4,
    "output_shape": [1, 2, 8, 8],
    "output_num_channels": 6,
    "_label_trainable_num_channels": 7,
  },
}


def build(architecture, config, seed):
  """Returns a model of transformers whose weights make every part matter."""
  cls = getattr(transformers, architecture)
  model = cls(transformers.PerceiverConfig(**config)).eval()
  pool = np.random.default_rng(seed).normal(size=997)
  tensors = model.state_dict()
  for i, (name, tensor) in enumerate(sorted(tensors.items())):
    values = np.resize(np.roll(pool, -101 * i), tuple(tensor.shape))
    tensor.copy_(torch.as_tensor(_scaled(name, values)))
  return model


def _scaled(name, values):
  if name.endswith("num_batches_tracked"):
    return np.asarray(7)
  if name.endswith("running_var"):
    return 0.5 + values**2
  if "norm" in name and name.endswith("weight"):
    return 1 + 0.2 * values
  if values.ndim == 1:
    return 0.3 * values
  if any(part in name for part in ("embeddings", "padding", "mask")):
    return values
  return values / np.sqrt(values[0].size)  # The fan-in.


def inputs_of(architecture, config, seed):
  """Returns raw data as the models of this project take it, channels last."""
  rng = np.random.default_rng(seed)
  uniform = lambda *shape: rng.uniform(-1, 1, shape).astype(np.float32)
  if "vocab_size" in config:
    tokens = rng.integers(0, config["vocab_size"], (2, 7)).astype(np.int32)
    mask = np.arange(7) < np.array([[7], [4]])
    return {"raw": tokens, "mask": mask}
  if architecture == "PerceiverForOpticalFlow":
    return {"raw": uniform(2, 2, *config["train_size"], 3)}
  if architecture == "PerceiverForMultimodalAutoencoding":
    frames, side = config["num_frames"], 4 * config["image_size"]
    samples = frames * config["audio_samples_per_frame"]
    points = samples // config["samples_per_patch"]
    return {
      "audio": uniform(2, samples, 1),
      "image": uniform(2, frames, side, side, 3),
      "label": uniform(2, config["num_labels"]),
      "audio_points": rng.permutation(points)[:4].astype(np.int32),
      "image_points": rng.permutation(frames * side**2)[:9].astype(np.int32),
    }
  size = config.get("image_size")
  return {"raw": uniform(2, size or 17, size or 21, 3)}


def outputs_of(model, inputs):
  """Returns outputs of transformers in the names and layout of this project."""
  with torch.no_grad():
    return _OUTPUTS.get(type(model).__name__, _of_images)(model, inputs)


def _of_tokens(model, inputs):
  tokens, mask = torch.as_tensor(inputs["raw"]), torch.as_tensor(inputs["mask"])
  if isinstance(model, transformers.PerceiverForMaskedLM):
    # transformers decodes all positions.
    logits = model(tokens, attention_mask=mask.long()).logits
    return {"logits": logits[:, : tokens.shape[1]].numpy()}
  return {"logits": model(tokens, attention_mask=mask.long()).logits.numpy()}


def _of_images(model, inputs):
  images = torch.as_tensor(inputs["raw"]).movedim(-1, -3)
  return {"logits": model(images).logits.numpy()}


def _of_frames(model, inputs):
  frames = torch.as_tensor(inputs["raw"]).movedim(-1, -3)
  batch, _, channels, height, width = frames.shape
  patches = F.unfold(frames.flatten(0, 1), 3, padding=1)
  patches = patches.reshape(batch, 2, channels, 9, height, width)
  patches = patches.transpose(2, 3).flatten(2, 3)  # Rows, columns, channels.
  return {"logits": model(patches).logits.numpy()}


def _of_modalities(model, inputs):
  given = {k: torch.as_tensor(inputs[k]) for k in ("audio", "image", "label")}
  given["image"] = given["image"].movedim(-1, -3)
  points = {
    k: torch.as_tensor(inputs[f"{k}_points"]).long() for k in ("audio", "image")
  }
  logits = model(
    given, subsampled_output_points={**points, "label": None}
  ).logits
  size = model.config.samples_per_patch
  logits["audio"] = logits["audio"].unflatten(1, (-1, size))
  return {f"logits_{k}": v.numpy() for k, v in logits.items()}


_OUTPUTS = {
  "PerceiverForMaskedLM": _of_tokens,
  "PerceiverForSequenceClassification": _of_tokens,
  "PerceiverForOpticalFlow": _of_frames,
  "PerceiverForMultimodalAutoencoding": _of_modalities,
}


def main():
  """Writes a folder per architecture."""
  for seed, (architecture, config) in enumerate(CONFIGS.items()):
    folder = FOLDER / architecture
    folder.mkdir(parents=True, exist_ok=True)
    model = build(architecture, config, seed)
    inputs = inputs_of(architecture, config, seed)
    np.savez_compressed(
      folder / "io.npz", **inputs, **outputs_of(model, inputs)
    )
    with tempfile.TemporaryDirectory() as saved:
      model.save_pretrained(saved)
      saved = pathlib.Path(saved)
      (folder / "config.json").write_text((saved / "config.json").read_text())
      weights = (saved / "model.safetensors").read_bytes()
    packed = gzip.compress(weights, mtime=0)
    (folder / "model.safetensors.gz").write_bytes(packed)


if __name__ == "__main__":
  main()
