"""What makers publish of their chips: the peaks that no program can beat."""

from typing import NamedTuple


class Chip(NamedTuple):
  """Published figures of one chip; a device of JAX is one chip.

  Attributes:
    name: What people call it.
    flops: Peak of bfloat16 products a second.
    memory_bytes: Of its HBM, as published; a compiler may use a little less.
    memory_bandwidth: Bytes a second between the chip and its HBM.
    link_bandwidth: Bytes a second that it sends to other chips, all links together;
      0 where it depends on the machine.
    product_tile: Side of the matrix unit that products are cut into.
    host_threads: Of the machine that drives four of them in a slice; 0 if that differs.
    source: Where the figures stand.
  """

  name: str
  flops: float
  memory_bytes: float
  memory_bandwidth: float
  link_bandwidth: float
  product_tile: int
  host_threads: int
  source: str


_TPU = "https://cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"

# By the name that JAX gives the kind of device. Cloud TPU publishes both directions of
# a link together; half of it is what a chip can send.
CHIPS = {
  "TPU v5 lite": Chip("v5e", 197e12, 16e9, 819e9, 200e9, 128, 112, _TPU + "v5e"),
  "TPU v5": Chip("v5p", 459e12, 95e9, 2765e9, 600e9, 128, 208, _TPU + "v5p"),
  "TPU v6 lite": Chip("v6e", 918e12, 32e9, 1638e9, 400e9, 256, 180, _TPU + "v6e"),
  "NVIDIA A100-SXM4-40GB": Chip(
    "A100 40 GB", 312e12, 40e9, 1555e9, 0.0, 16, 0, _NVIDIA + "a100"
  ),
  "NVIDIA A100-SXM4-80GB": Chip(
    "A100 80 GB", 312e12, 80e9, 2039e9, 0.0, 16, 0, _NVIDIA + "a100"
  ),
  "NVIDIA H100 80GB HBM3": Chip(
    "H100 SXM", 989e12, 80e9, 3350e9, 0.0, 16, 0, _NVIDIA + "h100"
  ),
  "NVIDIA H200": Chip("H200", 989e12, 141e9, 4800e9, 0.0, 16, 0, _NVIDIA + "h200"),
  "NVIDIA L4": Chip("L4", 121e12, 24e9, 300e9, 0.0, 16, 0, _NVIDIA + "l4"),
}


def of(device_kind: str) -> Chip | None:
  """The chip of a JAX device, None where no figures stand here (CPUs among them)."""
  return CHIPS.get(device_kind)
