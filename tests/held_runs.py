"""The command line in a process of its own, which waits at its first checkpoint for a signal."""

import sys

__all__ = ["HELD", "PLAIN"]

PLAIN = (sys.executable, "-c", "import sys; from etfhead.cli import main; sys.exit(main(sys.argv[1:]))")

_HELD = """\
import sys, time
from etfhead.cli import main
from etfhead.experiment.training import checkpoint, signals
save, receive, heard = checkpoint.StateFile.save, signals.StopRequest._receive, []

def hold(*args):
    path = save(*args)
    while not heard:
        time.sleep(0.005)
    return path

def hear(*args):
    heard.append(args)
    receive(*args)

checkpoint.StateFile.save, signals.StopRequest._receive = hold, hear
signals._BURST = 1.0  # a busy machine keeps timeout(1) from sending the second one at once
sys.exit(main(sys.argv[1:]))
"""
# However late the test is, the run has not gone on from where it is to be stopped.
HELD = (sys.executable, "-c", _HELD)
