"""Tests of the textures of rendered pairs."""

import numpy as np
import pytest

from perceiver_jax.data.flow import textures as flow_textures

SLOPE = 4


def ramps(rows, columns):
  """Returns a photo whose red grows downward and whose green to the right."""
  photo = np.zeros((rows, columns, 3), np.uint8)
  photo[..., 0] = SLOPE * np.arange(rows)[:, None]
  photo[..., 1] = SLOPE * np.arange(columns)
  return photo


def scales(part):
  """Returns pixels of the texture per pixel of the photo, down and across."""
  steps = [
    np.abs(np.diff(part[..., axis].astype(float), axis=axis)).mean()
    for axis in (0, 1)
  ]
  return SLOPE / np.array(steps)


@pytest.mark.parametrize("photo", [(60, 30), (20, 60), (63, 63)])
@pytest.mark.parametrize("size", [(20, 30), (150, 190), (40, 260)])
def test_photos_keep_their_aspect_ratio_and_scale_within_limits(
  monkeypatch, photo, size
):
  textures = flow_textures.Textures("train", scale=(0.5, 2.0))
  monkeypatch.setattr(textures, "_photo", lambda rng: ramps(*photo))
  all_scales = []
  for seed in range(12):
    part = textures._part(np.random.default_rng(seed), *size)
    assert part.shape == (*size, 3)
    down, across = scales(part)
    assert down == pytest.approx(across, rel=0.15)
    all_scales += [down, across]
  # The slope is zero where a photo is mirrored, which makes scales a little
  # too large.
  assert min(all_scales) > 0.45
  assert max(all_scales) < 2.3
  assert max(all_scales) > 1.4 * min(all_scales)
