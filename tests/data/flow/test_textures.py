"""What photos become on the layers of rendered pairs."""

import numpy as np
import pytest

from perceiver_jax.data.flow import textures as flow_textures

SLOPE = 4


def ramps(rows, columns):
  """A photo that gets redder downwards and greener to the right."""
  photo = np.zeros((rows, columns, 3), np.uint8)
  photo[..., 0] = SLOPE * np.arange(rows)[:, None]
  photo[..., 1] = SLOPE * np.arange(columns)
  return photo


def sizes(part):
  """Pixels of the frame to a pixel of the photo, down and across."""
  steps = [
    np.abs(np.diff(part[..., axis].astype(float), axis=axis)).mean()
    for axis in (0, 1)
  ]
  return SLOPE / np.array(steps)


@pytest.mark.parametrize("photo", [(60, 30), (20, 60), (63, 63)])
@pytest.mark.parametrize("size", [(20, 30), (150, 190), (40, 260)])
def test_photos_are_resized_alike_along_both_axes_and_within_limits(
  monkeypatch, photo, size
):
  textures = flow_textures.Textures("train", scale=(0.5, 2.0))
  monkeypatch.setattr(textures, "_photo", lambda rng: ramps(*photo))
  found = []
  for seed in range(12):
    part = textures._part(np.random.default_rng(seed), *size)
    assert part.shape == (*size, 3)
    down, across = sizes(part)
    assert down == pytest.approx(across, rel=0.15)
    found += [down, across]
  # Where a photo is mirrored its slope is zero: that seems a little larger.
  assert min(found) > 0.45
  assert max(found) < 2.3
  assert max(found) > 1.4 * min(found)
