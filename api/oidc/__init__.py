"""OpenID Connect: tokens of identity providers that the operator trusts, and signing in to the pages with them."""

from __future__ import annotations


class TokenRefused(Exception):
    """A token, or what should become one, is not taken; the text says why."""
