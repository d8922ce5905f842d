/* A camera hands each picture to three readers, each a process of its own, without a copy.
 *
 *   lend [PICTURES]
 *
 * The camera takes a loan, draws into it, shares it with each reader and gives it back. Readers look at it where it
 * is; its memory serves a later picture when the last of them has given it back. A camera that is too quick finds no
 * memory (GRIDNET_ERR_AGAIN), and waits.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { READERS = 3, TAG_READY = 1, TAG_PICTURE = 2, TAG_END = 3, TAG_REPORT = 4 };

static const size_t PICTURE_BYTES = 8 << 20;

static void draw(uint64_t *pixels, uint64_t number)
{
    for (size_t i = 0; i < PICTURE_BYTES / sizeof *pixels; i++)
        pixels[i] = number * 0x9e3779b97f4a7c15 + i;
}

static void check_picture(const gridnet_lent *lent, uint64_t number)
{
    const uint64_t *pixels = lent->data;
    if (lent->len != PICTURE_BYTES)
        fail("a picture has another size");
    for (size_t i = 0; i < PICTURE_BYTES / sizeof *pixels; i++)
        if (pixels[i] != number * 0x9e3779b97f4a7c15 + i)
            fail("a picture is not what the camera drew");
}

/* Sends that are not done at once have an entry to wait for. */
static void send_word(gridnet_cq *cq, gridnet_endpoint *to, uint64_t word, uint64_t tag)
{
    if (check(gridnet_tag_send(to, &word, sizeof word, tag, NULL), "gridnet_tag_send"))
        next_completion(cq);
}

static void read_pictures(const char *camera_name)
{
    gridnet_fabric *fabric = open_fabric(NULL);
    gridnet_cq *cq;
    check(gridnet_cq_create(fabric, 0, &cq), "gridnet_cq_create");
    gridnet_endpoint *camera = connect_by_name(fabric, cq, camera_name);
    send_word(cq, camera, 0, TAG_READY);

    uint64_t seen = 0;
    for (;;) {
        gridnet_lent lent;
        /* Pictures and the end alike: a message that is no loan is lent, too. */
        check(gridnet_loan_recv(cq, camera, &lent, 0, UINT64_MAX, NULL), "gridnet_loan_recv");
        uint64_t tag = next_completion(cq).tag;
        if (tag == TAG_PICTURE)
            check_picture(&lent, seen++);
        check(gridnet_loan_give_back(fabric, lent.loan), "gridnet_loan_give_back");
        if (tag == TAG_END)
            break;
    }
    send_word(cq, camera, seen, TAG_REPORT);
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
}

struct camera {
    gridnet_fabric *fabric;
    gridnet_cq *cq;
    gridnet_endpoint *readers[READERS];
    uint64_t waits;
};

static uint64_t *next_picture(struct camera *camera, gridnet_loan *loan)
{
    void *data;
    gridnet_status status;
    while ((status = gridnet_loan_take(camera->fabric, PICTURE_BYTES, loan, &data)) == GRIDNET_ERR_AGAIN) {
        gridnet_completion entry;
        camera->waits++;
        status = gridnet_cq_wait(camera->cq, &entry, 1, 1000000);
        if (status != GRIDNET_ERR_TIMEOUT)
            check(status, "gridnet_cq_wait");
    }
    check(status, "gridnet_loan_take");
    return data;
}

static void show(struct camera *camera, uint64_t number)
{
    gridnet_loan loan;
    draw(next_picture(camera, &loan), number);
    for (int i = 0; i < READERS; i++)
        if (check(gridnet_loan_share(camera->readers[i], loan, PICTURE_BYTES, TAG_PICTURE, NULL),
                  "gridnet_loan_share"))
            next_completion(camera->cq);
    check(gridnet_loan_give_back(camera->fabric, loan), "gridnet_loan_give_back");
}

static void film(const char *name, uint64_t pictures)
{
    struct camera camera = {0};
    uint64_t word;
    camera.fabric = open_fabric(name);
    check(gridnet_cq_create(camera.fabric, 0, &camera.cq), "gridnet_cq_create");
    for (int i = 0; i < READERS; i++) {
        check(gridnet_tag_recv(camera.cq, NULL, &word, sizeof word, TAG_READY, 0, NULL), "gridnet_tag_recv");
        uint32_t source = next_completion(camera.cq).source;
        check(gridnet_endpoint_open_source(camera.cq, source, &camera.readers[i]), "gridnet_endpoint_open_source");
    }

    int64_t start = now_ns();
    for (uint64_t number = 0; number < pictures; number++)
        show(&camera, number);
    for (int i = 0; i < READERS; i++)
        send_word(camera.cq, camera.readers[i], 0, TAG_END);
    for (int i = 0; i < READERS; i++) {
        check(gridnet_tag_recv(camera.cq, NULL, &word, sizeof word, TAG_REPORT, 0, NULL), "gridnet_tag_recv");
        next_completion(camera.cq);
        if (word != pictures)
            fail("a reader has missed a picture");
    }
    printf("%llu pictures of %zu MiB for %d readers in %.2f s, %llu waits for memory\n", (unsigned long long)pictures,
           PICTURE_BYTES >> 20, READERS, (double)(now_ns() - start) / 1e9, (unsigned long long)camera.waits);
    check(gridnet_fabric_close(camera.fabric), "gridnet_fabric_close");
}

int main(int argc, char **argv)
{
    uint64_t pictures = argc == 2 ? parse_number(argv[1], 1000000) : argc == 1 ? 100 : 0;
    if (pictures == 0) {
        fprintf(stderr, "usage: lend [PICTURES]\n");
        return 2;
    }

    /* Processes first, fabrics then: a fabric does not outlive a fork. */
    char name[64];
    snprintf(name, sizeof name, "lend-%ld", (long)getpid());
    for (int i = 0; i < READERS; i++) {
        pid_t child = fork();
        if (child < 0)
            fail("no process for a reader");
        if (child == 0) {
            read_pictures(name);
            exit(EXIT_SUCCESS);
        }
    }
    film(name, pictures);

    int failed = 0, status;
    while (wait(&status) > 0)
        failed |= !WIFEXITED(status) || WEXITSTATUS(status) != EXIT_SUCCESS;
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
