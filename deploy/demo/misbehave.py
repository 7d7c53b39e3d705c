"""An MCP client that does what an agent should not, for the demo.

    misbehave.py loop   COMMAND...     the same call again and again
    misbehave.py burst  COMMAND...     hundreds of calls within seconds
    misbehave.py denied COMMAND...     calls that the server refuses
    misbehave.py call   COMMAND...     one plain call

COMMAND is an MCP server on stdio that has the tools of the reference file server;
its last argument is the folder that it serves.
"""

import asyncio
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main(deed: str, command: list[str]) -> None:
    folder = command[-1]
    server = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with stdio_client(server) as (reading, writing), ClientSession(reading, writing) as session:
        await session.initialize()
        match deed:
            case "loop":
                for _ in range(15):
                    await session.call_tool("read_text_file", {"path": f"{folder}/report.txt"})
            case "burst":
                for n in range(400):
                    await session.call_tool("get_file_info", {"path": f"{folder}/part-{n}.txt"})
            case "denied":
                for tool in ("read_text_file", "list_directory", "get_file_info", "directory_tree", "read_media_file"):
                    await session.call_tool(tool, {"path": f"/etc/{tool}"})
            case "call":
                await session.call_tool("list_directory", {"path": folder})


asyncio.run(main(sys.argv[1], sys.argv[2:]))
