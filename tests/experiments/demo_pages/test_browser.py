"""Tests of the pages in headless Chromium: make test-demo."""

import functools
import http.client
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from typing import NamedTuple

import numpy as np
import pytest
import task_helpers
import tiny_points
import tiny_runs
import tiny_weights

from experiments.demo_pages import page
from perceiver_jax import limits, weights
from perceiver_jax.data.images import codec

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_MISSING = [
  name
  for name in ("gradio", "playwright")
  if not importlib.util.find_spec(name)
] + ["Chromium"] * (_CHROMIUM is None)

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(bool(_MISSING), reason=f"missing: {', '.join(_MISSING)}"),
]

# Models of `tiny_weights`, and the flags of their pages.
_WEIGHTS = {
  "classifier": [f"--image_size={tiny_weights.IMAGE_SIZE}"],
  "autoencoder": ["--parts=2"],
}
# Variants of configs whose runs on generated data are not "small,smoke".
_VARIANTS = {"glue": "word_order,smoke"}
# Selectors of an example, which is a row of a table if there are several
# fields, and of results: classes, a drawing, and sections of a report.
_EXAMPLE = ".gallery-item, .tr-body"
_CLASSES = "[data-testid='label-output-value']"
_DRAWN = ".image-frame img:not(.field img)"
_FRAME = "iframe.result"

# Writes down every machine that Python resolves or connects to.
_RECORDER = """
import os, sys

def record(event, args):
  if event.startswith("socket.get") or event in (
    "socket.connect", "socket.sendto", "socket.sendmsg"
  ):
    has_socket = not event.startswith("socket.get")
    target = args[1] if has_socket else args[0] if args else None
    with open(os.environ["CONNECTIONS"], "a") as file:
      print(event, target, file=file)

sys.addaudithook(record)
"""


class Served(NamedTuple):
  """A page that is served.

  Attributes:
    url: Its address, without a slash at the end.
    connections: File with a line for each connection of the server.
    process: The server.
  """

  url: str
  connections: object
  process: subprocess.Popen

  def request(self, method, path, body=None, headers=None):
    """Returns status and body of the response to a request."""
    address = urllib.parse.urlsplit(self.url).netloc
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return response.status, response.read().decode(errors="replace")


@pytest.fixture(scope="module")
def serve(tmp_path_factory, compile_cache):
  """Returns a function that serves the page of a command line."""
  processes = []

  def start(*arguments):
    folder = tmp_path_factory.mktemp("served")
    (folder / "sitecustomize.py").write_text(_RECORDER)
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    path = [str(folder), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
      [
        *(sys.executable, "-m", "experiments.demo", f"--port={port}"),
        *map(str, arguments),
      ],
      cwd=tiny_runs.ROOT,
      env=os.environ
      | compile_cache
      | {
        "PYTHONPATH": os.pathsep.join(path),
        "CONNECTIONS": str(folder / "connections"),
        "GRADIO_SHARE": "True",
      },
      stdout=subprocess.PIPE,
      text=True,
    )
    processes.append(process)
    line = process.stdout.readline()
    assert f"http://127.0.0.1:{port}/" in line
    url = f"http://127.0.0.1:{port}"
    return Served(url, folder / "connections", process)

  yield start
  for process in processes:
    process.send_signal(signal.SIGTERM)
  for process in processes:
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def digits(serve, trained_once):
  """Returns the served page of a run on digits."""
  return serve(f"--workdir={trained_once[0]}")


@pytest.fixture(scope="module")
def points(serve, tmp_path_factory):
  """Returns the served page of a classifier of point clouds."""
  spec = tiny_weights.classifier().spec
  spec["adapter"] = {"kind": "points", "num_bands": 2, "max_resolution": 4}
  file = tmp_path_factory.mktemp("weights") / "points.safetensors"
  array = tiny_weights.array(1, 24, 3)
  weights.save(file, tiny_weights.random(spec, array))
  return serve(f"--weights={file}", "--num_points=24")


@pytest.fixture(scope="module")
def serve_kind(serve, tmp_path_factory):
  """Returns a function that serves the page of a kind of model, once."""

  @functools.cache
  def serve_kind(kind):
    folder = tmp_path_factory.mktemp("kind")
    if kind in _WEIGHTS:
      file = folder / f"{kind}.safetensors"
      weights.save(file, getattr(tiny_weights, kind)())
      return serve(f"--weights={file}", *_WEIGHTS[kind])
    module = importlib.import_module(f"configs.{kind}")
    variant = _VARIANTS.get(kind, "small,smoke")
    tiny_runs.write_random(folder, task_helpers.make_config(module, variant))
    return serve(f"--workdir={folder}")

  return serve_kind


@pytest.fixture(scope="module")
def browser():
  """Returns Chromium."""
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    launched = playwright.chromium.launch(
      executable_path=_CHROMIUM, args=["--no-sandbox"]
    )
    yield launched
    launched.close()


