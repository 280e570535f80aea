"""What the tasks on clips make of the `data` section of a config."""

import pytest
import tiny_clips

from configs import audioset as config_file
from experiments import clip_data
from perceiver_jax.errors import UserError

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
  ("rates", "modality", "why"),
  [
    ({"fps": 0.0}, "image", "--fps=0"),
    ({"rate": 0}, "audio", "--sample_rate=0"),
    ({"rate": 8000}, "audio", "set config.data.sample_rate"),
  ],
)
def test_a_track_that_was_not_prepared_is_said_at_once(
  tmp_path, rates, modality, why
):
  data = _prepared(tmp_path, **rates)
  (other,) = {*BOTH} - {modality}
  assert len(clip_data.ClipData(data, (other,)).train) == 2
  for modalities in ((modality,), BOTH):
    with pytest.raises(UserError, match=why):
      _ = clip_data.ClipData(data, modalities).held_out
