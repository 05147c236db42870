"""Maps one step over two processes of two devices each; not a test itself.

python of_two_processes.py ROOT PORT PROCESS prints, for each mapping, what this process
has after two steps.
"""

import json
import sys

if __name__ == "__main__":
  sys.path.insert(0, sys.argv[1])

import jax
import numpy as np

from metro_jax.cluster import parallel


def step(state, batch, geometry):
  """Adds everybody's sum, and writes down where on the axis this device is."""
  del geometry
  place = 10 * state["place"] + jax.lax.axis_index("data")
  total = state["total"] + jax.lax.psum(batch.sum(), "data")
  return {"place": place, "total": total}, 2 * batch


def two_steps(mapping: str) -> dict:
  """Sums, places, this process's part of the result; whether memory was reused."""
  mapped = parallel.map_step(step, (), donate=True, mapping=mapping)
  first = stacked = parallel.replicate(
    {"place": np.zeros((), np.int32), "total": np.float32(0)}
  )
  own = np.arange(4, dtype=np.float32) + 10 * jax.process_index()
  for _ in range(2):
    stacked, doubled = mapped(stacked, parallel.shard(own))
  return {
    "total": float(parallel.unreplicate(stacked)["total"]),
    "places": np.asarray(stacked["place"]).tolist(),
    "doubled": parallel.unshard(doubled).tolist(),
    "donated": first["total"].is_deleted(),
  }


if __name__ == "__main__":
  port, process = map(int, sys.argv[2:])
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
  print(json.dumps({mapping: two_steps(mapping) for mapping in ("pmap", "shard_map")}))
