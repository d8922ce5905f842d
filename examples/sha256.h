/* SHA-256 (FIPS 180-4) of data that comes in pieces. */
#ifndef EXAMPLE_SHA256_H
#define EXAMPLE_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t state[8];
    uint64_t length; /* bytes so far */
    uint8_t block[64];
} sha256;

typedef struct {
    uint8_t bytes[32];
} sha256_digest;

void sha256_init(sha256 *hash);
void sha256_update(sha256 *hash, const void *data, size_t length);
sha256_digest sha256_final(sha256 *hash);

/* As 64 hexadecimal digits and a zero. */
void sha256_text(const sha256_digest *digest, char text_out[65]);

#endif
