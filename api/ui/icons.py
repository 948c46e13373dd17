"""The icons of the pages: lines on a field of 16 by 16, drawn in the colour of the text beside them."""

from __future__ import annotations

from markupsafe import Markup

_PATHS = {
    "check": "M3 8.5l3.2 3.2L13 4.8",
    "cross": "M4 4l8 8M12 4l-8 8",
    "alert": "M8 2.2l6.3 11.3H1.7zM8 6.5v3M8 11.6v.3",
    "play": "M5 3.2v9.6l7.8-4.8z",
    "pause": "M5.5 3.5v9M10.5 3.5v9",
    "retry": "M13 8a5 5 0 1 1-1.6-3.7M13 2.2v3h-3",
    "undo": "M3 5.5h6.2a3.6 3.6 0 0 1 0 7.2H6M5.8 2.6L3 5.5l2.8 2.9",
    "clock": "M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM8 4.8V8l2.3 1.6",
    "queue": "M2.5 4.5h11M2.5 8h11M2.5 11.5h6",
    "person": "M8 8a2.8 2.8 0 1 0 0-5.6A2.8 2.8 0 0 0 8 8zM2.8 13.8c.6-2.6 2.7-3.9 5.2-3.9s4.6 1.3 5.2 3.9",
    "skip": "M3.5 3.8v8.4L9 8zM11.8 3.8v8.4",
    "stop": "M4 4h8v8H4z",
    "circle": "M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11z",
    "plan": "M2.2 6.2h3.6v3.6H2.2zM10.2 2.4h3.6V6h-3.6zM10.2 10h3.6v3.6h-3.6zM5.8 8h2.2M10.2 4.2H8v7.6h2.2",
    "overview": "M2.5 13.5v-5M6.2 13.5v-11M9.8 13.5v-7M13.5 13.5v-9",
    "runs": "M2 8h3l2-5 2.6 10L11.3 8H14",
    "inbox": "M2.2 9l2-6h7.6l2 6v4.2H2.2zM2.2 9h3.4l.9 1.9h3l.9-1.9h3.4",
    "agent": "M4 5.5h8v7H4zM8 5.5V2.8M6.4 8.5v1M9.6 8.5v1M1.8 8v2.4M14.2 8v2.4",
    "limits": "M2.5 12a5.6 5.6 0 1 1 11 0M8 11.5l2.8-4",
    "breaker": "M9 1.8L3.6 9h3.7L6.4 14.2 12.4 6.6H8.6z",
    "schedule": "M2.5 3.5h11v10h-11zM2.5 6.6h11M5.4 1.9v3M10.6 1.9v3",
    "webhook": (
        "M6.2 5.8a2.2 2.2 0 1 1 2.9 2M4.9 11.4a2.2 2.2 0 1 1 .1-4.1M10 12.9a2.2 2.2 0 1 0 .9-4.3"
        "M8 5.7L5 11M9 7.8l2 3.4M5.5 11.2H10"
    ),
    "budget": (
        "M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8z"
        "M10 5.9c-.5-.7-1.2-1-2-1-1.2 0-2 .6-2 1.5 0 2.2 4 1 4 3.2 0 .9-.9 1.5-2 1.5-.9"
        " 0-1.7-.4-2.1-1.1M8 3.7v1.2M8 11.1v1.2"
    ),
    "menu": "M2.5 4.5h11M2.5 8h11M2.5 11.5h11",
    "theme": "M8 2.2a5.8 5.8 0 1 0 0 11.6zM8 2.2a5.8 5.8 0 0 1 0 11.6",
    "search": "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM10.3 10.3l3.4 3.4",
    "arrow": "M3 8h10M9.2 4.2L13 8l-3.8 3.8",
    "book": (
        "M2.5 3.2c2-.7 3.9-.5 5.5.6 1.6-1.1 3.5-1.3 5.5-.6v9.6c-2-.7-3.9-.5-5.5.6-1.6-1.1-3.5-1.3-5.5-.6zM8 3.8v9.6"
    ),
    "out": "M6.2 3H3v10h3.2M6.5 8h7M10.7 5.2L13.5 8l-2.8 2.8",
    "edit": "M3 13l.6-2.8 7.2-7.2 2.2 2.2-7.2 7.2zM9.3 4.5l2.2 2.2",
}


def path(name: str) -> str:
    """Return what an icon is drawn with, for a picture that has it inside."""
    return _PATHS[name]


def icon(name: str) -> Markup:
    """Return an icon; it says nothing to a screen reader, so a word stands beside it or names its button."""
    return Markup(  # noqa: S704  # all of it stands above
        f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d="{_PATHS[name]}"/></svg>'
    )
