"""The page: what passes through the gateway, shown in a browser, and the JSON API below it.

    Page (app)  ──  assets: our own few files, and plotly.js out of its wheel
                ──  api:    questions to the log, each a function from a query string to a struct
                ──  live:   requests under way, told as server-sent events
                ──  sights: what is to be seen of them, here, in other workers, in the log

It only reads. `Page` is an ASGI application without a server; the gateway mounts it.
"""

from streamfold.ui.app import PREFIXES, Page
from streamfold.ui.sights import Ask

__all__ = ["PREFIXES", "Ask", "Page"]
