"""Tests of what limits the server, which need no Gradio."""

import asyncio
import os
import subprocess
import sys

import pytest

from experiments.demo_pages import page, server
from perceiver_jax import limits
from perceiver_jax.errors import UserError

LOCAL = ["127.0.0.1", "127.0.0.5", "::1", "localhost", "0.0.0.0", "10.1.2.3"]
OUTSIDE = ["10.1.2.4", "1.1.1.1", "example.com", "2001:db8::1", b"example.com"]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
  monkeypatch.setattr(os, "environ", {**os.environ, "GRADIO_SHARE": "True"})


@pytest.mark.parametrize(
  ("host", "in_url"),
  [
    ("10.1.2.3", "10.1.2.3"),
    ("::1", "[::1]"),
    ("[::]", "[::]"),
    ("2001:DB8:0::1", "[2001:db8::1]"),
  ],
)
def test_hosts_are_resolved_to_addresses(host, in_url):
  assert server._in_url(server._resolve(host)) == in_url


def test_the_case_of_a_name_does_not_matter():
  assert server._is_local(server._resolve("LocalHost"))


@pytest.mark.parametrize("host", ["", "a..b"])
def test_an_unknown_host_is_refused(host, tmp_path):
  empty = page.Page("", "", [], [], list, [])
  with pytest.raises(UserError, match=f"--host={host} is unknown"):
    server.serve(empty, host, 7860, tmp_path)


@pytest.mark.parametrize("target", LOCAL)
def test_this_machine_can_be_connected_to(target):
  server._check_event("socket.connect", (None, (target, 80)), "10.1.2.3")
  server._check_event("socket.getaddrinfo", (target, 80), "10.1.2.3")


@pytest.mark.parametrize("target", OUTSIDE)
def test_other_machines_can_not_be_connected_to(target):
  for event, arguments in (
    ("socket.connect", (None, (target, 80))),
    ("socket.sendto", (None, (target, 53))),
    ("socket.getaddrinfo", (target, 80, 0, 0, 0)),
    ("socket.gethostbyname", (target,)),
  ):
    with pytest.raises(ConnectionRefusedError):
      server._check_event(event, arguments, "10.1.2.3")


@pytest.mark.parametrize(
  "call",
  [
    "socket.create_connection(('192.0.2.1', 80), 5)",
    "socket.getaddrinfo('files.example', 80)",
    "socket.gethostbyname('files.example')",
    "socket.gethostbyname_ex('files.example')",
    "socket.gethostbyaddr('files.example')",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "urllib.request.urlopen('http://files.example/image.png')",
    "asyncio.run(request())",
  ],
)
def test_a_process_that_serves_a_page_refuses_to_leave_the_machine(call):
  program = (
    "import asyncio, socket, urllib.request\n"
    "from experiments.demo_pages import server\n"
    "server.refuse_connections('127.0.0.1')\n"
    "socket.getaddrinfo('127.0.0.1', 80)\n"
    "request = lambda: asyncio.open_connection('files.example', 80)\n"
    f"{call}"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.returncode == 1
  assert "the page makes no requests to other machines" in done.stderr


def test_a_loop_whose_connections_are_not_seen_is_not_used():
  program = (
    "from experiments.demo_pages import server\n"
    "server.refuse_connections('127.0.0.1')\n"
    "import uvloop"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert "No module named 'uvloop'" in done.stderr or (
    "import of uvloop halted" in done.stderr
  )


def test_other_events_pass():
  server._check_event("open", ("example.com", "r", 0), "127.0.0.1")
  server._check_event("socket.connect", (None, "/run/socket"), "127.0.0.1")


def _respond(headers):
  """Returns the messages with which `Guard` answers a request."""
  sent = []

  async def app(scope, receive, send):
    start = {"type": "http.response.start", "status": 200, "headers": []}
    await send(start)
    await send({"type": "http.response.body", "body": b"page"})

  async def send(message):
    sent.append(message)

  scope = {"type": "http", "headers": headers}
  asyncio.run(server.Guard(app)(scope, None, send))
  return sent


def test_browsers_load_nothing_from_other_machines():
  start, body = _respond([])
  policy = dict(start["headers"])[b"content-security-policy"]
  assert b"default-src 'self'" in policy
  assert b"http" not in policy
  assert body["body"] == b"page"


@pytest.mark.parametrize(
  "header",
  [
    (b"content-length", str(2 * limits.MAX_UPLOAD_BYTES).encode()),
    (b"content-length", b"many"),
    (b"transfer-encoding", b"chunked"),
  ],
)
def test_requests_that_are_too_large_are_refused(header):
  start, _ = _respond([header])
  assert start["status"] == 413


def test_without_gradio_one_line_says_what_to_install(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "gradio", None)
  empty = page.Page("", "", [], [], list, [])
  with pytest.raises(UserError, match=r"pip install -e '.\[demo\]'"):
    server.serve(empty, "127.0.0.1", 7860, tmp_path)


def test_the_environment_can_not_share_the_page(tmp_path):
  os.environ["GRADIO_ALLOWED_PATHS"] = "/"
  server._set_environment(tmp_path)
  names = {name for name in os.environ if name.startswith("GRADIO_")}
  assert names == {"GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"}
