"""Dalang as an MCP server: tools for models that write, start, watch and change runs.

Every tool is a request to the REST API with the caller's own token - over the network from ``dalang mcp``, inside the
process from ``/mcp`` of the API - so that it may do, and does, exactly what REST would. ``rest`` sends it, ``tools``
says which there are and ``arguments`` what they take, ``guide`` holds what a model has to know, and ``serving`` alone
imports the library.
"""
