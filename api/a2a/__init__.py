"""Dalang as an A2A agent (protocol 1.0, and 0.3 by the compat of the a2a-sdk): ``docs/a2a.md``.

A published plan is a skill, a run is a task. What the SDK is good for is left to it - the types, reading and writing
both bindings, errors, streams, 0.3 -; what happens, and everything that is remembered, is ours. Only ``routes.py`` may
be imported without the extra ``dalang[a2a]``; all else imports the SDK, and is imported by the first request.
"""
