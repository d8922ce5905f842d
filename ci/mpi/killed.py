"""The last rank is killed; each of the others waits for a message of it, and is told. Prints a line for each that was."""

import os
import signal
import sys
import time

from mpi4py import MPI

world = MPI.COMM_WORLD
last = world.size - 1
# Everybody has talked with it.
world.allgather(world.rank)
if world.rank == last:
    os.kill(os.getpid(), signal.SIGKILL)
start = time.monotonic()
try:
    world.Recv(bytearray(8), source=last)
    print("a message of a rank that was killed came")
except MPI.Exception as error:
    print(f"told after {time.monotonic() - start:.1f} s: {str(error).splitlines()[-1]}")
sys.stdout.flush()
# Without it there is nothing to be finalized together.
os._exit(0)
