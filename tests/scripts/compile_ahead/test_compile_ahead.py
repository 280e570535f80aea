"""Compiling a run for TPUs and GPUs on a machine without any."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest
from jax import numpy as jnp

from perceiver_jax.errors import UserError
from scripts.compile_ahead import chips, program, report

_HAS_CUDA = chips.has_cuda_plugin()
_NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
_COMMAND = [sys.executable, "-m", "scripts.compile_ahead"]


def _run(*flags, timeout=300):
  return subprocess.run(
    [*_COMMAND, *flags],
    capture_output=True,
    text=True,
    timeout=timeout,
    env=os.environ | {"XLA_FLAGS": ""},
  )


def _compile_smoke(path, topology, *flags):
  """Compiles a step; returns its figures and what was printed."""
  done = _run(
    "--config=configs/digits.py:smoke",
    "--config.precision=bfloat16",
    f"--topology={topology}",
    f"--json={path}",
    *flags,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(path.read_text()), done.stdout


def test_the_most_specific_name_of_a_chip_counts():
  assert chips.chip("TPU v5 lite").flops == 197e12
  assert chips.chip("TPU v5").flops == 459e12


def test_an_unknown_chip_is_refused():
  with pytest.raises(UserError, match="no figures for 'TPU v99'"):
    chips.chip("TPU v99")


def test_the_missing_memory_is_read_from_the_compilers_message():
  message = (
    "XLA:TPU compile permanent error. Ran out of memory in memory space hbm."
    " Used 20.55G of 15.75G hbm. Exceeded hbm capacity by 4.80G."
  )
  assert program.excess_bytes(message) == int(4.8 * 2**30)
  message = (
    "Ran out of memory on HBM, the total memory required for HLO temporaries"
    " (30.75G) exceeds available HBM (15.75G)."
  )
  assert program.excess_bytes(message) == 15 * 2**30
  message = message.replace("30.75G", "1.00T")
  assert program.excess_bytes(message) == 2**40 - int(15.75 * 2**30)
  assert program.excess_bytes("another error") == 0


def test_topologies_are_listed():
  done = _run("--list_topologies")
  assert done.returncode == 0
  assert "v5e:8x8" in done.stdout.split()


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed"
)
def test_without_libtpu_the_error_says_what_to_install():
  done = _run("--config=configs/digits.py:smoke")
  assert done.returncode == 2
  assert "pip install -e '.[compile-ahead]'" in done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(_HAS_CUDA, reason="the CUDA plugin is installed")
def test_without_the_cuda_plugin_the_error_says_what_to_install():
  done = _run("--config=configs/digits.py:smoke", "--topology=h100:8")
  assert done.returncode == 2
  assert "pip install -e '.[cuda]'" in done.stderr
  assert len(done.stderr.splitlines()) == 1


def _lowered(lowered=None, held=0):
  """Returns a program for CPUs, of which there are no estimates either."""
  x = jax.ShapeDtypeStruct((1000,), "float32")
  lowered = lowered or jax.jit(jnp.cumsum).lower(x)
  held = {"queued batches": held}
  return program.Lowered(lowered, 0, 0, 0, 0.0, [], (), held)


def test_the_names_of_results_do_not_change_the_fingerprint():
  def fingerprint(fn):
    x = jax.ShapeDtypeStruct((1000,), "float32")
    return _lowered(jax.jit(fn).lower(x)).fingerprint

  one = fingerprint(lambda x: {"cola": jnp.cumsum(x)})
  assert fingerprint(lambda x: {"sst2": jnp.cumsum(x)}) == one
  assert fingerprint(lambda x: {"cola": jnp.cumprod(x)}) != one


def test_a_report_without_estimates_has_no_times():
  lowered, chip = _lowered(), chips.chip("H100")
  compiled = program.compile_program(lowered, chip)
  figures = report.figures(lowered, compiled, chip, num_devices=1)
  assert "estimated_seconds" not in figures
  lines = report.text(figures).splitlines()
  assert (
    "  estimated     no time: the compiler estimates none for this device"
    in lines
  )
  assert any(line.startswith("  memory ") for line in lines)
  assert lines[-1].startswith("  operations ")


def test_a_program_larger_than_a_device_does_not_fit():
  def compiled(hbm_bytes, held=0):
    chip = chips.chip("H100")._replace(hbm_bytes=hbm_bytes)
    return program.compile_program(_lowered(held=held), chip)

  needed = sum(compiled(2**30).memory.values())
  assert needed >= 8000  # Bytes of argument and result.
  assert compiled(needed).exceeds_by == 0
  assert compiled(needed - 1).exceeds_by == 1
  # What a run holds beside the program takes memory too.
  assert compiled(needed, held=7).exceeds_by == 7


@pytest.mark.parametrize(
  ("parts", "examples", "excess", "expected"),
  [(1, 16, 1, 2), (1, 16, 250, 4), (1, 12, 150, 3), (3, 9, 1, 9), (4, 7, 1, 7),
   (1, 2, 150, 0), (8, 8, 1, 0)],
)  # fmt: skip
def test_the_next_number_of_microbatches_divides_the_examples(
  parts, examples, excess, expected
):
  chip = chips.chip("H100")._replace(hbm_bytes=100)
  compiled = program.Compiled(1.0, 1.0, "", {}, excess)
  found = program.parts_that_may_fit(parts, examples, compiled, chip)
  assert found == expected


@pytest.mark.parametrize(
  ("flags", "problem"),
  [
    (["--program=init", "--fit"], "--fit has no effect with --program=init"),
    (["--reuse=DIR", "--hlo=FILE"], "--reuse may compile no module that --hlo"),
  ],
)
def test_flags_without_effect_are_refused(flags, problem):
  done = _run("--config=configs/digits.py:smoke", *flags)
  assert done.returncode == 2
  assert problem in done.stderr
  assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_CUDA, reason="the CUDA plugin is not installed")
def test_a_train_step_compiles_for_gpus(tmp_path):
  result, printed = _compile_smoke(tmp_path / "figures.json", "h100:8")
  assert result["num_devices"] == 8
  assert 0 < sum(result["memory"].values()) < result["hbm_bytes"]
  assert "estimated_seconds" not in result
  assert list(result["collective_bytes"]) == ["all-reduce"]
  checked = result["checks"]
  assert not any(checked["counts"].values())
  assert checked["donated"] >= checked["expected"] > 100
  assert any(each.startswith("cudnn") for each in result["attention"])
  assert "no time: the compiler estimates none" in printed


@pytest.mark.slow
@_NEEDS_LIBTPU
def test_an_evaluation_compiles_for_tpus(tmp_path):
  figures = tmp_path / "figures.json"
  # 16 images a chip, so that attention is cut into groups of heads.
  done = _run(
    "--config=configs/imagenet.py:fourier",
    "--config.precision=bfloat16",
    "--config.batch_size=64",
    "--program=evaluate",
    "--topology=v5e:2x2",
    f"--json={figures}",
    timeout=900,
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(figures.read_text())
  assert any(each.startswith("chunked") for each in result["attention"])
  # Only the metrics are summed over the chips.
  assert list(result["collective_bytes"]) == ["all-reduce"]
  assert result["collective_bytes"]["all-reduce"] < 10**7
  assert not any(result["checks"]["counts"].values())
  # The optimizer's state stays in memory meanwhile.
  memory = result["memory"]
  assert memory["rest of the state"] > memory["arguments"]


@pytest.mark.slow
@_NEEDS_LIBTPU
def test_a_train_step_compiles_for_tpus(tmp_path):
  figures, module = tmp_path / "figures.json", tmp_path / "module.txt"
  result, printed = _compile_smoke(figures, "v5e:2x2", f"--hlo={module}")
  assert result["exceeds_by"] == 0
  assert 0 < sum(result["memory"].values()) < result["hbm_bytes"]
  assert result["estimated_seconds"] > 0
  assert list(result["collective_bytes"]) == ["all-reduce"]
  text = module.read_text()
  assert text.startswith("HloModule")
  checked = result["checks"]
  assert not any(checked["counts"].values())
  assert checked["donated"] >= checked["expected"] > 100
  assert "state arrays donated, no host transfer" in printed
  # A sharded optimizer's state takes less memory, and gathers its updates.
  sharded, _ = _compile_smoke(
    tmp_path / "sharded.json",
    "v5e:2x2",
    "--config.shard_optimizer_state=True",
  )
  assert set(sharded["collective_bytes"]) == {"all-reduce", "all-gather"}
  checked = sharded["checks"]
  assert not any(checked["counts"].values())
  assert checked["donated"] >= checked["expected"] > 100
  assert sharded["memory"]["arguments"] < result["memory"]["arguments"]
  # The figures of a program that is known are not made again.
  again = _run(
    "--config=configs/digits.py:smoke",
    "--config.precision=bfloat16",
    "--config.seed=1",
    "--topology=v5e:2x2",
    f"--reuse={tmp_path}",
  )
  assert again.returncode == 0, again.stderr
  assert f"the same program as in {figures}" in again.stdout
