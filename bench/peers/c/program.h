/* How every C program of this folder is called:
 *
 *   PROGRAM version
 *   PROGRAM OP SIZE MS CORE_A,CORE_B [TRANSPORT]     leader on core A, follower on core B, about MS of measuring
 */

#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

enum {
    WINDOW = 64,      /* messages under way in tag_bw and tag_rate, as in `gridnet perf` */
    LIFETIME_S = 120, /* longer than any run: a program that nobody waits for any more ends by itself */
};

static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

struct call {
    const char *op, *transport;
    size_t size;
    double ms;
    int cores[2];
};

/* Launchers put their processes into sessions of their own, which the scheduler then prefers less, or more, than those of
 * the other peers (autogroups). PEERS_AUTOGROUP has the priority of the session that all were started from. */
static void equal_priority(void) {
    const char *wanted = getenv("PEERS_AUTOGROUP");
    char text[64] = "";
    FILE *file = fopen("/proc/self/autogroup", "r+");
    if (wanted == NULL || *wanted == '\0' || file == NULL) return;
    const char *own = fgets(text, sizeof text, file) != NULL ? strstr(text, "nice ") : NULL;
    if (own != NULL && atoi(own + 5) != atoi(wanted)) {
        rewind(file);
        if (fputs(wanted, file) == EOF || fflush(file) == EOF) fail("the priority of the session cannot be set");
    }
    fclose(file);
}

static struct call parse(int argc, char **argv) {
    struct call call = {0};
    char rest;
    if (argc < 5 || argc > 6 || sscanf(argv[2], "%zu%c", &call.size, &rest) != 1 ||
        sscanf(argv[3], "%lf%c", &call.ms, &rest) != 1 ||
        sscanf(argv[4], "%d,%d%c", &call.cores[0], &call.cores[1], &rest) != 2) {
        fprintf(stderr, "usage: %s version | OP SIZE MS CORE_A,CORE_B [TRANSPORT]\n", argv[0]);
        exit(2);
    }
    call.op = argv[1];
    call.transport = argc > 5 ? argv[5] : "";
    alarm(LIFETIME_S);
    equal_priority();
    return call;
}

static void pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) fail("the core cannot be used");
}

/* Makes a second process, which ends with this one. Returns 1 in the leader, 0 in the follower. */
static inline int split(const struct call *call) {
    pid_t leader = getpid(), child = fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        alarm(LIFETIME_S);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != leader) exit(1);
    }
    pin(call->cores[child == 0]);
    return child != 0;
}
