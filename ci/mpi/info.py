"""Has libfabric itself put into words what the provider offers (`fi_tostr`), as `fi_info` does: info.py LIBFABRIC

It reads each part of the answer, by the layout that it has.
"""

import ctypes
import sys

library = ctypes.CDLL(sys.argv[1])
library.fi_version.restype = ctypes.c_uint32
library.fi_tostr.restype = ctypes.c_char_p
library.fi_tostr.argtypes = [ctypes.c_void_p, ctypes.c_int]
library.fi_freeinfo.argtypes = [ctypes.c_void_p]
version = library.fi_version()
info = ctypes.c_void_p()
FI_TYPE_INFO = 0
error = library.fi_getinfo(ctypes.c_uint32(version), None, None, ctypes.c_uint64(0), None, ctypes.byref(info))
if error:
    sys.exit(f"error: fi_getinfo says {error}")
text = library.fi_tostr(info, FI_TYPE_INFO).decode()
library.fi_freeinfo(info)
expected = ("FI_TAGGED", "FI_RMA", "FI_ATOMIC", "FI_MULTI_RECV", "FI_DIRECTED_RECV", "FI_EP_RDM", "FI_AV_TABLE",
            "FI_RM_ENABLED", "inject_size: 4096", "iov_limit: 64", "name: gridnet", "prov_name: gridnet", "mr_key_size: 8")
missing = [word for word in expected if word not in text]
if missing:
    print(text)
    sys.exit(f"error: {', '.join(missing)} are not in what libfabric says of the provider")
print(f"libfabric {version >> 16}.{version & 0xffff} says of it: {len(text.splitlines())} lines")
