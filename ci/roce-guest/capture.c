/* See capture.h. The format of the file: a header of 24 bytes, then 16 bytes before each packet (draft-ietf-opsawg-pcap). */
#include "capture.h"
#include "pair.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LARGEST = 65536, ROOM = 8 << 20, ROCE_PORT = 4791, LINK_ETHERNET = 1 };

struct capture {
    int socket;
};

struct file_header {
    uint32_t magic;
    uint16_t major, minor;
    uint32_t zone, accuracy, largest, link;
};

struct packet_header {
    uint32_t seconds, microseconds, kept, length;
};

struct capture *capture_start(const char *interface)
{
    struct capture *capture = malloc(sizeof *capture);
    struct sockaddr_ll place = {
        .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(interface)};
    int room = ROOM;
    if (!capture || !place.sll_ifindex)
        die(interface);
    /* The protocol is given with bind: until then nothing comes, not even from other interfaces. */
    capture->socket = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
    if (capture->socket < 0 || setsockopt(capture->socket, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) ||
        bind(capture->socket, (struct sockaddr *)&place, sizeof place))
        die("packet socket");
    return capture;
}

static bool is_roce(const unsigned char *packet, size_t length)
{
    size_t udp;
    if (length < ETHER_HDR_LEN + 1)
        return false;
    if (packet[12] == 0x08 && packet[13] == 0x00 && length > ETHER_HDR_LEN + 9 && packet[ETHER_HDR_LEN + 9] == IPPROTO_UDP)
        udp = ETHER_HDR_LEN + 4 * (size_t)(packet[ETHER_HDR_LEN] & 15);
    else if (packet[12] == 0x86 && packet[13] == 0xdd && length > ETHER_HDR_LEN + 6 && packet[ETHER_HDR_LEN + 6] == IPPROTO_UDP)
        udp = ETHER_HDR_LEN + 40;
    else
        return false;
    return length >= udp + 8 && packet[udp + 2] << 8 == (ROCE_PORT & 0xff00) && packet[udp + 3] == (ROCE_PORT & 0xff);
}

/* Opens a file, and writes what is before all packets. */
static FILE *file_start(const char *path)
{
    static const struct file_header start = {0xa1b2c3d4, 2, 4, 0, 0, LARGEST, LINK_ETHERNET};
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(&start, sizeof start, 1, file) != 1)
        die(path);
    return file;
}

static void file_add(FILE *file, uint32_t number, const unsigned char *packet, size_t length)
{
    /* No time, but the order: the files say the same each time, and an emulated clock means nothing. */
    struct packet_header header = {0, number, (uint32_t)length, (uint32_t)length};
    if (fwrite(&header, sizeof header, 1, file) != 1 || fwrite(packet, length, 1, file) != 1)
        die("capture");
}

static void capture_end(struct capture *capture)
{
    close(capture->socket);
    free(capture);
}

void capture_save(struct capture *capture, const char *path)
{
    static unsigned char packet[LARGEST];
    FILE *file = file_start(path);
    ssize_t length;
    uint32_t number = 0;
    while ((length = recv(capture->socket, packet, sizeof packet, 0)) > 0)
        if (is_roce(packet, (size_t)length))
            file_add(file, number++, packet, (size_t)length);
    if (fclose(file) || (number == 0 && unlink(path)))
        die(path);
    capture_end(capture);
}

void capture_samples(struct capture *capture, const char *path, int most, const volatile sig_atomic_t *stop)
{
    static unsigned char packet[LARGEST];
    int kept[2][256] = {0};
    FILE *file = file_start(path);
    struct pollfd ready = {.fd = capture->socket, .events = POLLIN};
    uint32_t number = 0;
    for (bool last = false; !last;) {
        /* What has passed when the signal came is there: it is taken once more after it. */
        last = *stop;
        poll(&ready, 1, last ? 0 : 100);
        struct sockaddr_ll from;
        socklen_t size = sizeof from;
        ssize_t length;
        while ((length = recvfrom(capture->socket, packet, sizeof packet, 0, (struct sockaddr *)&from, &size)) > 0) {
            if (!is_roce(packet, (size_t)length))
                continue;
            size_t transport = ETHER_HDR_LEN + (packet[12] == 0x08 ? 4 * (size_t)(packet[ETHER_HDR_LEN] & 15) : 40) + 8;
            int *count = &kept[from.sll_pkttype == PACKET_OUTGOING][transport < (size_t)length ? packet[transport] : 0];
            if ((*count)++ < most)
                file_add(file, number++, packet, (size_t)length);
        }
    }
    if (fclose(file))
        die(path);
    capture_end(capture);
}