@pytest.fixture
def visit(browser):
  """Returns a function that opens a page, and checks what it requests."""
  outside, contexts = [], []

  def visit(served):
    context = browser.new_context(service_workers="block")
    contexts.append(context)
    context.set_default_timeout(300_000)
    tab = context.new_page()

    def route(route):
      target = route.request.url
      if target.startswith((f"{served.url}/", "data:", "blob:", "about:")):
        route.continue_()
      else:
        outside.append(target)
        route.abort()

    context.route("**/*", route)
    tab.goto(served.url)
    tab.wait_for_selector("#predict")
    return tab

  yield visit
  for context in contexts:
    context.close()
  assert outside == []


def _targets(served):
  """Returns what the server connected to or resolved, other than itself."""
  lines = served.connections.read_text().splitlines()
  local = ("127.0.0.1", "localhost", "('127.0.0.1'", "None", "b'127.0.0.1'")
  return [
    line for line in lines if line.split(" ", 1)[1].split(",")[0] not in local
  ]


def _first_class(tab):
  return tab.locator(_CLASSES).inner_text()


def test_an_example_is_classified_without_a_request_elsewhere(digits, visit):
  tab = visit(digits)
  tab.locator(_EXAMPLE).first.click()
  tab.wait_for_selector(_CLASSES)
  assert _first_class(tab) in set("0123456789")
  tab.wait_for_function(
    "() => [...document.images].filter((i) => i.naturalWidth > 100).length >= 2"
  )
  assert _targets(digits) == []


def test_examples_stay_when_old_uploads_are_deleted(tmp_path, monkeypatch):
  from gradio import route_utils

  from experiments.demo_pages import interface

  monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
  example = tmp_path / "example.npy"
  example.write_bytes(b"example")
  blocks = interface.build(
    page.Page("", "", [page.Input("file", "File")], [], list, [[str(example)]])
  )
  upload = tmp_path / "uploads" / "upload.npy"
  upload.write_bytes(b"upload")
  blocks.upload_file_set.add(str(upload))
  route_utils.delete_files_created_by_app(blocks, -1)
  copies = [p.name for p in (tmp_path / "uploads").rglob("*") if p.is_file()]
  assert copies == ["example.npy"]


def test_a_signal_during_a_prediction_ends_the_server(
  serve, visit, trained_once
):
  served = serve(f"--workdir={trained_once[0]}")
  tab = visit(served)
  tab.locator(_EXAMPLE).first.click()
  time.sleep(0.2)  # The first prediction, with its drawings, takes longer.
  assert tab.locator(_CLASSES).count() == 0
  served.process.send_signal(signal.SIGINT)
  assert served.process.wait(30) == 0


@pytest.mark.parametrize(
  ("kind", "results"),
  [
    ("classifier", [_CLASSES, _DRAWN]),
    ("autoencoder", [_FRAME, _CLASSES]),
    ("audioset", [_CLASSES, _DRAWN]),
    ("masked_lm", [_FRAME]),
    ("glue", [_CLASSES, _FRAME]),
    ("optical_flow", [_DRAWN]),
    ("starcraft", [_DRAWN, _CLASSES]),
  ],
)
def test_a_page_shows_the_results_of_an_example(
  serve_kind, visit, kind, results
):
  served = serve_kind(kind)
  tab = visit(served)
  tab.locator(_EXAMPLE).first.click()
  for selector in results:
    tab.wait_for_selector(selector)
  if _FRAME in results:
    body = tab.frame_locator(_FRAME).locator("main")
    assert body.inner_text().strip() or body.locator("video").count()
  assert tab.locator("#error [role=alert]").count() == 0
  assert _targets(served) == []


def test_the_gaps_of_a_typed_text_are_filled(serve_kind, visit):
  tab = visit(serve_kind("masked_lm"))
  field = tab.locator("textarea").first
  field.fill("typed [MASK] <b>text")
  tab.click("#predict")
  tab.wait_for_selector(_FRAME)
  body = tab.frame_locator(_FRAME).locator("main")
  # The predicted byte may be unprintable, and so not be shown.
  assert re.search(r"typed .{0,4} <b>text", body.inner_text())
  field.fill("no gap")
  tab.click("#predict")
  tab.wait_for_selector("#error [role=alert]")
  assert "\n" not in tab.inner_text("#error")


def test_the_flow_of_two_uploaded_frames_is_drawn(serve_kind, visit, tmp_path):
  rng = np.random.default_rng(0)
  frame = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
  tab = visit(serve_kind("optical_flow"))
  for label, shift in (("First frame", 0), ("Second frame", 2)):
    path = tmp_path / f"{label}.png"
    path.write_bytes(codec.encode_png(np.roll(frame, shift, axis=1)))
    field = tab.locator(".field", has_text=label)
    field.locator("input[type=file]").set_input_files(path)
    field.locator("img").wait_for()
  tab.click("#predict")
  tab.wait_for_selector(_DRAWN)
  assert tab.locator("#error [role=alert]").count() == 0


