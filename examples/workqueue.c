/* A master hands out tasks to three workers, each a process of its own.
 *
 *   workqueue [TASKS]
 *
 * A worker asks for work whenever it has none, so the quick ones get more. The master does not know
 * who asks next: it receives from any source and answers the one that the completion names.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 3, TAG_ASK = 1, TAG_TASK = 2, NO_TASK = -1 };

/* What a worker says when it asks: which task it has done, if any, and with what result. */
struct ask {
    int64_t task;
    uint64_t result;
};

/* The work itself: how many prime numbers are below a bound that differs from task to task. */
static uint64_t solve(int64_t task)
{
    uint64_t bound = 100 + (uint64_t)task * 7919 % 5000, primes = 0;
    for (uint64_t n = 2; n < bound; n++) {
        uint64_t divisor = 2;
        while (divisor * divisor <= n && n % divisor != 0)
            divisor++;
        primes += divisor * divisor > n;
    }
    return primes;
}

static void work(const char *master_name)
{
    gridnet_fabric *fabric = open_fabric(NULL);
    gridnet_cq *cq;
    check(gridnet_cq_create(fabric, 0, &cq), "gridnet_cq_create");
    gridnet_endpoint *master = connect_by_name(fabric, cq, master_name);

    struct ask ask = {.task = NO_TASK};
    for (;;) {
        int64_t task;
        check(gridnet_tag_recv(cq, master, &task, sizeof task, TAG_TASK, 0, NULL), "gridnet_tag_recv");
        if (check(gridnet_tag_send(master, &ask, sizeof ask, TAG_ASK, NULL), "gridnet_tag_send"))
            next_completion(cq); /* of the receive or of the send, whichever is first */
        next_completion(cq);
        if (task == NO_TASK)
            break;
        ask.result = solve(task);
        ask.task = task;
    }
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
}

/* The master's view of a worker. */
struct worker {
    uint32_t source;
    gridnet_endpoint *endpoint;
    int done;
};

struct master {
    gridnet_cq *cq;
    struct worker workers[WORKERS];
    int known;
};

/* Who sent this, known since its first message. */
static struct worker *find_worker(struct master *master, uint32_t source)
{
    for (int i = 0; i < master->known; i++)
        if (master->workers[i].source == source)
            return &master->workers[i];
    if (master->known == WORKERS)
        fail("a stranger asks for work");
    struct worker *worker = &master->workers[master->known++];
    worker->source = source;
    check(gridnet_endpoint_open_source(master->cq, source, &worker->endpoint), "gridnet_endpoint_open_source");
    return worker;
}

static struct worker *next_question(struct master *master, struct ask *ask)
{
    check(gridnet_tag_recv(master->cq, NULL, ask, sizeof *ask, TAG_ASK, 0, NULL), "gridnet_tag_recv");
    gridnet_completion entry = next_completion(master->cq);
    if (entry.length != sizeof *ask)
        fail("a worker speaks another language");
    return find_worker(master, entry.source);
}

static void answer(struct master *master, struct worker *worker, int64_t task)
{
    if (check(gridnet_tag_send(worker->endpoint, &task, sizeof task, TAG_TASK, NULL), "gridnet_tag_send"))
        next_completion(master->cq);
}

/* Each task is to be handed out once and to come back once, with the right result. */
static void hand_out(struct master *master, int64_t tasks)
{
    int *times_done = calloc((size_t)tasks, sizeof *times_done);
    if (times_done == NULL)
        fail("no memory for the list of tasks");
    int dismissed = 0;
    for (int64_t next = 0; dismissed < WORKERS;) {
        struct ask ask;
        struct worker *worker = next_question(master, &ask);
        if (ask.task != NO_TASK) {
            if (ask.task < 0 || ask.task >= next || ask.result != solve(ask.task))
                fail("a worker reports a wrong result");
            times_done[ask.task]++;
            worker->done++;
        }
        answer(master, worker, next < tasks ? next++ : (dismissed++, NO_TASK));
    }
    for (int64_t i = 0; i < tasks; i++)
        if (times_done[i] != 1)
            fail("a task was not done exactly once");
    free(times_done);
}

static void lead(const char *name, int64_t tasks)
{
    struct master master = {0};
    gridnet_fabric *fabric = open_fabric(name);
    check(gridnet_cq_create(fabric, 0, &master.cq), "gridnet_cq_create");
    hand_out(&master, tasks);
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
    printf("%lld tasks, each done once:", (long long)tasks);
    for (int i = 0; i < master.known; i++)
        printf(" %d", master.workers[i].done);
    printf("\n");
}

int main(int argc, char **argv)
{
    int64_t tasks = argc == 2 ? (int64_t)parse_number(argv[1], 1000000) : argc == 1 ? 1000 : 0;
    if (tasks == 0) {
        fprintf(stderr, "usage: workqueue [TASKS]\n");
        return 2;
    }

    /* Processes first, fabrics then: a fabric does not outlive a fork. */
    char name[64];
    snprintf(name, sizeof name, "workqueue-%ld", (long)getpid());
    for (int i = 0; i < WORKERS; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("no new process");
        if (child == 0) {
            work(name);
            return EXIT_SUCCESS;
        }
    }
    lead(name, tasks);

    int code = EXIT_SUCCESS;
    for (int status; wait(&status) > 0;)
        if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_SUCCESS)
            code = EXIT_FAILURE;
    return code;
}
