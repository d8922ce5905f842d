/* See capture.h. The format of the file: a header of 24 bytes, then 16 bytes before each packet (draft-ietf-opsawg-pcap). */
#include "capture.h"
#include "pair.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
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

void capture_save(struct capture *capture, const char *path)
{
    static unsigned char packet[LARGEST];
    static const struct file_header start = {0xa1b2c3d4, 2, 4, 0, 0, LARGEST, LINK_ETHERNET};
    FILE *file = fopen(path, "wb");
    ssize_t length;
    uint32_t number = 0;
    if (!file || fwrite(&start, sizeof start, 1, file) != 1)
        die(path);
    while ((length = recv(capture->socket, packet, sizeof packet, 0)) > 0) {
        /* No time, but the order: the files say the same each time, and an emulated clock means nothing. */
        struct packet_header header = {0, number, (uint32_t)length, (uint32_t)length};
        if (!is_roce(packet, (size_t)length))
            continue;
        number++;
        if (fwrite(&header, sizeof header, 1, file) != 1 || fwrite(packet, (size_t)length, 1, file) != 1)
            die(path);
    }
    if (fclose(file) || (number == 0 && unlink(path)))
        die(path);
    close(capture->socket);
    free(capture);
}
