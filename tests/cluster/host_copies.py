"""Counts what `parallel.unreplicate` brings to the host; not a test itself.

python host_copies.py ROOT, with XLA_FLAGS choosing the devices, prints the bytes that
were asked for and the bytes of one copy of the state.
"""

import sys

sys.path.insert(0, sys.argv[1])

import jax
import numpy as np

from metro_jax.cluster import parallel

state = {"params": np.arange(5000, dtype=np.float32), "step": np.int32(3)}
stacked = parallel.replicate(state)
kind, asked = type(stacked["params"]), []
start_copy = kind.copy_to_host_async


def counted_copy(array):
  asked.extend(shard.data.nbytes for shard in array.addressable_shards)
  return start_copy(array)


kind.copy_to_host_async = counted_copy
back = parallel.unreplicate(stacked)
assert all((back[name] == state[name]).all() for name in state)
assert jax.local_device_count() == 8
print(sum(asked), sum(x.nbytes for x in state.values()))
