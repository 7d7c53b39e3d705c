"""Six weeks of a person's ordinary work, as events on standard output: eight calls a
day within seven hours, none of them within nine hours of the hour that it is now."""

import datetime
import json
import random

now = datetime.datetime.now(datetime.timezone.utc)
dice = random.Random(1)
calls = []
for day in range(42, 1, -1):
    morning = now - datetime.timedelta(days=day) + datetime.timedelta(hours=9)
    for _ in range(8):
        calls.append(morning + datetime.timedelta(hours=7 * dice.random()))
for at in sorted(calls):
    print(json.dumps({
        "occurred_at": at.isoformat().replace("+00:00", "Z"), "duration": "0.010s", "principal": "user:ada", "principal_kind": "human",
        "server": "files", "kind": "tool_call", "method": "tools/call", "outcome": "success",
        "target": dice.choice(["read_text_file", "list_directory", "get_file_info"]),
    }))
