"""Whether what the ranks sent went through gridnet: reads the output of a run, with the lines that endpoints write when they close.

    proof.py RANKS RAIL < OUTPUT
"""

import re
import sys

ranks, rail = int(sys.argv[1]), sys.argv[2]
output = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdin.read())
payload = re.search(r"^payload (\d+) ranks (\d+) (.*)$", output, re.MULTILINE)
closed = re.findall(r"endpoint closed .*?bytes_sent=(\d+) .*?rails=\"([a-z,]*)\"", output)
faults = []
if not payload or int(payload[2]) != ranks:
    faults.append("the program did not come to its end")
elif sum(int(sent) for sent, _ in closed) < int(payload[1]):
    faults.append(f"{payload[1]} bytes were sent, and only {closed} went through gridnet")
if len(closed) != ranks:
    faults.append(f"{len(closed)} endpoints of gridnet were closed, not {ranks}")
if any(set(rails.split(",")) != {rail} for _, rails in closed):
    faults.append(f"not all went over {rail}: {closed}")
if faults:
    print(output)
    sys.exit("error: " + "; ".join(faults))
through = sum(int(sent) for sent, _ in closed)
library = payload[3].split(",")[0].strip()
print(f"{library}, {ranks} ranks, {rail}: {payload[1]} bytes of payload, {through} bytes through gridnet")
