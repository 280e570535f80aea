"""The variants of all configs, and their configs where there is no data."""

import importlib
import re
from pathlib import Path
from typing import Any

import ml_collections

import configs
from experiments import evaluate_weights
from perceiver_jax.data.text import glue_tasks
from perceiver_jax.tasks.own_data import clip_config
from perceiver_jax.training import config_checks

# Classes of data of one's own, whose number only the data knows.
NUM_CLASSES = 10
# Training examples: ILSVRC 2012's; JFT's (Perceiver IO v3, app. A.2);
# AudioSet's (Perceiver v2, section 4.2); about those of Kinetics-700-2020; and
# GLUE's, as TensorFlow Datasets has them.
_IMAGENET, _JFT = 1_281_167, 300_000_000
_AUDIOSET, _KINETICS = 1_700_000, 545_000
# Examples to evaluate on, whose number only the data knows; mAP ranks all.
NUM_EVAL_EXAMPLES = 10_000
_GLUE = {
  "cola": 8551, "sst2": 67_349, "mrpc": 3668, "stsb": 5749, "qqp": 363_849,
  "mnli": 392_702, "qnli": 104_743, "rte": 2490,
}  # fmt: skip


def config_files() -> list[str]:
  """Returns the files of configs, as "configs/NAME.py"."""
  folder = Path(configs.__file__).parent
  return [
    f"configs/{path.name}"
    for path in sorted(folder.glob("*.py"))
    if "def get_config" in path.read_text(encoding="utf-8")
  ]


def names(file: str) -> list[str]:
  """Returns the variants that the docstring of a file of configs lists.

  Args:
    file: Such as "configs/imagenet.py".

  Returns:
    The names; "" is a file's only config, and "smoke" is one of them.
  """
  listed = _module(file).__doc__.split("Variants:")[1]
  found = re.findall(r'^  ("?[\w-]*"?)(?: \(none\))?: ', listed, re.MULTILINE)
  return [name.strip('"') for name in found]


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a config with the leaves that are left open for a user's data.

  There are `NUM_CLASSES` classes, and images and clips have the largest size
  that the config allows.

  Args:
    config: Config of a run; it is not changed.
  """
  config = config.copy_and_resolve_references()
  model, data = config.model, config.data
  outputs = model.decoder.get("outputs", {})
  if not model.get("num_classes", 1):
    model.num_classes = NUM_CLASSES
  if "own" in outputs:
    outputs.own = outputs.own or NUM_CLASSES
  if "label" in outputs:
    outputs.label.num_outputs = outputs.label.num_outputs or NUM_CLASSES
  if not all(data.get("image_shape", ())):
    data.image_shape = (data.max_image_side, data.max_image_side, 3)
  if not data.get("num_frames", 1):
    clip_config.set_window(config, data.max_seconds)
  return config


def metadata(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the metadata of a run's task without its data.

  Args:
    config: Config from `complete`.
  """
  metadata = evaluate_weights.unnamed_classes(config.model.to_dict())
  if "own" in config.model.decoder.get("outputs", {}):
    classes = tuple(map(str, range(NUM_CLASSES)))
    columns = ("sentence", "label")
    own = glue_tasks.Task("", columns[:1], columns, classes)
    metadata["own"] = own._asdict()
  return metadata


def num_steps(config: ml_collections.ConfigDict) -> int:
  """Returns the length of a run, without its data; 0 if it is not known."""
  if config.num_steps:
    return config.num_steps
  examples = _num_train_examples(config)
  return config_checks.num_steps(config, examples) if examples else 0


def _num_train_examples(config: ml_collections.ConfigDict) -> int:
  if config.task == "glue":
    return sum(_GLUE.get(task, 0) for task in config.model.decoder.outputs)
  known = {"audioset": _AUDIOSET, "kinetics": _KINETICS}
  if config.task in known:
    return known[config.task]
  source, task = config.data.get("source", ""), config.task
  if task == "multilabel_image_classification" and source == "image_folder":
    return _JFT
  arguments = config.data.get("source_args", {})
  is_imagenet = arguments.get("tfds", {}).get("name") == "imagenet2012"
  return _IMAGENET if source == "tfds" and is_imagenet else 0


def _module(file: str) -> Any:
  return importlib.import_module(file.removesuffix(".py").replace("/", "."))
