"""Agents that call a tool again and again, each on a server of its own, for the
demo of a cluster.

    many_calls.py AGENTS CALLS COMMAND...

COMMAND is an MCP server on stdio with the tools of notes_server.py; {} in it is
replaced by the agent's number. A line a second says how many calls were answered.
"""

import asyncio
import os
import sys
import time

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

answered = 0


async def agent(number: int, calls: int, command: list[str]) -> None:
    global answered
    words = [w.replace("{}", str(number)) for w in command]
    server = StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ))
    async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
        await session.initialize()
        for n in range(calls):
            await session.call_tool("save_note", {"title": f"note {n}", "text": f"by agent {number}"})
            answered += 1


async def main(agents: int, calls: int, command: list[str]) -> None:
    work = asyncio.gather(*(agent(n, calls, command) for n in range(agents)))
    start = time.monotonic()
    while not work.done():
        await asyncio.wait([work], timeout=2)
        print(f"  {time.monotonic() - start:4.0f} s: {answered} of {agents * calls} calls answered", flush=True)
    await work


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
