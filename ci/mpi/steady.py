"""Sums over all ranks for so many seconds, each looked at: steady.py SECONDS. Prints the bytes that the ranks sent at least."""

import sys
import time
from array import array

from mpi4py import MPI

LENGTH = 5000

world = MPI.COMM_WORLD
end, rounds, going = time.monotonic() + float(sys.argv[1]), 0, array("i", [1])
while going[0]:
    mine = array("q", (world.rank + rounds + number for number in range(LENGTH)))
    total = array("q", [0]) * LENGTH
    world.Allreduce(mine, total)
    base = world.size * (world.size - 1) // 2 + world.size * rounds
    assert all(value == base + world.size * number for number, value in enumerate(total)), f"round {rounds} is wrong"
    rounds += 1
    going[0] = time.monotonic() < end
    world.Bcast(going)
if world.rank == 0:
    print("rounds", rounds)
    print("payload", rounds * LENGTH * 8, "ranks", world.size, MPI.Get_library_version().split("\n")[0])
    sys.stdout.flush()
