"""Whether each of the three has come forward, and over gridnet: reads the output of the program.

    proof.py LEAST RAIL < OUTPUT
"""

import re
import sys

least, rail = int(sys.argv[1]), sys.argv[2]
output = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdin.read())
done = {name: int(count) for name, count in re.findall(r"^(ping|bulk|call) (\d+) in ", output, re.MULTILINE)}
closed = re.findall(r"endpoint closed .* bytes_sent=(\d+) .* rails=\"([a-z,]*)\"", output)
calls = [int(sent) for sent in re.findall(r"^gridnet: connections .* bytes sent (\d+),", output, re.MULTILINE)]
faults = [f"{name}: {done.get(name, 'nothing')}, {least} asked" for name in ("ping", "bulk", "call") if done.get(name, 0) < least]
if sum(int(sent) for sent, _ in closed) < done.get("bulk", 0) << 20:
    faults.append(f"the bytes of MPI did not go through gridnet: {closed}")
if len(closed) != 2 or any(rails != rail for _, rails in closed):
    faults.append(f"not both ranks were over {rail} alone: {closed}")
# A request and an answer have more than 20 bytes each.
if len(calls) != 2 or min(calls, default=0) < 20 * done.get("call", 0):
    faults.append(f"the calls of CORBA did not go through gridnet: {calls}")
if faults:
    print(output)
    sys.exit("error: " + "; ".join(faults))
print(f"{rail}: {done['ping']} pings and {done['bulk']} large messages of MPI beside {done['call']} calls of CORBA in one process, counted apart")
