"""TPU chips and GPUs: what a program compiled for one of them has to fit.

A device of JAX is a chip of v4, v5e, v5p and v6e, one of the two cores of a
chip of the other generations, or a GPU.
"""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

from perceiver_jax.errors import UserError

TOPOLOGIES = (
  "v2:2x2",
  "v3:2x2",
  "v4:2x2x1",
  "v4:4x4x4",
  "v5e:2x2",
  "v5e:4x4",
  "v5e:8x8",
  "v5e:16x16",
  "v5p:2x2x1",
  "v5p:4x4x4",
  "v6e:2x2",
  "v6e:8x8",
  "tpu7x:2x2x1",
  "tpu7x:4x4x4",
  "a100:8",
  "a100:8x8",
  "h100:8",
  "h100:8x8",
)


class Chip(NamedTuple):
  """One device, from Google Cloud's pages of the TPU versions or NVIDIA's.

  Attributes:
    flops: Peak bfloat16 operations a second.
    hbm_bytes: Main memory; for TPUs, the part that libtpu gives to programs.
    bandwidth: Bytes a second of main memory.
    clock: Cycles a second: for TPUs, the peak over the operations of all matrix
      units in a cycle; for GPUs, the boost clock.
  """

  flops: float
  hbm_bytes: float
  bandwidth: float
  clock: float


_GIB = 2**30
_CHIPS = {
  "TPU v2": Chip(22.5e12, 7.48 * _GIB, 350e9, 0.7e9),
  "TPU v3": Chip(61.5e12, 15.48 * _GIB, 450e9, 0.94e9),
  "TPU v4": Chip(275e12, 30.75 * _GIB, 1228e9, 1.05e9),
  "TPU v5 lite": Chip(197e12, 15.75 * _GIB, 819e9, 1.5e9),
  "TPU v5": Chip(459e12, 95.74 * _GIB, 2765e9, 1.75e9),
  "TPU v6 lite": Chip(918e12, 31.25 * _GIB, 1640e9, 1.75e9),
  "TPU7x": Chip(1153.5e12, 94.75 * _GIB, 3690e9, 2.2e9),
  "A100": Chip(312e12, 80 * _GIB, 2039e9, 1.41e9),
  "H100": Chip(989e12, 80 * _GIB, 3352e9, 1.98e9),
}
# What XLA asks a GPU for, of the SXM cards with 80 GB: NVIDIA's white papers,
# and the limits of the compute capability in the CUDA programming guide.
_GPUS = {
  "a100": {
    "core_count": 108,
    "fpus_per_core": 64,
    "l2_cache_size": 40 * 2**20,
    "shared_memory_per_core": 164 * 2**10,
    "shared_memory_per_block_optin": 163 * 2**10,
    "cuda_compute_capability": "{ major: 8 }",
  },
  "h100": {
    "core_count": 132,
    "fpus_per_core": 128,
    "l2_cache_size": 50 * 2**20,
    "shared_memory_per_core": 228 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
    "cuda_compute_capability": "{ major: 9 }",
  },
}
_ALL_GPUS = {
  "threads_per_block_limit": 1024,
  "threads_per_warp": 32,
  "threads_per_core_limit": 2048,
  "shared_memory_per_block": 48 * 2**10,
  "registers_per_core_limit": 2**16,
  "registers_per_block_limit": 2**16,
  "block_dim_limit_x": 2**31 - 1,
  "block_dim_limit_y": 2**16 - 1,
  "block_dim_limit_z": 2**16 - 1,
}


def is_gpu(topology: str) -> bool:
  """Returns whether a topology is one of GPUs."""
  return topology.partition(":")[0] in _GPUS


def has_cuda_plugin() -> bool:
  """Returns whether JAX's plugin for NVIDIA GPUs is installed."""
  plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
  return any(map(importlib.util.find_spec, plugins))


