"""Eight weeks of a person's ordinary work, as events on standard output: twenty calls a
day within eight hours, none of them within eight hours of the hour that it is now."""

import datetime
import json
import random

now = datetime.datetime.now(datetime.timezone.utc)
dice = random.Random(1)
calls = []
for day in range(56, 1, -1):
    morning = now - datetime.timedelta(days=day) + datetime.timedelta(hours=8)
    for _ in range(20):
        calls.append(morning + datetime.timedelta(hours=8 * dice.random()))
for at in sorted(calls):
    print(json.dumps({
        "occurred_at": at.isoformat().replace("+00:00", "Z"), "duration": "0.010s", "principal": "user:ada", "principal_kind": "human",
        "server": "files", "kind": "tool_call", "method": "tools/call", "outcome": "success",
        "target": dice.choice(["read_text_file", "list_directory", "get_file_info"]),
    }))
