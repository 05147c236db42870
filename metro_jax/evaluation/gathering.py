"""Arrays of all processes' examples, in the order of the split, on every process."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int

Tree = Any  # a pytree of NumPy arrays


def gather_examples(
  index: Int[np.ndarray, " n"], tree: Tree
) -> tuple[Int[np.ndarray, " m"], Tree]:
  """Joins what every process has of a split; all must call it together.

  Args:
    index: (n,) rows of this process's examples; n may differ between processes.
    tree: Arrays with one leading axis of those examples; 32 bits wide at most.

  Returns:
    The rows of all examples in ascending order, and the arrays in that order.
  """
  if jax.process_count() > 1:
    counts = multihost_utils.process_allgather(np.array(len(index), np.int32))
    longest = int(np.max(counts))

    def join(x: np.ndarray) -> np.ndarray:
      padded = np.pad(x, ((0, longest - len(x)), *((0, 0),) * (x.ndim - 1)))
      parts = np.asarray(multihost_utils.process_allgather(padded))
      pairs = zip(parts, np.ravel(counts), strict=True)
      return np.concatenate([part[: int(count)] for part, count in pairs])

    index, tree = join(index.astype(np.int32)), jax.tree.map(join, tree)
  order = np.argsort(index, kind="stable")
  return index[order], jax.tree.map(lambda x: x[order], tree)
