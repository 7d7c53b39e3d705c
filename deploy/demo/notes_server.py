"""A small MCP server in Python for the demo: notes that are kept in memory.

It is written with the official SDK and knows nothing of mcpaudit, which is the
point: `mcpaudit wrap` audits it as it is.
"""

from mcp.server.mcpserver import MCPServer

server = MCPServer("notes")
notes: dict[str, str] = {}


@server.tool()
def save_note(title: str, text: str) -> str:
    """Keep a note under a title."""
    notes[title] = text
    return f"saved {title!r}, {len(text)} characters"


@server.tool()
def read_note(title: str) -> str:
    """Read a note back."""
    if title not in notes:
        raise ValueError(f"there is no note {title!r}")
    return notes[title]


if __name__ == "__main__":
    server.run("stdio")
