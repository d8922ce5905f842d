"""Whether what the ranks sent went through gridnet: reads the output of a run, with the lines that endpoints write when they close.

    proof.py RANKS RAIL[,RAIL...] [one-sided] < OUTPUT

    proof.py --sums < OUTPUT

With one-sided, the payload has to have gone by operations on memory of peers. With --sums, what went through gridnet is said only.
"""

import re
import sys

output = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdin.read())
if sys.argv[1] == "--sums":
    closed = re.findall(r"endpoint closed .*", output)
    rails = {rail for line in closed for rail in re.search(r'rails="([a-z,]*)"', line)[1].split(",")}
    sums = [sum(int(re.search(rf" {name}=(\d+)", line)[1]) for line in closed) for name in ("messages_sent", "bytes_sent", "puts", "gets", "atomics")]
    print("through gridnet, {} endpoints, {}: {} messages, {} bytes; {} puts, {} gets, {} atomic operations".format(
        len(closed), "+".join(sorted(rails - {""})), *sums))
    sys.exit(None if sums[1] else "error: nothing went through gridnet")
ranks, rail = int(sys.argv[1]), sys.argv[2]
one_sided = sys.argv[3:] == ["one-sided"]
payload = re.search(r"^payload (\d+) ranks (\d+) (.*)$", output, re.MULTILINE)
what = ("bytes_put", "bytes_got") if one_sided else ("bytes_sent",)
closed = [
    (sum(int(re.search(rf" {name}=(\d+)", line)[1]) for name in what), re.search(r'rails="([a-z,]*)"', line)[1])
    for line in re.findall(r"endpoint closed .*", output)
]
faults = []
if not payload or int(payload[2]) != ranks:
    faults.append("the program did not come to its end")
elif sum(sent for sent, _ in closed) < int(payload[1]):
    faults.append(f"{payload[1]} bytes were sent, and only {closed} went through gridnet")
if len(closed) < ranks:
    faults.append(f"{len(closed)} endpoints of gridnet were closed, not {ranks} or more")
# A rank that has operations on memory of its own is a peer to itself.
# Some open more endpoints than they need.
led_to = [set(rails.split(",")) - {"self", ""} for _, rails in closed]
if len([rails for rails in led_to if rails]) < ranks or any(rails - set(rail.split(",")) for rails in led_to):
    faults.append(f"not all went over {rail}: {closed}")
if faults:
    print(output)
    sys.exit("error: " + "; ".join(faults))
through = sum(sent for sent, _ in closed)
library = payload[3].split(",")[0].strip()
print(f"{library}, {ranks} ranks, {rail}: {payload[1]} bytes of payload, {through} bytes through gridnet"
      + (", by puts and gets" if one_sided else ""))
