"""A job that starts as many processes as it has ranks, which the launcher puts on the same hosts: all of them talk with each other.

Prints the bytes that all have sent, as `proof.py` wants them. Started by `exchange.py`'s launchers; the processes run it themselves.
"""

import sys

from mpi4py import MPI

LENGTHS = (0, 8, 5000, 300_000)


def exchange(world):
    """Everybody sends to everybody, and takes the same; returns the bytes that this one sent."""
    sent = 0
    for length in LENGTHS:
        takes = [(rank, bytearray(length)) for rank in range(world.size)]
        requests = [world.Irecv(buffer, source=rank, tag=1) for rank, buffer in takes]
        requests += [world.Isend(bytes([world.rank + 1]) * length, dest=rank, tag=1) for rank in range(world.size)]
        MPI.Request.Waitall(requests)
        assert all(bytes(buffer) == bytes([rank + 1]) * length for rank, buffer in takes)
        sent += length * world.size
    return sent


parent = MPI.Comm.Get_parent()
is_child = parent != MPI.COMM_NULL
if not is_child:
    parent = MPI.COMM_WORLD.Spawn(sys.executable, args=[__file__], maxprocs=MPI.COMM_WORLD.size)
world = parent.Merge(high=is_child)
hosts = world.gather(MPI.Get_processor_name())
total = world.reduce(exchange(world))
if world.rank == 0:
    assert world.size == 2 * MPI.COMM_WORLD.size
    # What goes to oneself goes through no network.
    print("payload", total * (world.size - 1) // world.size, "ranks", world.size, MPI.Get_library_version().split("\n")[0])
    print("hosts", *sorted(hosts))
    sys.stdout.flush()
world.Free()
parent.Disconnect()
