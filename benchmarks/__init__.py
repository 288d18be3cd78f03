"""Timings of lmmjax and of what it is compared with: `python -m benchmarks` (see README.md)."""

import os

# For every contestant, before anything loads a BLAS: its spinning threads disturb each other on few cores.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
