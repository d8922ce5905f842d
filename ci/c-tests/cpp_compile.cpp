// The header is C++11, and its functions link with C linkage.
#include <gridnet.h>

#include <cstdio>
#include <type_traits>

static_assert(std::is_standard_layout<gridnet_completion>::value, "a completion is a plain struct");
static_assert(std::is_same<decltype(&gridnet_fabric_close), gridnet_status (*)(gridnet_fabric *)>::value,
              "statuses and handles are what they are called");

int main()
{
    gridnet_fabric_params params = gridnet_fabric_params();
    params.size = sizeof params;
    gridnet_fabric *fabric = nullptr;
    if (gridnet_fabric_open(&params, &fabric) != GRIDNET_OK || gridnet_fabric_close(fabric) != GRIDNET_OK) {
        std::fprintf(stderr, "open and close: %s\n", gridnet_last_error());
        return 1;
    }
    return 0;
}
