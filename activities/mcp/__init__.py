"""Node type ``mcp``: one call of a tool of an MCP server.

``node`` is the handler, ``servers`` what the operator configured, ``results`` what comes back (pure), ``session`` the
connection - the only one that imports the library, which takes more than a second, and so is imported at the first
call - and ``child`` the small program that every server on stdio runs below.
"""
