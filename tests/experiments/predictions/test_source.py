import os

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.predictions import source
from perceiver_jax.errors import UserError


@pytest.fixture
def flag():
  """flag(labels="x") sets flags that nothing has parsed."""
  with flagsaver.flagsaver():
    for name in ("weights", "workdir", "labels", "output"):
      flags.DEFINE_string(name, "", "")
    yield lambda **values: [
      setattr(flags.FLAGS, name, str(value)) for name, value in values.items()
    ]


def test_imagenets_names_are_in_order(flag):
  names = source.labels(1000)
  assert (names[0], names[-1]) == ("n01440764", "n15075141")
  assert names == sorted(names)
  assert source.labels(3) == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize(
  ("content", "parts"),
  [
    (b"one\ntwo\n", ["2 names", "3 classes"]),
    (b"1\n2\n3\n4", ["4 names", "3 classes"]),
    (b"", ["0 names"]),
    (b"\xff\n2\n3", ["can't be read"]),
    (None, ["can't be read"]),
  ],
)
def test_labels_that_do_not_fit(flag, tmp_path, content, parts):
  path = tmp_path / "labels.txt"
  if content is not None:
    path.write_bytes(content)
  flag(labels=path)
  with pytest.raises(UserError) as error:
    source.labels(3)
  for part in [*parts, str(path), "--labels"]:
    assert part in str(error.value)


def test_names_that_are_taken_get_a_number(tmp_path):
  for want in ("a.flo", "a-2.flo", "a-3.flo"):
    path = source.free_path(tmp_path, "a.flo")
    assert path.name == want
    path.touch()
  assert source.free_path(tmp_path, "a").name == "a"


def test_where_predictions_go(flag, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert source.output_folder().resolve() == tmp_path / "predictions"
  flag(workdir=tmp_path / "run")
  assert source.output_folder() == tmp_path / "run" / "predictions"
  flag(output=tmp_path / "deep" / "out")
  assert source.output_folder() == tmp_path / "deep" / "out"
  assert source.output_folder().is_dir()
  (tmp_path / "file").touch()
  flag(output=tmp_path / "file" / "out")
  with pytest.raises(UserError, match=r"can't be written.*--output"):
    source.output_folder()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours(flag, tmp_path):
  tmp_path.chmod(0o500)
  flag(output=tmp_path / "out")
  with pytest.raises(UserError, match="Permission denied"):
    source.output_folder()


@pytest.mark.parametrize(
  ("name", "part"),
  [
    ("missing.safetensors", "no weights at"),
    ("empty", "config.json"),
    ("unfinished", "train it to its end"),
    ("model.onnx", "has an unknown format"),
    ("broken.safetensors", "can't be read"),
  ],
)
@pytest.mark.parametrize("flag_name", ["weights", "workdir"])
def test_what_holds_no_weights(flag, tmp_path, name, part, flag_name):
  (tmp_path / "empty").mkdir()
  (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
  (tmp_path / "model.onnx").touch()
  (tmp_path / "broken.safetensors").write_bytes(b"nothing")
  flag(**{flag_name: tmp_path / name})
  with pytest.raises(UserError) as error:
    source.load_weights(["flow"], "flow")
  assert part in str(error.value)
  assert name in str(error.value)
