import os

import pytest

from experiments.predictions import outputs
from perceiver_jax.errors import UserError


def test_default_names_of_imagenet_are_in_order(flag):
  names = outputs.class_names(1000)
  assert (names[0], names[-1]) == ("n01440764", "n15075141")
  assert names == sorted(names)
  assert outputs.class_names(3) == ["class 0", "class 1", "class 2"]


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
def test_labels_that_do_not_fit_the_classes_are_refused(
  flag, tmp_path, content, parts
):
  path = tmp_path / "labels.txt"
  if content is not None:
    path.write_bytes(content)
  flag(labels=path)
  with pytest.raises(UserError) as error:
    outputs.class_names(3)
  for part in [*parts, str(path), "--labels"]:
    assert part in str(error.value)


def test_names_of_existing_files_get_a_number(tmp_path):
  for want in ("a.flo", "a-2.flo", "a-3.flo"):
    path = outputs.unused_path(tmp_path, "a.flo")
    assert path.name == want
    path.touch()
  assert outputs.unused_path(tmp_path, "a").name == "a"


def test_the_output_folder_follows_the_flags(flag, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert outputs.output_folder().resolve() == tmp_path / "predictions"
  flag(workdir=tmp_path / "run")
  assert outputs.output_folder() == tmp_path / "run" / "predictions"
  flag(output=tmp_path / "deep" / "out")
  assert outputs.output_folder() == tmp_path / "deep" / "out"
  assert outputs.output_folder().is_dir()
  (tmp_path / "file").touch()
  flag(output=tmp_path / "file" / "out")
  with pytest.raises(UserError, match=r"can't be written.*--output"):
    outputs.output_folder()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(flag, tmp_path):
  tmp_path.chmod(0o500)
  flag(output=tmp_path / "out")
  with pytest.raises(UserError, match="Permission denied"):
    outputs.output_folder()
