/* What the C tests of sessions share: a rendez-vous node of this host, and fabrics that join with its ticket. */
#ifndef SESSION_H
#define SESSION_H

#include "test.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static char session_dir[64], session_ticket[96];
static pid_t session_server;

/* The command, which lies beside the library; none may be installed. */
static inline bool session_can(void)
{
    return system("gridnet session --help >/dev/null 2>&1") == 0;
}

/* Starts the rendez-vous node of the session that is there. It ends with the test, however that ends. */
static inline void session_start(void)
{
    session_server = fork();
    CHECK(session_server >= 0);
    if (session_server > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execlp("gridnet", "gridnet", "session", "serve", "--dir", session_dir, (char *)NULL);
    _exit(127);
}

/* A rendez-vous node at some port of this host. */
static inline void session_serve(void)
{
    char command[256];
    int port = 20000 + (int)(getpid() % 12000), tries = 0;
    snprintf(session_dir, sizeof session_dir, "/tmp/gridnet-c-session-%d", (int)getpid());
    do {
        CHECK(tries++ < 100);
        snprintf(command, sizeof command, "rm -rf %s; gridnet session new --dir %s --listen 127.0.0.1:%d >/dev/null",
                 session_dir, session_dir, port++);
        CHECK(system(command) == 0);
        session_start();
        snprintf(command, sizeof command, "gridnet session join %s/ticket --timeout 20s >/dev/null 2>&1", session_dir);
    } while (system(command) != 0 &&
             (kill(session_server, SIGKILL), waitpid(session_server, NULL, 0) == session_server));
    snprintf(session_ticket, sizeof session_ticket, "%s/ticket", session_dir);
}

/* Ends it, and what it has left; the exit code of the test. */
static inline int session_end(void)
{
    char command[128];
    kill(session_server, SIGTERM);
    waitpid(session_server, NULL, 0);
    snprintf(command, sizeof command, "rm -rf %s", session_dir);
    return system(command) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Fabrics that join from now on, here and in processes that are begun, have these rules. */
static inline void session_rules(const char *rules)
{
    char path[128];
    FILE *file;
    snprintf(path, sizeof path, "%s/rules.toml", session_dir);
    file = fopen(path, "w");
    CHECK(file != NULL && fputs(rules, file) >= 0 && fclose(file) == 0);
    CHECK(setenv("GRIDNET_SESSION_RULES", path, 1) == 0);
}

/* A fabric that joins by this name, in a cluster of its own: who moves to a leader is in no directory for a moment. */
static inline struct node session_join(const char *label)
{
    struct node node;
    CHECK(setenv("GRIDNET_SESSION", session_ticket, 1) == 0);
    CHECK(setenv("GRIDNET_NET_INTERFACES", "127.0.0.1", 1) == 0);
    CHECK(setenv("GRIDNET_SESSION_LABEL", label, 1) == 0);
    CHECK(setenv("GRIDNET_SESSION_CLUSTER", label, 1) == 0);
    CHECK_OK(gridnet_fabric_open(NULL, &node.fabric));
    CHECK_OK(gridnet_cq_create(node.fabric, 0, &node.cq));
    return node;
}

/* The node of this name, once it is there. */
static inline gridnet_node session_find(gridnet_fabric *fabric, const char *label)
{
    gridnet_node_info nodes[8];
    size_t count = 0, i;
    for (;;) {
        CHECK_OK(gridnet_nodes(fabric, nodes, 8, &count));
        for (i = 0; i < count; i++)
            if (strcmp(nodes[i].label, label) == 0)
                return nodes[i].node;
        poll(NULL, 0, 1);
    }
}

#endif
