"""Where a network's weights come from, in so far as its run says."""

from typing import NamedTuple

from ml_collections import ConfigDict


class Training(NamedTuple):
  """What is known of where a network's weights come from."""

  datasets: tuple[str, ...]  # "name/split" that its run trains on
  init_from: str  # weights that the run began with; "" without
  steps: int  # updates that the run made of them


def training_of(config: ConfigDict, steps: int) -> Training:
  """Reads off a run's own config, and the steps of its checkpoint."""
  return Training(tuple(config.data.train), config.train.init_from, steps)
