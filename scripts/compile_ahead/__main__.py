"""Compiles a run for TPUs, or GPUs, on a machine without one.

  python -m scripts.compile_ahead --config=configs/imagenet.py:fourier \
    --topology=v5e:8x8

libtpu compiles for any TPU on any machine. The printed memory is exact, and a
program that does not compile here does not compile there. Times are estimates
of the compiler, not measurements: the sum over all fusions, with nothing for
collectives and little for waiting on memory. JAX's CUDA plugin compiles for
GPUs (--topology=h100:8, or h100:2x8 for two hosts). It estimates no times, and
its choice of kernels and their memory can differ on the card.
"""

import json
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import launch
from experiments.predictions import outputs
from perceiver_jax import files
from perceiver_jax.errors import UserError
from scripts.compile_ahead import checks, chips

# JAX is imported in functions: its environment has to be set first.


def define_flags() -> None:
  """Defines the flags of this program."""
  config_flags.DEFINE_config_file(
    "config", None, "Experiment, as in experiments.train."
  )
  flags.DEFINE_string(
    "topology", "v5e:8x8", "Devices, as TPU:CHIPS or GPU:HOSTSxGPUS."
  )
  flags.DEFINE_bool(
    "list_topologies", False, "Print topologies to choose from."
  )
  flags.DEFINE_enum(
    "program", "train", ["train", "evaluate", "init"], "What to compile."
  )
  flags.DEFINE_bool(
    "fit", False, "Try more microbatches, then remat, until it fits."
  )
  flags.DEFINE_string(
    "reuse", None, "Folder of figures; a program that is there isn't compiled."
  )
  flags.DEFINE_string("json", None, "File to write the figures to.")
  flags.DEFINE_string("hlo", None, "File to write the compiled module to.")


def main(argv: Sequence[str]) -> int:
  """Compiles one program and prints its costs."""
  launch.no_arguments(argv)
  values = flags.FLAGS
  if values.list_topologies:
    print("\n".join(chips.TOPOLOGIES))
    return 0
  chips.check_topology(values.topology)
  if values.fit and values.program == "init":
    raise UserError(
      "--fit has no effect with --program=init, which has no microbatches;"
      " leave it out"
    )
  if values.reuse and values.hlo:
    raise UserError(
      "--reuse may compile no module that --hlo could write; leave one out"
    )
  config = launch.config()
  for flag in ("json", "hlo"):
    if path := values[flag].value:
      outputs.check_writable(
        files.as_path(path).expanduser(), f"another --{flag}"
      )
  if values.reuse:
    values.reuse = str(files.on_disk(values.reuse, "--reuse"))
  chips.prepare_environment(values.topology)
  result = _compile(config)
  _write(values.json, json.dumps(result, indent=2) + "\n")
  return exit_status(result)


def exit_status(result: dict[str, Any]) -> int:
  """Returns 1 if a program does not fit or fails a check, otherwise 0."""
  if result["exceeds_by"] or checks.wrong(result["checks"]):
    return 1
  return 0


def _compile(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Compiles a config's program, prints its figures and returns them."""
  from scripts.compile_ahead import program, report, table

  values = flags.FLAGS
  devices = chips.devices(values.topology)
  chip = chips.chip(devices[0].device_kind)
  fingerprint = ""
  while True:
    print(
      f"compiling {values.program} of {config.task} for {len(devices)} x"
      f" {devices[0].device_kind}, {config.num_microbatches} microbatch(es),"
      f" remat={config.execution.remat}",
      flush=True,
    )
    lowered = program.lower(config, values.program, devices)
    if not fingerprint:
      fingerprint = f"{values.topology} {lowered.fingerprint}"
      if same := table.with_fingerprint(values.reuse, fingerprint):
        print(f"the same program as in {same}")
        return table.read(same)
    compiled = program.compile_program(lowered, chip)
    figures = report.figures(lowered, compiled, chip, len(devices))
    print(report.text(figures))
    if not compiled.exceeds_by or not values.fit:
      break
    parts = program.parts_that_may_fit(
      config.num_microbatches,
      config.batch_size // len(devices),
      compiled,
      chip,
    )
    if parts:
      config.num_microbatches = parts
    elif values.program == "train" and config.execution.remat != "full":
      # Last, since it computes the forward pass twice.
      config.execution.remat = "full"
    else:
      print(
        "a device can't hold even one example at a time; take chips with more"
        " memory, or config.shard_optimizer_state=True"
      )
      break
  if compiled.text:
    _write(values.hlo, compiled.text)
  return {
    "topology": values.topology,
    "num_devices": len(devices),
    "program": values.program,
    "precision": config.precision,
    "batch_size": config.batch_size,
    "num_microbatches": config.num_microbatches,
    "remat": config.execution.remat,
    "fingerprint": fingerprint,
  } | figures


def _write(path: str | None, text: str) -> None:
  if path:
    files.write_text(files.as_path(path).expanduser(), text)


if __name__ == "__main__":
  define_flags()
  launch.run(main)