def prepare_environment(topology: str) -> None:
  """Sets what a compiler needs where its device is missing.

  Call before JAX loads the compiler.

  Raises:
    UserError: The compiler is missing.
  """
  os.environ["JAX_PLATFORMS"] = "cpu"
  if is_gpu(topology):
    if not has_cuda_plugin():
      raise UserError(
        "compiling for GPUs needs JAX's CUDA plugin: pip install -e '.[cuda]'"
      )
    return
  if importlib.util.find_spec("libtpu") is None:
    raise UserError(
      "compiling for TPUs needs libtpu: pip install -e '.[compile-ahead]'"
    )
  # Compiling uses no TPU, so other programs may have libtpu loaded.
  os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
  os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # Do not ask the cloud for a TPU.
  os.environ["TPU_WORKER_HOSTNAMES"] = "localhost"
  # Any type will do, since a topology is given; without one libtpu warns.
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
  os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")


def devices(topology: str) -> list[Any]:
  """Returns the devices of a topology, such as "v5e:8x8".

  For GPUs, the size is the number of GPUs per host, optionally preceded by the
  number of hosts: "h100:8" or "h100:8x8".

  Raises:
    UserError: there is no such topology.
  """
  import jax
  from jax.experimental import topologies

  if is_gpu(topology):
    # The variable is too late where the config has already imported JAX.
    jax.config.update("jax_platforms", "cpu")
    name, _, size = topology.partition(":")
    hosts = "" if "x" in size else "1x"
    try:
      description = topologies.get_topology_desc(
        topology_name="",
        platform="cuda",
        target_config=_target_config(name),
        topology=f"1x{hosts}{size}",
      )
    except Exception as error:
      raise UserError(
        f"--topology={topology} does not work with JAX's CUDA plugin ({error});"
        " pip install -e '.[cuda]' installs one that fits"
      ) from error
    return list(description.devices)
  # JAX uses both cores of a v4 as one device, which libtpu has to be told.
  options = (
    {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
  )
  try:
    description = topologies.get_topology_desc(
      topology_name=topology, platform="tpu", **options
    )
  except Exception as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f"--topology={topology} is not a TPU topology ({reason}); give one like"
      f" {', '.join(TOPOLOGIES)}"
    ) from error
  return list(description.devices)


def check_topology(topology: str) -> None:
  """Checks the form of a topology's name, without a compiler.

  Raises:
    UserError: It is not GENERATION:CHIPS.
  """
  generations = {each.partition(":")[0] for each in TOPOLOGIES}
  generation, _, size = topology.partition(":")
  sizes = r"[1-9]\d*(x[1-9]\d*)?" if is_gpu(topology) else r"\d+(x\d+)+"
  if generation not in generations or not re.fullmatch(sizes, size):
    raise UserError(
      f"{topology!r} is not a topology; give one like {', '.join(TOPOLOGIES)}"
    )


def _target_config(name: str) -> str:
  """Returns XLA's description of a GPU, a GpuTargetConfigProto in text."""
  kind = name.upper()
  of_chip = {
    "memory_bandwidth": int(_CHIPS[kind].bandwidth),
    "device_memory_size": _CHIPS[kind].hbm_bytes,
    "clock_rate_ghz": _CHIPS[kind].clock / 1e9,
  }
  fields = _ALL_GPUS | _GPUS[name] | of_chip
  info = " ".join(f"{key}: {value}" for key, value in fields.items())
  return (
    f'gpu_device_info {{ {info} }} platform_name: "CUDA"'
    f' device_description_str: "{kind}"'
    " dnn_version_info { major: 9 minor: 8 }"
  )


def dividing(topology: str, batch_size: int) -> str:
  """Returns the largest slice, up to a topology, that divides a batch.

  Args:
    topology: Such as "v5e:8x8".
    batch_size: Number of examples.

  Returns:
    A topology of the same generation; the given one if none divides the batch.
  """
  generation, _, _ = topology.partition(":")
  slices = [
    each
    for each in (topology, *TOPOLOGIES)
    if each.startswith(f"{generation}:")
    and _num_chips(each) <= _num_chips(topology)
    and batch_size % _num_chips(each) == 0
  ]
  return max(slices, key=_num_chips, default=topology)


def _num_chips(topology: str) -> int:
  sizes = re.findall(r"\d+", topology.partition(":")[2])
  return math.prod(map(int, sizes))


def chip(device_kind: str) -> Chip:
  """Returns the figures of a device.

  Raises:
    UserError: there are none for this kind.
  """
  known = [name for name in _CHIPS if device_kind.startswith(name)]
  if not known:
    raise UserError(f"there are no figures for {device_kind!r}")
  return _CHIPS[max(known, key=len)]
