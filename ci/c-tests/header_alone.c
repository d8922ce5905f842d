/* The header needs no other before it, and the sizes that are part of the ABI hold. */
#include <gridnet.h>

typedef char completion_has_56_bytes[sizeof(gridnet_completion) == 56 ? 1 : -1];
typedef char address_has_64_bytes[sizeof(gridnet_address) == 64 ? 1 : -1];
typedef char status_has_4_bytes[sizeof(gridnet_status) == 4 ? 1 : -1];

#include <stdio.h>
#include <string.h>

/* From the last error, before which there is a number without a name, to the last success. */
static int text_is_there(void)
{
    int named = 0;
    gridnet_status status = GRIDNET_BUSY;
    for (; strcmp(gridnet_status_name(status), "GRIDNET_?") != 0; status--, named++)
        if (strncmp(gridnet_status_name(status), "GRIDNET_", 8) != 0 || strlen(gridnet_status_text(status)) < 4)
            return 0;
    return status < GRIDNET_ERR_CLOSED && named == GRIDNET_BUSY - status && strcmp(gridnet_status_name(GRIDNET_ERR_PEER_GONE), "GRIDNET_ERR_PEER_GONE") == 0 &&
           gridnet_status_name(-12345) != NULL && gridnet_status_text(12345) != NULL;
}

static int version_is_consistent(void)
{
    char text[64];
    unsigned version = gridnet_version();
    snprintf(text, sizeof text, "%u.%u.%u", version >> 16, version >> 8 & 255, version & 255);
    return strcmp(text, gridnet_version_string()) == 0;
}

int main(void)
{
    gridnet_fabric *fabric = NULL;
    if (!text_is_there() || !version_is_consistent() || gridnet_last_error() == NULL) {
        fprintf(stderr, "version or status texts are wrong\n");
        return 1;
    }
    if (gridnet_fabric_open(NULL, &fabric) != GRIDNET_OK || gridnet_fabric_close(fabric) != GRIDNET_OK) {
        fprintf(stderr, "open and close: %s\n", gridnet_last_error());
        return 1;
    }
    return 0;
}
