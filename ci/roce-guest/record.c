/* Keeps some packets of each kind that pass a network interface until it is asked to end by SIGTERM.

       record INTERFACE FILE

   The file is there as soon as nothing is missed any more. */
#include "capture.h"

#include <stdio.h>
#include <string.h>

enum { MOST = 8 };

static volatile sig_atomic_t stop;

static void ask_to_stop(int signal)
{
    (void)signal;
    stop = 1;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = ask_to_stop};
    if (argc != 3) {
        fprintf(stderr, "usage: record INTERFACE FILE\n");
        return 2;
    }
    sigaction(SIGTERM, &action, NULL);
    capture_samples(capture_start(argv[1]), argv[2], MOST, &stop);
    return 0;
}
