/* What RoCEv2 packets pass a network interface, as a file that tcpdump and Wireshark read. */
#ifndef CAPTURE_H
#define CAPTURE_H

#include <signal.h>

struct capture;

/* From now on packets of the interface are kept, as they are after the Ethernet header was made. Ends the program when that fails. */
struct capture *capture_start(const char *interface);
/* Writes what has passed to a file in pcap format, if anything has, and ends. */
void capture_save(struct capture *capture, const char *path);
/* Keeps the first packets of each opcode and direction, `most` of each, until `stop` is set; writes them to a file, and ends. */
void capture_samples(struct capture *capture, const char *path, int most, const volatile sig_atomic_t *stop);

#endif
