/* Copies a file from one process to another and proves with SHA-256 that it arrived whole.
 *
 *   copier recv NAME COPY &
 *   copier send NAME FILE
 *
 * The file travels in pieces of 1 MiB. Several are in flight at once: while gridnet moves some of
 * them, the sender reads and the receiver writes others.
 */
#define _POSIX_C_SOURCE 200809L
#include "common.h"
#include "sha256.h"

#include <stdbool.h>
#include <string.h>

enum { TAG_SIZE = 1, TAG_PIECE = 2, TAG_DIGEST = 3, PIECE = 1 << 20, WINDOW = 8 };

/* One of the pieces in flight. Its address is the context by which a completion finds it. */
struct slot {
    bool in_flight;
    uint64_t length; /* what the completion says that has arrived */
    char bytes[PIECE];
};

struct copier {
    gridnet_cq *cq;
    gridnet_endpoint *peer;
    struct slot *slots;
};

/* Piece i travels in slot i modulo WINDOW, which is ours again once the piece before it is done. */
static struct slot *wait_for_slot(struct copier *copier, uint64_t piece)
{
    struct slot *slot = &copier->slots[piece % WINDOW];
    while (slot->in_flight) {
        gridnet_completion entry = next_completion(copier->cq);
        struct slot *done = entry.context;
        done->in_flight = false;
        done->length = entry.length;
    }
    return slot;
}

/* Sends a small message and waits until it has left. */
static void tell(struct copier *copier, const void *data, size_t length, uint64_t tag)
{
    if (check(gridnet_tag_send(copier->peer, data, length, tag, NULL), "gridnet_tag_send"))
        next_completion(copier->cq);
}

/* Waits for a small message; from anyone as long as the peer is not known. */
static uint32_t hear(struct copier *copier, void *data, size_t length, uint64_t tag)
{
    check(gridnet_tag_recv(copier->cq, copier->peer, data, length, tag, 0, NULL), "gridnet_tag_recv");
    gridnet_completion entry = next_completion(copier->cq);
    if (entry.length != length)
        fail("the peer sent a message of another length than agreed");
    return entry.source;
}

static FILE *open_file(const char *path, const char *mode)
{
    FILE *file = fopen(path, mode);
    if (file == NULL) {
        perror(path);
        exit(EXIT_FAILURE);
    }
    return file;
}

static uint64_t file_size(FILE *file)
{
    if (fseeko(file, 0, SEEK_END) != 0 || ftello(file) < 0)
        fail("the size of the file is not known");
    uint64_t size = (uint64_t)ftello(file);
    rewind(file);
    return size;
}

static size_t piece_length(uint64_t size, uint64_t piece)
{
    uint64_t left = size - piece * PIECE;
    return left < PIECE ? (size_t)left : PIECE;
}

/* Both sides print their digest; one that differs is the end of the program. */
static void compare(const sha256_digest *mine, const sha256_digest *theirs)
{
    char text[2][65];
    sha256_text(mine, text[0]);
    sha256_text(theirs, text[1]);
    printf("here  %s\nthere %s\n", text[0], text[1]);
    if (memcmp(mine, theirs, sizeof *mine) != 0)
        fail("the copy differs from the file");
}

static void send_file(struct copier *copier, const char *path)
{
    FILE *file = open_file(path, "rb");
    uint64_t size = file_size(file), pieces = (size + PIECE - 1) / PIECE;
    sha256 hash;
    sha256_init(&hash);
    tell(copier, &size, sizeof size, TAG_SIZE);
    for (uint64_t i = 0; i < pieces; i++) {
        struct slot *slot = wait_for_slot(copier, i);
        size_t length = piece_length(size, i);
        if (fread(slot->bytes, 1, length, file) != length)
            fail("the file cannot be read, or has shrunk");
        slot->in_flight =
            check(gridnet_tag_send(copier->peer, slot->bytes, length, TAG_PIECE, slot), "gridnet_tag_send") ==
            GRIDNET_IN_PROGRESS;
        sha256_update(&hash, slot->bytes, length);
    }
    for (uint64_t i = 0; i < WINDOW; i++)
        wait_for_slot(copier, i);
    fclose(file);

    sha256_digest mine = sha256_final(&hash), theirs;
    tell(copier, &mine, sizeof mine, TAG_DIGEST);
    hear(copier, &theirs, sizeof theirs, TAG_DIGEST);
    compare(&mine, &theirs);
}

static void expect_piece(struct copier *copier, uint64_t piece)
{
    struct slot *slot = &copier->slots[piece % WINDOW];
    check(gridnet_tag_recv(copier->cq, copier->peer, slot->bytes, PIECE, TAG_PIECE, 0, slot), "gridnet_tag_recv");
    slot->in_flight = true;
}

/* Of the file as it lies there now, not of the messages: this is what was to be proved. */
static sha256_digest digest_of_file(const char *path, char *buffer)
{
    FILE *file = open_file(path, "rb");
    sha256 hash;
    sha256_init(&hash);
    for (size_t length; (length = fread(buffer, 1, PIECE, file)) > 0;)
        sha256_update(&hash, buffer, length);
    if (ferror(file))
        fail("the copy cannot be read");
    fclose(file);
    return sha256_final(&hash);
}

static void receive_file(struct copier *copier, const char *path)
{
    uint64_t size;
    uint32_t sender = hear(copier, &size, sizeof size, TAG_SIZE);
    check(gridnet_endpoint_open_source(copier->cq, sender, &copier->peer), "gridnet_endpoint_open_source");

    FILE *file = open_file(path, "wb");
    uint64_t pieces = size / PIECE + (size % PIECE != 0);
    for (uint64_t i = 0; i < pieces && i < WINDOW; i++)
        expect_piece(copier, i);
    for (uint64_t i = 0; i < pieces; i++) {
        struct slot *slot = wait_for_slot(copier, i);
        if (slot->length != piece_length(size, i))
            fail("a piece has the wrong length");
        if (fwrite(slot->bytes, 1, slot->length, file) != slot->length)
            fail("the copy cannot be written");
        if (i + WINDOW < pieces)
            expect_piece(copier, i + WINDOW);
    }
    if (fclose(file) != 0)
        fail("the copy cannot be written");

    sha256_digest mine = digest_of_file(path, copier->slots[0].bytes), theirs;
    hear(copier, &theirs, sizeof theirs, TAG_DIGEST);
    tell(copier, &mine, sizeof mine, TAG_DIGEST);
    compare(&mine, &theirs);
}

int main(int argc, char **argv)
{
    bool send = argc == 4 && strcmp(argv[1], "send") == 0;
    bool recv = argc == 4 && strcmp(argv[1], "recv") == 0;
    if (!send && !recv) {
        fprintf(stderr, "usage: copier recv NAME COPY\n"
                        "       copier send NAME FILE\n");
        return 2;
    }

    struct copier copier = {.peer = NULL, .slots = calloc(WINDOW, sizeof(struct slot))};
    if (copier.slots == NULL)
        fail("no memory for the pieces in flight");
    gridnet_fabric *fabric = open_fabric(recv ? argv[2] : NULL);
    check(gridnet_cq_create(fabric, 0, &copier.cq), "gridnet_cq_create");
    if (send) {
        copier.peer = connect_by_name(fabric, copier.cq, argv[2]);
        send_file(&copier, argv[3]);
    } else {
        receive_file(&copier, argv[3]);
    }
    check(gridnet_fabric_close(fabric), "gridnet_fabric_close");
    free(copier.slots);
    return EXIT_SUCCESS;
}