def test_an_uploaded_image_has_the_class_of_the_command(
  digits, visit, trained, call, tmp_path
):
  pixels = np.zeros((40, 40), np.uint8)
  pixels[5:35, 18:23] = 255
  path = tmp_path / "one's <b>digit.png"
  path.write_bytes(codec.encode_png(pixels))
  done = call("predict", "classify", f"--workdir={trained}", path)
  tab = visit(digits)
  tab.locator("input[type=file]").first.set_input_files(path)
  tab.wait_for_selector(".field img")
  tab.click("#predict")
  tab.wait_for_selector(_CLASSES)
  assert _first_class(tab) == done.out.splitlines()[1].split()[0]


def test_a_wrong_file_is_refused_in_one_line(digits, visit, tmp_path):
  path = tmp_path / "wrong.png"
  path.write_bytes(b"\x80\x04\x95 no image")
  tab = visit(digits)
  tab.locator("input[type=file]").first.set_input_files(path)
  tab.wait_for_selector(".field img")
  tab.click("#predict")
  tab.wait_for_selector("#error [role=alert]")
  text = tab.inner_text("#error")
  assert text.startswith("'wrong.png' cannot be read as an image")
  assert "\n" not in text
  assert "Traceback" not in tab.content()
  # The next prediction removes the line.
  tab.locator(_EXAMPLE).first.click()
  tab.wait_for_selector(_CLASSES)
  assert tab.locator("#error [role=alert]").count() == 0


def test_a_cloud_is_drawn_and_turned(points, visit, tmp_path):
  path = tmp_path / "cloud.npy"
  np.save(path, tiny_points.cloud(0, 90))
  tab = visit(points)
  tab.locator("input[type=file]").first.set_input_files(path)
  tab.get_by_text("cloud.npy").first.wait_for()
  tab.click("#predict")
  canvas = tab.frame_locator("iframe.result").locator("canvas")
  canvas.wait_for()
  pixels = lambda: canvas.evaluate("canvas => canvas.toDataURL()")
  before = pixels()
  canvas.focus()
  canvas.press("ArrowLeft")
  assert pixels() != before
  # The frame can't reach the page around it.
  assert canvas.evaluate("() => window.origin") == "null"


def test_a_pickle_is_not_loaded(points, visit, tmp_path):
  class Evil:
    def __reduce__(self):
      return (os.mkdir, (str(tmp_path / "made"),))

  path = tmp_path / "evil.npy"
  np.save(path, np.array([Evil()], object), allow_pickle=True)
  tab = visit(points)
  tab.locator("input[type=file]").first.set_input_files(path)
  tab.get_by_text("evil.npy").first.wait_for()
  tab.click("#predict")
  tab.wait_for_selector("#error [role=alert]")
  assert "'evil.npy' cannot be read" in tab.inner_text("#error")
  assert not (tmp_path / "made").exists()


def test_files_of_the_machine_are_not_served(digits):
  for path in ("/etc/passwd", tiny_runs.ROOT / "README.md"):
    status, _ = digits.request("GET", f"/gradio_api/file={path}")
    assert status == 403


def test_requests_of_other_sites_and_large_ones_are_refused(digits):
  status, _ = digits.request("GET", "/", headers={"Host": "evil.example"})
  assert status == 400
  size = str(2 * limits.MAX_UPLOAD_BYTES)
  headers = {"Content-Length": size, "Content-Type": "text/plain"}
  status, _ = digits.request("POST", "/gradio_api/upload", headers=headers)
  assert status == 413


def test_a_url_in_place_of_an_upload_is_not_fetched(digits):
  url = "http://files.example/image.png"
  file = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
  call = {"data": [file, "", ""], "fn_index": 0, "session_hash": "test"}
  headers = {"Content-Type": "application/json"}
  status, _ = digits.request(
    "POST", "/gradio_api/queue/join", json.dumps(call), headers
  )
  assert status == 200
  events = "/gradio_api/queue/data?session_hash=test"
  end = time.monotonic() + 60
  answer = ""
  while "process_completed" not in answer and time.monotonic() < end:
    _, answer = digits.request("GET", events)
  (completed,) = [
    json.loads(line.removeprefix("data: "))
    for line in answer.splitlines()
    if "process_completed" in line
  ]
  assert not completed["success"]
  # The server wanted to look the name up, which is refused.
  targets = _targets(digits)
  assert [line for line in targets if "files.example" in line]
  assert {line.split()[0] for line in targets} == {"socket.getaddrinfo"}
