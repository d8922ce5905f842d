"""Many ranks, each of which sends many messages to each other without waiting, and takes what comes from whomever. Prints the bytes that they sent.

    crowd.py [MESSAGES]
"""

import struct
import sys

from mpi4py import MPI

MESSAGES = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
# Whole, announced, and what is between.
LENGTHS = (8, 100, 3000, 9000, 20_000)


def main():
    world = MPI.COMM_WORLD
    others = [rank for rank in range(world.size) if rank != world.rank]
    # So that all of them are under way at a time.
    receives = [bytearray(max(LENGTHS)) for _ in range(MESSAGES * len(others))]
    requests = [world.Irecv(room, source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG) for room in receives]
    sent = 0
    sends = []
    for number in range(MESSAGES):
        for to in others:
            message = struct.pack("ii", world.rank, number).ljust(LENGTHS[number % len(LENGTHS)], b"x")
            sends.append((world.Isend(message, dest=to, tag=number), message))
            sent += len(message)
    came = dict.fromkeys(others, 0)
    status = MPI.Status()
    # Receives of any source are met in the order in which they were posted.
    for request, room in zip(requests, receives):
        request.Wait(status)
        source, number = struct.unpack_from("ii", room)
        assert (source, number) == (status.source, status.tag)
        assert status.count == LENGTHS[number % len(LENGTHS)] and room[8 : status.count].strip(b"x") == b""
        assert came[source] == number, "messages of one sender came out of order"
        came[source] += 1
    MPI.Request.Waitall([request for request, _ in sends])
    assert set(came.values()) == {MESSAGES}
    total = world.reduce(sent)
    if world.rank == 0:
        print("payload", total, "ranks", world.size, MPI.Get_library_version().split("\n")[0])
        sys.stdout.flush()


main()
