"""TPU slices: hosts, machine types and names of each generation and topology.

Sources, all on docs.cloud.google.com: "Plan TPUs in GKE" (topologies, machine
types and names of accelerators), "TPU machines in accelerator-optimized machine
family" (Compute Engine), "TPU software versions" (runtime versions of the Cloud
TPU API, and that it gets no new generation), the pages of v5e and v6e (slices
of eight chips have one host), and "Create Cloud TPU VMs with MIGs" (v5p and
later). They were read in stored copies of 2025 and 2026.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from perceiver_jax.errors import UserError

_FLAT = ("2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
  *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
  *("8x8x16", "8x16x16", "16x16x16"),
)


class Generation(NamedTuple):
  """A generation of TPUs.

  Attributes:
    machine_types: Compute Engine's machine type by chips of a host. GKE has
      them too, and a host of a larger slice has four chips.
    gke_accelerator: Value of GKE's label of the accelerator; "" if not in GKE.
    tpu_api: Prefix of the Cloud TPU API's accelerator types; "" if the API does
      not have the generation.
    cores_per_chip: What the number in such a type counts a chip as.
    runtime_version: Runtime version of the Cloud TPU API.
    image_family: Images of Compute Engine; "" if it has no such machines.
    topologies: Topologies of the slices, the default one of each size.
  """

  machine_types: Mapping[int, str]
  gke_accelerator: str
  tpu_api: str
  cores_per_chip: int
  runtime_version: str
  image_family: str
  topologies: tuple[str, ...]


_BASE = "tpu-ubuntu2204-base"
_IMAGE = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"
IMAGE_PROJECT = "ubuntu-os-accelerator-images"

GENERATIONS = {
  "v2": Generation(
    {4: ""}, "", "v2", 2, _BASE, "",
    ("2x2", "4x4", "8x8", "8x16", "16x16"),
  ),
  "v3": Generation(
    {4: ""}, "", "v3", 2, _BASE, "",
    ("2x2", "4x4", "8x8", "8x16", "16x16", "16x32", "32x32"),
  ),
  "v4": Generation(
    {4: "ct4p-hightpu-4t"}, "tpu-v4-podslice", "v4", 2, _BASE, "", _CUBES
  ),
  "v5e": Generation(
    {1: "ct5lp-hightpu-1t", 4: "ct5lp-hightpu-4t", 8: "ct5lp-hightpu-8t"},
    "tpu-v5-lite-podslice", "v5litepod", 1, "v2-alpha-tpuv5-lite", "",
    ("1x1", "2x2", *_FLAT),
  ),
  "v5p": Generation(
    {4: "ct5p-hightpu-4t"}, "tpu-v5p-slice", "v5p", 2, "v2-alpha-tpuv5",
    _IMAGE, _CUBES,
  ),
  "v6e": Generation(
    {1: "ct6e-standard-1t", 4: "ct6e-standard-4t", 8: "ct6e-standard-8t"},
    "tpu-v6e-slice", "v6e", 1, "v2-alpha-tpuv6e", _IMAGE,
    ("1x1", "2x2", *_FLAT),
  ),
  "tpu7x": Generation(
    {1: "tpu7x-standard-1t", 4: "tpu7x-standard-4t"}, "tpu7x", "", 2, "",
    "ubuntu-accel-2404-amd64-tpu-tpu7x", ("1x1x1", *_CUBES),
  ),
}  # fmt: skip


class Slice(NamedTuple):
  """TPU chips that are joined by their own interconnect.

  Attributes:
    name: Name of the generation.
    topology: Chips along each dimension, such as "4x4".
    chips: Number of chips.
    hosts: Number of hosts.
  """

  name: str
  topology: str
  chips: int
  hosts: int

  @property
  def generation(self) -> Generation:
    """Returns the facts of the generation."""
    return GENERATIONS[self.name]

  @property
  def chips_per_host(self) -> int:
    """Returns the number of chips of each host."""
    return self.chips // self.hosts

  @property
  def machine_type(self) -> str:
    """Returns Compute Engine's type of the hosts."""
    return self.generation.machine_types[self.chips_per_host]

  @property
  def accelerator_type(self) -> str:
    """Returns the Cloud TPU API's name of the slice, such as "v5litepod-16"."""
    number = self.chips * self.generation.cores_per_chip
    return f"{self.generation.tpu_api}-{number}"


def parse(text: str) -> Slice:
  """Returns the slice that GENERATION:TOPOLOGY names, such as "v5e:4x4".

  Raises:
    UserError: There is no such generation or topology.
  """
  name, _, topology = text.partition(":")
  if name not in GENERATIONS:
    raise UserError(
      f"--accelerator={text}: there is no TPU {name!r}; give"
      f" GENERATION:TOPOLOGY with one of {', '.join(GENERATIONS)}"
    )
  topologies = GENERATIONS[name].topologies
  if topology not in topologies:
    raise UserError(
      f"--accelerator={text}: give {name} with one of the topologies"
      f" {', '.join(topologies)}"
    )
  chips = math.prod(map(int, topology.split("x")))
  in_one_host = chips in GENERATIONS[name].machine_types
  return Slice(name, topology, chips, 1 if in_one_host else chips // 4)


def is_tpu(accelerator: str) -> bool:
  """Returns whether --accelerator names TPUs."""
  name = accelerator.partition(":")[0].lower()
  return name.startswith("tpu") or name in GENERATIONS
