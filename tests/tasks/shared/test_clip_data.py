"""Tests of the data of tasks on clips."""

import numpy as np
import pytest
import tiny_clips

from configs import audioset as config_file
from perceiver_jax.errors import UserError
from perceiver_jax.tasks.shared import clip_data

BOTH = ("audio", "image")


def _data(**leaves):
  data = config_file.get_config("smoke").data
  data.update(train_split="train", eval_split="test")
  data.num_frames, data.fps = 4, 25.0
  data.num_samples, data.sample_rate = 7680, 48_000
  data.update(leaves)
  return data


def _prepared(folder, **rates):
  for split in ("train", "test"):
    tiny_clips.write_shards(folder, split, [[0], [1]], **rates)
  data = _data(source="shards")
  data.source_args.shards.directory = str(folder)
  return data


@pytest.mark.parametrize(
  ("rates", "modality", "message"),
  [
    ({"fps": 0.0}, "image", "--fps=0"),
    ({"rate": 0}, "audio", "--sample_rate=0"),
    ({"rate": 8000}, "audio", "set config.data.sample_rate"),
  ],
)
def test_a_track_that_was_not_prepared_is_refused_at_once(
  tmp_path, rates, modality, message
):
  data = _prepared(tmp_path, **rates)
  (other,) = {*BOTH} - {modality}
  assert len(clip_data.ClipData(data, (other,)).train) == 2
  for modalities in ((modality,), BOTH):
    with pytest.raises(UserError, match=message):
      _ = clip_data.ClipData(data, modalities).held_out


def test_files_with_the_modalities_of_the_model_are_preferred(tmp_path):
  (tmp_path / "test.csv").write_text(
    "label,youtube_id,time_start,time_end\na,v,0,2"
  )
  tiny_clips.write_clip(tmp_path / "z" / "v.mp4")
  tiny_clips.write_audio(tmp_path / "a" / "v.wav", 2, 48_000, 1)
  data = _data(source="files")
  data.source_args.files.directory = str(tmp_path)
  for modalities, suffix in ((BOTH, "mp4"), (("audio",), "wav")):
    clips = clip_data.ClipData(data, modalities)
    assert clips.held_out.segments[0].path.endswith(suffix)
    assert clips.held_out_windows[0].keys() >= {*modalities}


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_out_of_range_is_refused(share):
  with pytest.raises(
    UserError, match=r"max_unreadable_share is .* from 0 to 1"
  ):
    clip_data.ClipData(_data(max_unreadable_share=share), BOTH)


class HalfUnreadable:
  """Forty clips, half of which cannot be read."""

  class_names, labels, in_memory = ("a",), ((0,),) * 40, True

  def __len__(self):
    return 40

  def read(self, index, window, place):
    if index % 2:
      raise UserError(f"{index} is bad")
    return {}


@pytest.mark.parametrize(("share", "accepted"), [(0.5, True), (0.4, False)])
def test_the_config_limits_the_share_of_unreadable_clips(
  monkeypatch, share, accepted
):
  monkeypatch.setattr(
    "perceiver_jax.data.clips.sources.make_clips",
    lambda *_, **__: HalfUnreadable(),
  )
  clips = clip_data.ClipData(_data(max_unreadable_share=share), BOTH)
  rng = np.random.default_rng(0)
  windows = clips.train_windows
  for read in (
    lambda: [clips.held_out_windows[i] for i in range(80)],
    lambda: [windows.read(windows[i], rng) for i in range(40)],
  ):
    if accepted:
      assert sum(each["unreadable"] for each in read()) >= 20
    else:
      with pytest.raises(UserError, match="clips cannot be read"):
        read()


@pytest.mark.parametrize(
  ("names", "message"),
  [
    (("a", "c"), "'test' has 2 .* the run 2; .* 1, 'b' instead of 'c'"),
    (("b", "a"), "number 0, 'a' instead of 'b'"),
    (("a",), "the run 1; .* number 1, 'b' instead of none"),
    (("a", "b", "c"), "the run 3; .* number 2, none instead of 'c'"),
  ],
)
def test_clips_of_other_classes_than_the_runs_are_refused(
  tmp_path, names, message
):
  data = _prepared(tmp_path)
  clips = clip_data.ClipData(data, BOTH, metadata={"class_names": names})
  # Prediction needs no clips.
  assert clips.class_names == names
  with pytest.raises(UserError, match=message):
    _ = clips.held_out
  with pytest.raises(UserError, match="split 'train' has 2"):
    _ = clips.train


def test_splits_of_different_classes_are_refused(tmp_path):
  data = _prepared(tmp_path)
  tiny_clips.write_shards(tmp_path, "train", [[0]], ("a", "z"))
  clips = clip_data.ClipData(data, BOTH)
  assert clips.class_names == ("a", "b")
  with pytest.raises(UserError, match=r"'train' .* 1, 'z' instead of 'b'"):
    _ = clips.train
