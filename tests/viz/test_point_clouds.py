"""Tests of drawings of point clouds."""

import base64
import re
import shutil
import subprocess

import numpy as np
import pytest

from perceiver_jax.viz import attention_sections, point_clouds

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_POINTS = np.array([[1, 0, 0], [0, -0.5, 0], [0, 0, 0.25]], np.float32)


def _sample(label="cone", prediction="cone", probability=0.9, **maps):
  return point_clouds.CloudSample(_POINTS, maps, label, prediction, probability)


def _page(*samples):
  section = point_clouds.cloud_samples(samples)
  return attention_sections.page("clouds", [section])


def _data(page, name):
  return [base64.b64decode(x) for x in re.findall(f'data-{name}="(.*?)"', page)]


def test_the_section_contains_points_and_colors():
  page = _page(_sample(first=np.array([0.0, 1.0, 0.5]), second=np.ones(3)))
  (points,) = _data(page, "points")
  found = np.frombuffer(points, "<i2").reshape(-1, 3) / 32767
  np.testing.assert_allclose(found, _POINTS, atol=1e-4)
  (colors,) = _data(page, "colors")
  levels = np.frombuffer(colors, np.uint8).reshape(3, 3)  # Height is last.
  assert levels[0].tolist() == [0, 255, 128]
  assert levels[2].argmax() == 2
  options = re.findall("<option>(.*?)</option>", page)
  assert options == ["first", "second", "height"]
  assert len(_data(page, "palette")[0]) == 256 * 3


def test_the_page_needs_no_network():
  page = _page(_sample())
  assert not re.findall(
    r"https?:|//\w+\.\w|src=|href=|url\(|fetch|import", page
  )
  assert page.count("<script>") == 1


def test_mistakes_come_first_and_names_are_escaped():
  page = _page(_sample(), _sample("<b>&cone", "</script><script>alert(1)", 0.5))
  assert page.index("label: &lt;b&gt;&amp;cone") < page.index(">cone<")
  assert "&lt;/script&gt;" in page
  assert "alert(1)</script>" not in page
  assert page.count("<script>") == page.count("</script>") == 1


def test_clouds_without_points_or_attention_are_drawn():
  empty = point_clouds.CloudSample(np.zeros((0, 3)), {}, "", "cone", 0.5)
  page = _page(empty, _sample(first=np.arange(3)))
  assert page.count("<canvas") == 2

  # All clouds have the same columns, whichever of them is empty.
  full = _sample(first=np.arange(3), second=np.arange(3))
  sheets = [
    point_clouds.contact_sheet(samples)
    for samples in ([full, full], [empty, full], [full, empty])
  ]
  assert len({sheet.shape for sheet in sheets}) == 1


def test_only_wrong_predictions_are_crossed_out(monkeypatch):
  titles = []
  monkeypatch.setattr(
    point_clouds.image_layout, "contact_sheet", lambda _, x, n: titles.extend(x)
  )
  cloud = np.zeros((2, 3), np.float32)
  samples = [
    point_clouds.CloudSample(cloud, {}, label, "cone", 0.5)
    for label in ("cone", "cube", "")
  ]
  point_clouds.contact_sheet(samples)
  assert titles == ["cone 50%", "✗ cone 50%", "cone 50%"]


def test_drawings_show_the_nearest_point_on_top():
  # Both are at the center of the image, as seen from the first view.
  azimuth, elevation = point_clouds._AZIMUTH, point_clouds._ELEVATION
  away = np.array(
    [
      np.sin(azimuth) * np.cos(elevation),
      np.cos(azimuth) * np.cos(elevation),
      -np.sin(elevation),
    ]
  )
  for order in (1, -1):
    points = np.stack([away, -away])[::order]
    values = np.array([1.0, 0.0])[::order]  # The near one is lower.
    image = point_clouds.draw(points, values)
    center = image[image.shape[0] // 2, image.shape[1] // 2]
    np.testing.assert_allclose(center, point_clouds._PALETTE[0], atol=2)


@pytest.mark.parametrize("kind", ["perceiver", "pointnet"])
def test_attention_is_averaged_over_heads_after_the_softmax(kind):
  logits = np.log(np.array([[[1, 3, 0.001, 4]], [[2, 2, 0.001, 4]]]))
  mask = np.array([True, True, False, True])
  maps = point_clouds.maps_of_attention([logits, logits], mask, kind)
  for values in maps.values():
    np.testing.assert_allclose(values, [1.5 / 8, 2.5 / 8, 0.5], rtol=1e-5)
  if kind == "pointnet":
    assert list(maps) == ["share of the maxima"]
  else:
    assert list(maps) == [
      "cross-attend 1, mean over latents",
      "cross-attend 1, latent 0",
      "cross-attend 2, mean over latents",
      "cross-attend 2, latent 0",
    ]


@pytest.mark.skipif(_CHROMIUM is None, reason="Chromium is not installed")
def test_keys_and_drags_turn_a_cloud_and_the_menu_colors_all(tmp_path):
  samples = _sample(first=np.arange(3)), _sample("box", first=np.ones(3))
  page = str(_page(*samples))
  script = """
    const [one, other] = document.querySelectorAll("canvas");
    const menu = document.querySelector("select");
    const images = () => [one.toDataURL(), other.toDataURL()];
    const changes = [];
    const act = (action) => {
      const before = images();
      action();
      const after = images();
      changes.push(after.map((x, i) => Number(x !== before[i])).join(""));
    };
    const press = (key) => new KeyboardEvent("keydown", {key});
    act(() => one.dispatchEvent(press("ArrowUp")));
    act(() => one.dispatchEvent(press("a")));
    act(() => other.dispatchEvent(
      new PointerEvent("pointermove", {buttons: 1, clientX: 20})));
    act(() => other.dispatchEvent(
      new PointerEvent("pointermove", {buttons: 0, clientX: 60})));
    act(() => {
      menu.selectedIndex = 1;
      menu.dispatchEvent(new Event("change"));
    });
    document.title = changes.join(" ");
  """
  file = tmp_path / "clouds.html"
  file.write_text(page.replace("</body>", f"<script>{script}</script></body>"))
  done = subprocess.run(
    [
      _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
      f"--user-data-dir={tmp_path}/profile", "--dump-dom", file.as_uri(),
    ],
    capture_output=True, text=True, timeout=120, check=True,
  )  # fmt: skip
  assert "<title>10 00 01 00 11</title>" in done.stdout
