"""Checks the arrows between the members of the workspace; reads `cargo metadata` from standard input.

    {capi, cli, bench, personalities} -> fabric -> {rails, meta, assembly} -> core  cli and bench may also call capi, cli also meta and assembly
    meta -> assembly -> core
    cli, and tests of all but core -> testbed              which stands alone
    verbs -> rdma-sim -> core                              rdma-sim for rings in shared memory
"""

import json
import sys

CORE = "gridnet-core"
RAILS = {"gridnet-shm", "gridnet-uring-tcp", "gridnet-verbs"}
META = "gridnet-meta"
ASSEMBLY = "gridnet-assembly"
FABRIC = "gridnet"
CAPI = "gridnet-capi"
TESTBED = "gridnet-testbed"
RDMA_SIM = "gridnet-rdma-sim"
VERBS = "gridnet-verbs"
CLI = "gridnet-cli"
PERSONALITIES = {"gridnet-mpi-ofi"}
TOP = {CAPI, CLI, "gridnet-bench", "gridnet-bench-peers"}

ALLOWED = {CORE: set(), TESTBED: set(), RDMA_SIM: {CORE}, FABRIC: RAILS | {META, ASSEMBLY, CORE}}
ALLOWED.update({lower: {CORE} for lower in RAILS | {ASSEMBLY}})
ALLOWED[VERBS] = {CORE, RDMA_SIM}
ALLOWED[META] = {CORE, ASSEMBLY}
ALLOWED.update({member: RAILS | {CORE, FABRIC} for member in TOP})
ALLOWED.update({member: {FABRIC} for member in PERSONALITIES})
for member in TOP - {CAPI}:
    ALLOWED[member] = ALLOWED[member] | {CAPI}
ALLOWED[CLI] = ALLOWED[CLI] | {META, ASSEMBLY, TESTBED}


def faults(packages):
    """Yields one sentence for each arrow or version that is not allowed."""
    members = {package["name"] for package in packages}
    for package in packages:
        name = package["name"]
        if name not in ALLOWED:
            yield f"{name} has no place in the order of the members: give it one in ci/deps.py"
            continue
        for dependency in package["dependencies"]:
            target = dependency["name"]
            if target == TESTBED and dependency["kind"] == "dev" and name != CORE:
                continue
            if target in members and target != name and target not in ALLOWED[name]:
                yield f"{name} must not depend on {target}"
            if dependency["req"] == "*" and target not in members:
                yield f"{name} takes any version of {target}"
        if name == CORE and any(d["name"] in members - {CORE} for d in package["dependencies"]):
            yield f"{CORE} must depend on no member"


def main():
    packages = json.load(sys.stdin)["packages"]
    found = list(dict.fromkeys(faults(packages)))
    for fault in found:
        print(f"error: {fault}")
    if not found:
        print(f"the dependencies of {len(packages)} members point the right way")
    sys.exit(1 if found else 0)


main()
