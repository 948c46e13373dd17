"""Node type ``a2a`` and agents of kind ``a2a``: work that is handed to an agent behind the Agent2Agent protocol.

``call.py`` is what a node says of it, ``meaning.py`` what the agent's answers mean, ``wayang.py`` the older contract of
Wayang's router; these are pure but for a request. ``peer.py`` speaks the protocol with the ``a2a-sdk`` (the extra
``a2a``), ``work.py`` sees one task to its end. ``docs/a2a.md``.
"""

from dalang.activities.a2a.work import A2A as A2A
