"""Who may come in: tokens, their hashes, and what a browser may be led to do.

**Tokens** are 256 random bits, so what is kept of them is a plain SHA-256: there is no dictionary to try, and a slow
hash such as scrypt, which protects passwords that people make up, would only let anybody burn our CPU by sending
wrong tokens. The hash is looked up in a table under a keyed hash of itself, whose key is made anew at each start:
what is compared cannot be steered from outside, so how long the comparison takes tells nothing.

**Where a token may be**: in `x-streamfold-token`, or where an SDK puts its key (`Authorization: Bearer`, `x-api-key`,
`api-key`, `x-goog-api-key`, the query's `key`). Wherever it is, it is taken out: no upstream ever sees it. A browser
keeps it in a cookie, which counts for our own pages only, and only for reading: a foreign page cannot use it to talk
to an upstream.

**Foreign pages.** A web page can make its visitor's browser send requests to this machine, even read the answers if
it makes its own name point here (DNS rebinding). So without a token, our pages answer only to a `Host` that no
attacker can own (an address, `localhost`, the names in `access.hosts`), and an upstream whose key the gateway puts in
answers to no request that a browser says comes from another site.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from streamfold.gateway.config import Config, is_loopback
from streamfold.gateway.headers import Headers, header
from streamfold.gateway.replies import Scope, raw_path
from streamfold.gateway.routes import find_route

__all__ = ["CLIENT", "COOKIE", "ISSUED", "Access", "Client", "Refusal", "hash_of", "new_token"]

ISSUED: Final = "sf-"
"""What our tokens begin with, so that they are told from the keys of providers."""
TOKEN: Final = re.compile(r"sf-[A-Za-z0-9_-]{43}")
COOKIE: Final = "streamfold_token"
CLIENT: Final = "streamfold.client"
"""The key of the scope under which the door leaves the client's name."""
OWN_HEADER: Final = b"x-streamfold-token"
KEY_HEADERS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
READING: Final = ("GET", "HEAD")


class Client(NamedTuple):
    """Somebody who may come in. `name` is None for somebody without a token."""

    name: str | None


class Refusal(NamedTuple):
    """Why somebody may not. `message` is fit for the client."""

    status: int
    kind: str
    message: str


ANONYMOUS: Final = Client(None)


def new_token() -> str:
    """A token of 256 random bits."""
    return ISSUED + secrets.token_urlsafe(32)


def hash_of(token: str) -> str:
    """What the configuration keeps of a token."""
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


class Access:
    """The one question at the door: who is this, and may they?"""

    def __init__(self, config: Config) -> None:
        self._settings = config.access
        self._routes = config.routes()
        self._hosts = {name.lower() for name in (*config.access.hosts, config.host)}
        self._key = secrets.token_bytes(32)
        self._clients: Mapping[bytes, str] = {
            self._blinded(client.token_hash): name for name, client in config.access.clients.items()
        }

    def check(self, scope: Scope) -> Client | Refusal:
        """Who sent a request, or why it is refused. Takes the token out of the request."""
        path = raw_path(scope)
        route = find_route(self._routes, path)
        token = _take_token(scope)
        if token is None and route is None and scope["method"] in READING:
            token = _cookie_token(scope["headers"])
        _drop_cookie(scope)
        if token is not None:
            return self._known(token, to_upstream=route is not None)
        if not self._settings.open:
            return Refusal(401, "token_required", "send your access token, as x-streamfold-token or in place of a key")
        if route is not None:
            if route.upstream.key is not None and self._is_foreign(scope["headers"]):
                return Refusal(403, "cross_site", "requests from other web sites are not served here without a token")
            return ANONYMOUS
        if path != "/metrics" and not self._is_ours(header(scope["headers"], b"host") or ""):
            message = "this page is not shown under that name; use the address, or add the name to access.hosts"
            return Refusal(403, "unknown_host", message)
        return ANONYMOUS

    def name_of(self, token: str) -> str | None:
        """The client whose token this is."""
        return self._clients.get(self._blinded(hash_of(token)))

    def _known(self, token: str, *, to_upstream: bool) -> Client | Refusal:
        name = self.name_of(token)
        if name is None:
            return Refusal(401, "token_unknown", "this access token is not known here")
        if not to_upstream and not self._settings.clients[name].page:
            return Refusal(403, "forbidden", "this client's token is not for the page, the log and the figures")
        return Client(name)

    def _blinded(self, hashed: str) -> bytes:
        return hashlib.blake2b(hashed.encode(), key=self._key, digest_size=16).digest()

    def _is_foreign(self, headers: Headers) -> bool:
        """Whether a browser says that another site's page made this request. Other clients say nothing of it."""
        site, origin = header(headers, b"sec-fetch-site"), header(headers, b"origin")
        if site is None and origin is None:
            return False
        host = header(headers, b"host") or ""
        if site not in (None, "same-origin", "none") or (origin is not None and urlsplit(origin).netloc != host):
            return True
        # A name that an attacker made point here is the same origin for the browser, but not one of ours.
        return not self._is_ours(host)

    def _is_ours(self, host: str) -> bool:
        """Whether a `Host` header names us by a name that nobody else can make point here."""
        name = _host_name(host)
        return is_loopback(name) or name in self._hosts or _is_address(name)


def _take_token(scope: Scope) -> str | None:
    """The token in a request's headers or query, taken out of there. What is no token of ours stays."""
    headers: Headers = scope["headers"]
    found: str | None = None
    kept = []
    for name, value in headers:
        if name == OWN_HEADER:
            found = value.decode("latin-1").strip()
        elif name in KEY_HEADERS and (token := TOKEN.fullmatch(_without_scheme(value))):
            found = found or token[0]
        else:
            kept.append((name, value))
    if len(kept) != len(headers):
        scope["headers"] = kept
    query: bytes = scope["query_string"]
    if b"sf-" in query:
        pairs = query.decode("latin-1").split("&")
        ours = [pair for pair in pairs if TOKEN.fullmatch(unquote(pair.partition("=")[2]))]
        if ours:
            scope["query_string"] = "&".join(pair for pair in pairs if pair not in ours).encode("latin-1")
            found = found or unquote(ours[0].partition("=")[2])
    return found


def _without_scheme(value: bytes) -> str:
    text = value.decode("latin-1").strip()
    return text[7:].strip() if text[:7].lower() == "bearer " else text


def _cookie_token(headers: Headers) -> str | None:
    text = header(headers, b"cookie")
    if text is None or COOKIE not in text:
        return None
    try:
        morsel = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None else None


def _drop_cookie(scope: Scope) -> None:
    """Takes our cookie out of what goes on: a browser sends it along with everything."""
    mark = COOKIE.encode() + b"="
    if not any(name == b"cookie" and mark in value for name, value in scope["headers"]):
        return
    kept = []
    for name, value in scope["headers"]:
        if name == b"cookie" and mark in value:
            value = b"; ".join(part.strip() for part in value.split(b";") if not part.strip().startswith(mark))
            if not value:
                continue
        kept.append((name, value))
    scope["headers"] = kept


def _host_name(host: str) -> str:
    """The name in a `Host` header, without port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
