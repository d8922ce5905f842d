/* MPI: blocking sends where one message is under way, MPI_Isend in a window. */

#include "program.h"
#include <mpi.h>

static struct {
    int other;
    MPI_Request receives[2 * WINDOW], sends[WINDOW];
    unsigned posted, taken;
    int sending;
} mpi;

enum { TAG = 1 };

static inline void tr_post(void *buf, size_t len) {
    MPI_Request *slot = &mpi.receives[mpi.posted++ % (2 * WINDOW)];
    MPI_Irecv(buf, (int)len, MPI_BYTE, mpi.other, TAG, MPI_COMM_WORLD, slot);
}

static inline void tr_take(void) {
    MPI_Wait(&mpi.receives[mpi.taken++ % (2 * WINDOW)], MPI_STATUS_IGNORE);
}

static inline void tr_send(const void *buf, size_t len) {
    MPI_Send(buf, (int)len, MPI_BYTE, mpi.other, TAG, MPI_COMM_WORLD);
}

static inline void tr_start(const void *buf, size_t len) {
    MPI_Isend(buf, (int)len, MPI_BYTE, mpi.other, TAG, MPI_COMM_WORLD, &mpi.sends[mpi.sending++]);
}

static inline void tr_drain(void) {
    if (mpi.sending > 0) MPI_Waitall(mpi.sending, mpi.sends, MPI_STATUSES_IGNORE);
    mpi.sending = 0;
}

#include "measure.h"

/* The rank as the launcher says it, before MPI_Init: memory is to be touched on the right core from the start. */
static int rank_of_launcher(void) {
    const char *names[] = {"PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK"};
    for (int i = 0; i < 3; i++)
        if (getenv(names[i]) != NULL) return atoi(getenv(names[i]));
    fail("no launcher: start this with mpiexec -n 2");
    return 0;
}

static int version(void) {
    char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int len;
    MPI_Get_library_version(text, &len);
    puts(text);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "version") == 0) return version();
    struct call call = parse(argc, argv);
    int expected = rank_of_launcher(), rank, ranks;
    if (expected != 0 && expected != 1) fail("there must be two processes");
    pin(call.cores[expected]);
    MPI_Init(NULL, NULL);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2 || rank != expected) fail("there must be two processes, with the ranks that the launcher said");
    mpi.other = 1 - rank;
    const struct op *op = op_named(call.op);
    if (op == NULL) fail("no such operation here");
    measure(rank == 0, op, call.size, call.ms);
    return MPI_Finalize();
}
