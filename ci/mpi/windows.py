"""Windows: put, get, accumulate, fetch and op, compare and swap, lock and flush, between all ranks."""

import sys
from array import array

from mpi4py import MPI

world = MPI.COMM_WORLD
rank, size = world.rank, world.size
right, left = (rank + 1) % size, (rank - 1) % size


def check(what, got, expected):
    if list(got) != list(expected):
        print(f"rank {rank}: {what}: {list(got)[:9]} is not {list(expected)[:9]}", file=sys.stderr)
        sys.stderr.flush()
        world.Abort(1)


def pattern(length, owner):
    return array("q", (number * (owner + 1) for number in range(length)))


def put_and_get(length):
    """Bytes that a neighbour puts are there after a flush and a barrier, and are got back. Returns their number."""
    memory = array("q", [0]) * length
    window = MPI.Win.Create(memory, 8, comm=world)
    # What is put has to stay until the flush.
    mine = pattern(length, rank)
    window.Lock_all()
    window.Put(mine, right)
    window.Flush(right)
    world.Barrier()
    window.Sync()
    check("put", memory, pattern(length, left))
    back = array("q", [0]) * length
    window.Get(back, right)
    window.Flush(right)
    check("get", back, mine)
    world.Barrier()
    window.Unlock_all()
    window.Free()
    return 16 * length


def accumulate(code, info):
    """All ranks add to all, and rank 0 hands out tickets: each sum is complete, each ticket is given once."""
    rounds = 20
    memory = array(code, [0]) * 4
    window = MPI.Win.Create(memory, memory.itemsize, info, comm=world)
    ones, one, tickets, ticket = array(code, [1]) * 3, array(code, [1]), [], array(code, [0])
    window.Lock_all()
    for _ in range(rounds):
        for target in range(size):
            window.Accumulate(ones, target, op=MPI.SUM)
        window.Fetch_and_op(one, ticket, 0, 3, MPI.SUM)
        window.Flush(0)
        tickets.append(ticket[0])
    window.Flush_all()
    world.Barrier()
    window.Sync()
    all_tickets = sorted(sum(world.allgather(tickets), []))
    check(f"tickets of {code}", all_tickets, range(rounds * size))
    total = rounds * size
    check(f"sums of {code}", memory, [total] * 3 + [total if rank == 0 else 0])
    world.Barrier()
    window.Unlock_all()
    window.Free()


def compare_and_swap():
    """A lock of one word guards a counter that is got and put."""
    rounds = 10
    memory = array("q", [0, 0])
    window = MPI.Win.Create(memory, 8, comm=world)
    free, mine, before, counter = (array("q", [value]) for value in (0, rank + 1, 0, 0))
    window.Lock_all()
    for _ in range(rounds):
        while True:
            window.Compare_and_swap(mine, free, before, 0, 0)
            window.Flush(0)
            if before[0] == 0:
                break
        window.Get(counter, 0, 1)
        window.Flush(0)
        counter[0] += 1
        window.Put(counter, 0, 1)
        window.Flush(0)
        window.Accumulate(free, 0, 0, MPI.REPLACE)
        window.Flush(0)
    window.Unlock_all()
    world.Barrier()
    window.Lock(rank)
    check("counter", memory, [0, rounds * size] if rank == 0 else [0, 0])
    window.Unlock(rank)
    window.Free()


def fences_and_locks():
    memory = array("i", [-1])
    window = MPI.Win.Create(memory, 4, comm=world)
    window.Fence()
    mine = array("i", [rank])
    window.Put(mine, right)
    window.Fence()
    check("fence", memory, [left])
    got = array("i", [0])
    window.Lock(right, MPI.LOCK_EXCLUSIVE)
    window.Get(got, right)
    window.Unlock(right)
    check("lock", got, [rank])
    world.Barrier()
    window.Free()


moved = sum(put_and_get(length) for length in (1, 1000, 300_000))
# With these, MPICH has the provider add; without, it sends messages.
native = MPI.Info.Create({"disable_shm_accumulate": "true", "which_accumulate_ops": "sum"})
for code in "ihqfd":
    accumulate(code, MPI.INFO_NULL)
    accumulate(code, native)
compare_and_swap()
fences_and_locks()
total = world.reduce(moved)
if rank == 0:
    print("payload", total, "ranks", size, MPI.Get_library_version().split("\n")[0])
    sys.stdout.flush()
