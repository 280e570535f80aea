"""Eight fake CPU devices, parsed flags, and shapes checked at run time."""

import contextlib
import gc
import os
import socket
import subprocess

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jaxtyping
import pytest
from absl import flags
from jax.experimental.compilation_cache import compilation_cache

# Fixtures that run the entry points, for tests of tasks, experiments, scripts.
pytest_plugins = ["entry_points"]

jaxtyping.install_import_hook("perceiver_jax.models", "beartype.beartype")

# Tests run a program for milliseconds; XLA would take seconds to optimize it.
_QUICK_XLA = (
  " --xla_backend_optimization_level=0"
  " --xla_llvm_disable_expensive_passes=true"
  " --xla_cpu_parallel_codegen_split_count=1"
)
# Newer versions don't have this flag, and XLA aborts on unknown flags.
if jax.__version_info__ < (0, 11):
  _QUICK_XLA += " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
  # Slow tests run optimized programs, as users do.
  if config.getoption("markexpr").startswith("not slow"):
    os.environ["XLA_FLAGS"] += _QUICK_XLA


def pytest_collection_finish():
  _check_flags()
  # Garbage collection would take a quarter of the time of tracing. Imported
  # modules are never collected anyway.
  gc.freeze()
  gc.set_threshold(100_000, 50, 100)


def _check_flags():
  """Checks that no test module has imported a program that defines flags.

  Two programs may define the same flag, so that only one can be imported.
  """
  for name in flags.FLAGS:
    module = flags.FLAGS.find_module_defining_flag(name)
    if module.startswith(("experiments.", "scripts.")):
      raise pytest.UsageError(
        f"a test module imports {module}, which defines --{name} for all"
        " programs; run it by a fixture of entry_points instead"
      )


@pytest.fixture(scope="session", autouse=True)
def _parsed_flags():
  # Grain's worker processes read absl flags.
  flags.FLAGS.mark_as_parsed()


@pytest.fixture
def no_type_checks(monkeypatch):
  """Lets models get values that the types of their arguments exclude.

  Only tests check these types, so that modules have to refuse such values.
  """
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory):
  """Returns the environment of programs that share one compilation cache.

  XLA hardly optimizes them, since they run for a few steps only.
  """
  return {
    "XLA_FLAGS": _QUICK_XLA if _QUICK_XLA in os.environ["XLA_FLAGS"] else "",
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }


@pytest.fixture(scope="session")
def compiling_once(compile_cache):
  """Returns a context manager that uses `compile_cache` in this process."""

  @contextlib.contextmanager
  def compiling_once():
    values = {
      "jax_compilation_cache_dir": compile_cache["JAX_COMPILATION_CACHE_DIR"],
      "jax_persistent_cache_min_compile_time_secs": 0,
      "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in values}
    for name, value in values.items():
      jax.config.update(name, value)
    jax.config.update("jax_disable_most_optimizations", True)
    compilation_cache.reset_cache()
    try:
      yield
    finally:
      jax.config.update("jax_disable_most_optimizations", False)
      for name, value in before.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()

  return compiling_once


@pytest.fixture(scope="module")
def compile_once(compiling_once):
  """Uses `compile_cache` for the tests of a module."""
  with compiling_once():
    yield


@pytest.fixture
def no_report(monkeypatch):
  """Writes no report, since plotting takes longer than a tiny run."""
  monkeypatch.setattr("perceiver_jax.viz.report.write_report", lambda *_: None)


@pytest.fixture(scope="session")
def program(compile_cache):
  """Returns a function that starts a `Program` with `compile_cache`."""
  # Imported here because tests of the models don't need what it imports.
  from tiny_runs import Program

  def start(folder, *args, environment=None, **kwargs):
    shared = compile_cache | (environment or {})
    return Program(folder, *args, environment=shared, **kwargs)

  return start


@pytest.fixture
def start_processes(program):
  """Returns a function that starts the processes of a run.

  Each has one device. Those that still run after the test are killed.
  """
  from tiny_runs import cpus

  started = []

  def start(count, folder, *args, **kwargs):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    processes = [
      program(
        folder,
        *args,
        environment={
          "XLA_FLAGS": cpus(1),
          "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
          "JAX_NUM_PROCESSES": str(count),
          "JAX_PROCESS_ID": str(number),
        },
        **kwargs,
      )
      for number in range(count)
    ]
    started.extend(processes)
    return processes

  yield start
  for run in started:
    run.kill()


@pytest.fixture
def full_disk(tmp_path):
  """Returns a folder on a disk of 16 KB, and a function that fills it."""
  folder = tmp_path / "disk"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("mounting a file system needs root")

  def fill():
    with pytest.raises(OSError, match="No space left"):
      (folder / "filling").write_bytes(bytes(2**16))

  yield folder, fill
  subprocess.run(["umount", "--lazy", str(folder)], check=True)
