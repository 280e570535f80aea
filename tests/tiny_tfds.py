"""Writes tiny data sets in the format of TensorFlow Datasets."""

import json

import numpy as np
from array_record.python import array_record_module
from tensorflow_datasets import features as tfds_features
from tensorflow_datasets.proto import tf_example_pb2

IMAGENET_VERSION = "5.1.0"
# Several labels of an image.
LABELS = tfds_features.Sequence(tfds_features.ClassLabel(names=["cat", "dog"]))


def classification(*, with_names=False, classes=("cat", "dog")):
  """Returns features of labeled images, with file names as ImageNet has."""
  spec = {
    "image": tfds_features.Image(shape=(None, None, 3)),
    "label": tfds_features.ClassLabel(names=list(classes)),
  }
  return spec | ({"file_name": tfds_features.Text()} if with_names else {})


def record(image, label, file_name=None):
  """Returns a serialized example: an encoded image, its label and its name."""
  example = tf_example_pb2.Example()
  feature = example.features.feature
  feature["image"].bytes_list.value.append(image)
  feature["label"].int64_list.value.append(label)
  if file_name is not None:
    feature["file_name"].bytes_list.value.append(file_name.encode())
  return example.SerializeToString()


def glue_mnli(directory):
  """Prepares `glue/mnli`: three labeled examples and an unlabeled test one."""
  spec = {
    "premise": tfds_features.Text(),
    "hypothesis": tfds_features.Text(),
    "label": tfds_features.ClassLabel(
      names=["entailment", "neutral", "contradiction"]
    ),
    "idx": tfds_features.Scalar(np.int32),
  }
  rows = [
    values(idx=7 - i, label=i, premise=f"é{i}", hypothesis="h")
    for i in range(3)
  ]
  test = [values(idx=4, label=-1, premise="p", hypothesis="h")]
  splits = {"train": rows, "test_matched": test}
  prepare(directory, "glue/mnli", spec, splits, version="2.0.0")


def values(**features):
  """Returns a serialized example of strings, floats and integers."""
  example = tf_example_pb2.Example()
  for name, value in features.items():
    feature = example.features.feature[name]
    if isinstance(value, str):
      feature.bytes_list.value.append(value.encode())
    elif isinstance(value, float):
      feature.float_list.value.append(value)
    else:
      feature.int64_list.value.append(value)
  return example.SerializeToString()


def prepare(directory, name, spec, splits, shard_size=100, version="1.0.0"):
  """Writes the files that `download_and_prepare` would write with TensorFlow.

  Args:
    directory: The `data_dir`.
    name: Name of the data set, with its config, if any, after a slash.
    spec: Features of the data set.
    splits: Serialized examples by split.
    shard_size: Largest number of examples per file.
    version: Version of the data set; TFDS must know it if it knows the name.

  Returns:
    The folder of the files.
  """
  folder = directory / name / version
  folder.mkdir(parents=True)
  tfds_features.FeaturesDict(spec).save_config(folder)
  name, _, config = name.partition("/")
  info = {
    "name": name,
    **({"configName": config} if config else {}),
    "version": version,
    "fileFormat": "array_record",
    "splits": [
      _write(folder, name, split, records, shard_size)
      for split, records in splits.items()
    ],
  }
  (folder / "dataset_info.json").write_text(json.dumps(info))
  return folder


def _write(folder, name, split, records, shard_size):
  """Writes the files of a split; returns its entry for dataset_info.json."""
  starts = range(0, len(records), shard_size)
  lengths = []
  for number, start in enumerate(starts):
    shard = records[start : start + shard_size]
    file = f"{name}-{split}.array_record-{number:05}-of-{len(starts):05}"
    writer = array_record_module.ArrayRecordWriter(
      str(folder / file), "group_size:1"
    )
    for example in shard:
      writer.write(example)
    writer.close()
    lengths.append(str(len(shard)))
  return {
    "name": split,
    "shardLengths": lengths,
    "numBytes": "1",
    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
  }
