"""One thread a process: the tests' models are tiny, and threads on busy cores wait for each other."""

import os

# Before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
