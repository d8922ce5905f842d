"""What each MPI program does, in small: ping-pong, allreduce, messages of any source. Prints the bytes that the ranks sent."""

import sys

from mpi4py import MPI

LENGTHS = (0, 1, 8, 1000, 5000, 70_000, 3_000_000)
ROUNDS = 10
MESSAGES = 200


def ping_pong(world):
    """Ranks 0 and 1, blocking; returns the bytes that this rank sent."""
    sent = 0
    for length in LENGTHS:
        came = bytearray(length)
        for number in range(ROUNDS):
            ping, pong = bytes([number]) * length, bytes([number + 100]) * length
            if world.rank == 0:
                world.Send(ping, dest=1, tag=number)
                world.Recv(came, source=1, tag=number)
                assert came == pong
            elif world.rank == 1:
                world.Recv(came, source=0, tag=number)
                assert came == ping
                world.Send(pong, dest=0, tag=number)
            sent += length if world.rank < 2 else 0
    return sent


def reduce_all(world):
    assert world.allreduce(world.rank + 1) == world.size * (world.size + 1) // 2
    values = [float(world.rank)] * 100_000
    assert world.allreduce(values, op=MPI.SUM)[-1] == world.size - 1


def from_any(world):
    """Everybody to rank 0, in order, which takes what comes; half of it is probed for first."""
    if world.rank > 0:
        for number in range(MESSAGES):
            world.isend((world.rank, number), dest=0, tag=number % 7).wait()
        return
    last = {}
    for _ in range((world.size - 1) * MESSAGES):
        status = MPI.Status()
        if len(last) % 2:
            source, number = world.mprobe(status=status).recv(status=status)
        else:
            source, number = world.recv(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status)
        assert status.source == source and status.tag == number % 7
        assert last.get(source, -1) == number - 1, "messages of one sender came out of order"
        last[source] = number
    assert last == {rank: MESSAGES - 1 for rank in range(1, world.size)}


def main():
    world = MPI.COMM_WORLD
    sent = ping_pong(world)
    reduce_all(world)
    from_any(world)
    total = world.reduce(sent)
    if world.rank == 0:
        print("payload", total, "ranks", world.size, MPI.Get_library_version().split("\n")[0])
        sys.stdout.flush()


main()
