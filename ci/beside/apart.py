"""Whether a process has a fabric that messages went over, and another that streams went over: reads what `gridnet explain --json` prints."""

import json
import sys

counters = [fabric["activity"]["counters"] for fabric in json.load(sys.stdin)]
messages = [one["bytes_sent"] > 1 << 20 and one["streams"] == 0 for one in counters]
streams = [one["stream_bytes_sent"] > 1000 and one["stream_bytes_received"] > 1000 and one["bytes_sent"] == 0 for one in counters]
sys.exit(0 if len(counters) == 2 and sum(messages) == 1 and sum(streams) == 1 else 1)
