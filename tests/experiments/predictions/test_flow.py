import cv2
import numpy as np
import pytest
import tiny_weights
from jax import numpy as jnp

from experiments.predictions import flow as flow_command
from perceiver_jax import weights
from perceiver_jax.data.clips import video, video_writer
from perceiver_jax.data.flow import files as flow_files
from perceiver_jax.data.images import codec
from perceiver_jax.evaluation import tiling
from perceiver_jax.models.modalities import flow as flow_adapter
from perceiver_jax.viz import flow_colors

pytestmark = pytest.mark.usefixtures("compile_once")

HEIGHT, WIDTH = tiny_weights.TILE


@pytest.fixture
def pair(tmp_path):
  """Returns a function that writes two frames of noise."""

  def make(height, width):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for path, frame in zip(paths, frames, strict=True):
      path.write_bytes(codec.encode_png(frame))
    return paths, frames

  return make


def predictor(file):
  """Returns a function from frames [b, 2, h, w, 3] to flow in pixels."""
  flow_weights = weights.load(file)

  def predict(frames):
    raw = (frames / 127.5 - 1).astype(np.float32)
    outputs = tiny_weights.outputs(flow_weights, raw)
    return np.asarray(flow_adapter.in_pixels(jnp.asarray(outputs.logits)))

  return predict


def expected(file, frames, spacing="even"):
  return tiling.tiled_flow(
    frames,
    predictor(file),
    tile=(HEIGHT, WIDTH),
    min_overlap=tiling.overlap((HEIGHT, WIDTH)),
    spacing=spacing,
  )


@pytest.mark.parametrize(
  ("height", "width", "spacing"),
  [
    (HEIGHT, WIDTH, "even"),
    (HEIGHT + 3, WIDTH + 40, "even"),
    (HEIGHT - 5, WIDTH + 40, "released"),
    (5, 3, "even"),
  ],
)
def test_files_contain_the_flow_of_the_model(
  call, weight_file, pair, tmp_path, height, width, spacing
):
  file, (paths, frames) = weight_file("flow"), pair(height, width)
  flags = [f"--weights={file}", f"--tiles={spacing}", "--output=o"]
  done = call("predict", "flow", *flags, *paths)
  assert (done.status, done.err) == (0, "")
  want = expected(file, frames, spacing)
  assert 0.5 < np.abs(want).max() < 500
  exact = flow_files.read_flow(tmp_path / "o" / "first.flo")
  np.testing.assert_allclose(exact, want, rtol=1e-3, atol=1e-3)
  kitti = flow_files.read_flow(tmp_path / "o" / "first-kitti.png")
  np.testing.assert_allclose(kitti, exact, atol=0.5 / 64 + 1e-6)
  image = codec.read_image(tmp_path / "o" / "first-flow.png")
  np.testing.assert_array_equal(image, flow_colors.flow_to_rgb(exact))
  longest = np.hypot(*np.moveaxis(exact, 2, 0)).max()
  assert done.out.splitlines() == [
    f"longest displacement: {longest:.1f} pixels",
    "o/first-flow.png",
    "o/first.flo",
    "o/first-kitti.png",
  ]


def test_the_two_spacings_of_tiles_give_different_flow(weight_file, pair):
  file, (_, frames) = weight_file("flow"), pair(HEIGHT, WIDTH + 40)
  even, released = (
    expected(file, frames, spacing) for spacing in tiling.SPACINGS
  )
  assert np.abs(even - released).max() > 0.1


def test_large_displacements_are_saved_in_other_formats(
  refuses, tmp_path, pair
):
  flow_weights = tiny_weights.flow()
  flow_weights.params["decoder/output"]["b"][:] = 3000.0
  file = tmp_path / "far.safetensors"
  weights.save(file, flow_weights)
  paths, _ = pair(HEIGHT, WIDTH)
  parts = ["first-kitti.png", "511.98"]
  done = refuses("predict", "flow", f"--weights={file}", *paths, parts=parts)
  assert "predictions/first.flo" in done.out.splitlines()
  saved = {p.name for p in (tmp_path / "predictions").iterdir()}
  assert saved == {"first.flo", "first-flow.png"}


