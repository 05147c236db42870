"""Holds a workdir until it is killed; not a test itself.

python lock_holder.py ROOT WORKDIR BEAT_S
"""

import sys
import time

sys.path.insert(0, sys.argv[1])

from metro_jax.checkpoints import run_lock

run_lock.BEAT_S = float(sys.argv[3])
with run_lock.RunLock(sys.argv[2]):
  print("held", flush=True)
  time.sleep(600)
