"""The pages people look at, under ``/ui``: drawn on the server from the queries that REST answers with.

A page is useful without its scripts, which only enhance it: they keep it live, and send what somebody decides to the
REST API itself, so that there is one way of being allowed to do something. Nothing is loaded from elsewhere.
"""