def test_the_flow_of_a_video_has_one_frame_less(call, weight_file, tmp_path):
  y, x = np.mgrid[:HEIGHT, :40]
  frames = [
    np.uint8(np.stack([4 * (x + t), 6 * y, x + y], -1)) for t in range(4)
  ]
  video_writer.write_video(tmp_path / "video.mp4", frames, 12.5)
  file = weight_file("flow")
  done = call("predict", "flow", f"--weights={file}", "video.mp4")
  assert done.status == 0, done.err
  assert done.out.splitlines() == ["predictions/video-flow.mp4"]
  path = tmp_path / "predictions" / "video-flow.mp4"
  assert video.frame_rate(path) == 12.5
  made = [frame for _, frame in video.frames(path)]
  assert len(made) == 3
  read = [frame for _, frame in video.frames(tmp_path / "video.mp4")]
  flows = [expected(file, np.stack(read[i : i + 2])) for i in range(3)]
  longest = max(np.hypot(*np.moveaxis(flow, 2, 0)).max() for flow in flows)
  colors = flow_colors.flow_to_rgb(flows[1], longest).astype(int)
  # H.264 is lossy.
  label = made[0].shape[0] - HEIGHT
  left, right = made[1][label:, :40], made[1][label:, -40:]
  assert np.abs(left.astype(int) - read[1]).mean() < 6
  smooth = lambda a: cv2.blur(a.astype(np.float32), (4, 4))
  assert np.abs(smooth(right) - smooth(colors)).mean() < 12


def test_all_frames_of_a_video_have_the_same_color_scale(tmp_path):
  frames = [np.full((16, 16, 3), 60 * i, np.uint8) for i in range(3)]
  video_writer.write_video(tmp_path / "video.mp4", frames, 10.0)
  flows = [np.full((16, 16, 2), x, np.float32) for x in (1.0, -10.0)]
  left = iter(flows)
  made = list(
    flow_command._frames_with_flow(
      tmp_path / "video.mp4", lambda a, b: next(left)
    )
  )
  longest = np.hypot(10, 10)
  for image, flow in zip(made, flows, strict=True):
    want = flow_colors.flow_to_rgb(flow, longest)
    drawn = image[-16:, -16:].astype(int)
    np.testing.assert_allclose(drawn, want, atol=1)
  still = flow_command._frames_with_flow(
    tmp_path / "video.mp4", lambda a, b: np.zeros((16, 16, 2), np.float32)
  )
  assert [(p[-16:, -16:] == 255).all() for p in still] == [True, True]


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ([], ["two images or one video", "0 files"]),
    (["a", "b", "c"], ["3 files"]),
    (["first.png", "missing.png"], ["missing.png", "no such file"]),
    (["first.png", "other.png"], ["40 x 30", "20 x 30", "one size"]),
    (["first.png"], ["first.png", "cannot be read as video"]),
    (["still.mp4"], ["still.mp4", "single frame"]),
    (["missing.mp4"], ["missing.mp4", "does not exist"]),
    (["--tiles=odd", "first.png", "first.png"], ["--tiles", "even|released"]),
  ],
)
def test_invalid_input_is_refused(
  refuses, weight_file, pair, tmp_path, arguments, parts
):
  pair(30, 40)
  other = np.zeros((30, 20, 3), np.uint8)
  (tmp_path / "other.png").write_bytes(codec.encode_png(other))
  video_writer.write_video(tmp_path / "still.mp4", [other], 25.0)
  flag = f"--weights={weight_file('flow')}"
  refuses("predict", "flow", flag, *arguments, parts=parts)
  assert not list(tmp_path.glob("predictions/*"))


def test_weights_of_another_kind_are_refused(refuses, weight_file, pair):
  paths, _ = pair(8, 8)
  flag = f"--weights={weight_file('classifier')}"
  parts = ["'classification' decoder", "'flow'"]
  refuses("predict", "flow", flag, *paths, parts=parts)


def test_without_weights_the_error_names_the_download(refuses, pair):
  paths, _ = pair(8, 8)
  parts = ["--weights", "https://", "optical_flow_checkpoint.pystate"]
  refuses("predict", "flow", *paths, parts=parts)
