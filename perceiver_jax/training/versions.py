"""The package versions, the devices and the commit that a run was made with."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import jax

_PACKAGES = (
  "perceiver_jax",
  "jax",
  "jaxlib",
  "dm-haiku",
  "optax",
  "orbax-checkpoint",
  "grain",
  "numpy",
)


def versions() -> dict[str, str]:
  """Returns the package versions, the devices and the commit."""
  versions = {"python": platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  devices = jax.devices()
  versions["devices"] = f"{len(devices)} x {devices[0].device_kind}"
  versions["platform"] = platform.platform()
  if commit := _commit():
    versions["commit"] = commit
  return versions


def _commit() -> str:
  """Returns the commit of the code, "-dirty" if changed; "" if unknown."""
  here = Path(__file__).parent

  def git(*args: str) -> str:
    done = subprocess.run(
      ["git", *args], cwd=here, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip() if done.returncode == 0 else ""

  try:
    # An installed package may lie in a repository of other code.
    if not git("ls-files", "--error-unmatch", Path(__file__).name):
      return ""
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
  except (OSError, subprocess.SubprocessError):
    return ""
  return commit + ("-dirty" if commit and changed else "")
