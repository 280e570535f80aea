"""Serves a page to browsers, without requests to any other machine."""

import importlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.demo_pages.page import Page
from perceiver_jax import limits
from perceiver_jax.errors import UserError

# Bytes of a request beside those of an upload.
_OVERHEAD = 2**20
_ANY_ADDRESS = ("0.0.0.0", "::")
# What a browser may load for the page. Gradio's page has scripts and styles in
# it, and compiles some code at run time.
_POLICY = (
  "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
  " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
  " media-src 'self' data: blob:; font-src 'self' data:; object-src 'none';"
  " base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)

# Python's audit events of connections and of names that are looked up, with
# the position of the address or name among their arguments.
_OF_SOCKETS = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
_EVENTS = {
  **_OF_SOCKETS,
  "socket.getaddrinfo": 0,
  "socket.gethostbyname": 0,
  "socket.gethostbyaddr": 0,
}


def serve(page: Page, host: str, port: int, folder: Path) -> None:
  """Serves a page until Ctrl-C or SIGTERM.

  Args:
    page: The page.
    host: Address to listen at, or a name of this machine.
    port: Port to listen at.
    folder: An existing folder for uploads and results.

  Raises:
    UserError: Gradio is not installed, or the address can't be used.
  """
  address = _resolve(host)
  _set_environment(folder)
  # It would log the requests by which Gradio looks whether it serves.
  logging.getLogger("httpx").setLevel(logging.WARNING)
  interface = _import_interface()
  blocks = interface.build(page)
  refuse_connections(address)
  stopped = threading.Event()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: stopped.set())
  try:
    _, url, _ = blocks.launch(
      server_name=_in_url(address),
      server_port=port,
      prevent_thread_lock=True,
      quiet=True,
      inbrowser=False,
      share=False,
      max_file_size=limits.MAX_UPLOAD_BYTES,
      footer_links=[],
      run_history=False,
      enable_monitoring=False,
      allowed_paths=[],
      ssr_mode=False,
      pwa=False,
      mcp_server=False,
      **interface.looks(),
      app_kwargs={"middleware": _middleware(host, address)},
    )
  except OSError as error:
    raise UserError(
      f"the page can't be served at {host}, port {port} ({error}); give another"
      " --port or --host"
    ) from error
  print(f"{page.title}: {url}", flush=True)
  print("Ctrl-C ends it.", flush=True)
  stopped.wait()
  blocks.close(verbose=False)


def _resolve(host: str) -> str:
  """Returns the address of a host, which may be a name.

  Raises:
    UserError: There is no such host.
  """
  try:
    found = socket.getaddrinfo(host.strip("[]"), None)
  except (OSError, UnicodeError) as error:
    raise UserError(
      f"--host={host} is unknown ({error}); give an address or a name of this"
      " machine"
    ) from error
  return found[0][4][0]


def _in_url(address: str) -> str:
  """Returns an address as URLs have it: with brackets if it is of IPv6."""
  return f"[{address}]" if ":" in address else address


def refuse_connections(address: str) -> None:
  """Makes this process refuse to connect to other machines, for good.

  Gradio downloads a file if a request names its URL in place of an upload.

  Args:
    address: Address of this machine to allow beside the loopback ones.
  """
  # Its connections raise no audit events; uvicorn then uses asyncio's loop.
  sys.modules["uvloop"] = None  # type: ignore[assignment]
  sys.addaudithook(lambda event, args: _check_event(event, args, address))


def _check_event(event: str, args: Sequence[Any], allowed: str) -> None:
  """Raises an error if an audit event is about another machine."""
  if event not in _EVENTS:
    return
  target = args[_EVENTS[event]]
  # Addresses of sockets in the file system are no tuples.
  if event in _OF_SOCKETS:
    target = target[0] if isinstance(target, tuple) else "localhost"
  if target not in (allowed, None, "", "localhost") and not _is_local(target):
    raise ConnectionRefusedError(
      f"the page makes no requests to other machines, as to {target}"
    )


def _is_local(target: str | bytes) -> bool:
  try:
    name = target.decode() if isinstance(target, bytes) else target
    address = ipaddress.ip_address(name.partition("%")[0])
  except ValueError:
    return False
  return address.is_loopback or address.is_unspecified


class Guard:
  """ASGI middleware that limits requests and what browsers load.

  Args:
    app: The application behind it.
  """

  def __init__(self, app: Callable[..., Awaitable[None]]):
    self._app = app

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    """Refuses large requests, and adds headers to the responses to others."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    headers = dict(scope["headers"])
    size = headers.get(b"content-length", b"0")
    # Without a length, a request could be of any size.
    has_size = size.isdigit() and b"transfer-encoding" not in headers
    if not has_size or int(size) > limits.MAX_UPLOAD_BYTES + _OVERHEAD:
      start = {"type": "http.response.start", "status": 413, "headers": []}
      await send(start)
      await send({"type": "http.response.body"})
      return

    async def send_with_headers(message):
      if message["type"] == "http.response.start":
        added = [
          (b"content-security-policy", _POLICY.encode()),
          (b"referrer-policy", b"no-referrer"),
          (b"x-content-type-options", b"nosniff"),
        ]
        message = {**message, "headers": [*message["headers"], *added]}
      await send(message)

    await self._app(scope, receive, send_with_headers)


def _middleware(host: str, address: str) -> list[Any]:
  from starlette.middleware import Middleware
  from starlette.middleware.trustedhost import TrustedHostMiddleware

  # Otherwise a page of another site could reach this one under its own name.
  names = ["127.0.0.1", "localhost", "[::1]", host, _in_url(address)]
  if address in _ANY_ADDRESS:
    names = ["*"]
  return [
    Middleware(TrustedHostMiddleware, allowed_hosts=names),
    Middleware(Guard),
  ]


def _set_environment(folder: Path) -> None:
  """Sets what Gradio reads when it is imported."""
  for name in list(os.environ):
    if name.startswith("GRADIO_"):
      del os.environ[name]
  os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_TEMP_DIR": str(folder),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
  }


def _import_interface() -> ModuleType:
  try:
    importlib.import_module("gradio")
  except ImportError as error:
    raise UserError(
      "the page needs Gradio: pip install -e '.[demo]'"
    ) from error
  return importlib.import_module("experiments.demo_pages.interface")
