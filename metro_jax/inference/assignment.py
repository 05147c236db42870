"""The cheapest pairs of two sets, exactly."""

import numpy as np
from jaxtyping import Float


def cheapest_pairs(costs: Float[np.ndarray, "n m"]) -> list[tuple[int, int]]:
  """Pairs rows with columns so that the sum of their costs is least.

  Args:
    costs: Finite.

  Returns:
    (row, column) of min(n, m) pairs, by row.

  Source: the Hungarian method with shortest augmenting paths (Jonker and Volgenant, "A
    Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment
    Problems", Computing 1987).
  """
  if costs.shape[0] > costs.shape[1]:
    return sorted((row, column) for column, row in cheapest_pairs(costs.T))
  n, m = costs.shape
  row_price, column_price = np.zeros(n), np.zeros(m)
  owner = np.full(m, -1)  # the row of each column
  for row in range(n):
    shortest, before = np.full(m, np.inf), np.full(m, -1)
    done = np.zeros(m, bool)
    column, at, distance = -1, row, 0.0
    while at >= 0:  # until a column without an owner is reached
      through = distance + costs[at] - row_price[at] - column_price
      better = ~done & (through < shortest)
      shortest[better], before[better] = through[better], column
      column = int(np.where(done, np.inf, shortest).argmin())
      distance, done[column] = shortest[column], True
      at = int(owner[column])
    row_price[row] += distance
    for other in np.flatnonzero(done & (owner >= 0)):
      row_price[owner[other]] += distance - shortest[other]
    column_price[done] -= distance - shortest[done]
    while before[column] >= 0:
      owner[column] = owner[before[column]]
      column = int(before[column])
    owner[column] = row
  return sorted((int(row), c) for c, row in enumerate(owner) if row >= 0)
