"""HTTP proxies: what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say, in upper or lower case, and who obeys. httpx
reads them too, but stops at forms that are usual elsewhere. Services on this machine are never reached through one."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import httpx

from ac_pipeline.bounds import bounded
from ac_pipeline.errors import Misconfigured

_NO_PROXY = "NO_PROXY"
_ENTRY = re.compile(r"\[?(?P<host>[\w.*-]+|(?<=\[)[0-9a-f:.]+)\]?(?::(?P<port>\d+))?")
_HOST = re.compile(r"[\w.:-]+")
_SCHEMES = {"http", "https", "socks5", "socks5h"}


@dataclass(frozen=True, slots=True)
class Exempt:
    """One entry of NO_PROXY: an address range, or a name with its subdomains; of one port, or of all."""

    network: IPv4Network | IPv6Network | None
    name: str
    port: int | None

    def fits(self, host: str, port: int) -> bool:
        if self.port not in {None, port}:
            return False
        if self.network is None:
            return fnmatchcase(host, self.name) or host.endswith(f".{self.name}")
        try:
            return ip_address(host) in self.network
        except ValueError:
            return False


_HERE = (
    Exempt(None, "localhost", None),
    *(Exempt(ip_network(text), "", None) for text in ("127.0.0.0/8", "::1/128", "::ffff:127.0.0.0/104")),
)
"""This machine."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy as one variable names it."""

    variable: str  # Which
    url: str = field(repr=False)  # Its address, with user and password if it has any
    wrong: str = ""  # Why it cannot be used, or empty

    def __str__(self) -> str:
        """Host, port and variable."""
        url = httpx.URL(self.url)
        return f"the proxy {url.host}:{url.port or {'http': 80, 'https': 443}.get(url.scheme, 1080)} of {self.variable}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of an environment: by scheme of the address, and who is reached without."""

    by_scheme: Mapping[str, Proxy] = field(default_factory=dict)
    exempt: tuple[Exempt, ...] = ()

    def of(self, url: httpx.URL) -> Proxy | None:
        """The proxy for an address; None where there is none. Raises Misconfigured: it cannot be used."""
        proxy, host = self.by_scheme.get(url.scheme), url.host.lower().rstrip(".")
        port = url.port or {"http": 80}.get(url.scheme, 443)
        if proxy is None or any(each.fits(host, port) for each in (*_HERE, *self.exempt)):
            return None
        if proxy.wrong:
            raise Misconfigured(f"{proxy.variable} {proxy.wrong}")
        return proxy

    def transport(self, limits: httpx.Limits) -> httpx.BaseTransport:
        """A transport for httpx that goes through them."""
        return _Routes(self, limits)


DIRECT = Proxies()  # No proxies at all


def read_proxies(environment: Mapping[str, str]) -> Proxies:
    """The proxies of an environment. Raises Misconfigured: NO_PROXY cannot be understood, and there is a proxy. The
    message names the variable."""
    found = {scheme: _proxy(environment, scheme) or _proxy(environment, "all") for scheme in ("http", "https")}
    by_scheme = {scheme: proxy for scheme, proxy in found.items() if proxy is not None}
    _, text = _lookup(environment, _NO_PROXY)
    entries = re.split(r"[\s,]+", text.strip().lower()) if by_scheme else []
    return Proxies(by_scheme, tuple(_exempt(entry) for entry in entries if entry))


def through(error: Exception) -> str:
    """` through the proxy HOST:PORT of VARIABLE`, for an error that a transport of ours met there; else empty."""
    return "".join(getattr(error, "__notes__", ()))


def _lookup(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Name and value of a variable; in lower case it wins, as with every program."""
    return next(((each, environment[each]) for each in (name.lower(), name) if each in environment), (name, ""))


def _proxy(environment: Mapping[str, str], scheme: str) -> Proxy | None:
    variable, text = _lookup(environment, f"{scheme.upper()}_PROXY")
    text = text.strip()
    if not text:
        return None
    url = text if "://" in text else f"http://{text}"
    try:
        address = httpx.URL(url)
        httpx.Proxy(url)
    except (httpx.InvalidURL, ValueError):
        address = httpx.URL("")
    if address.scheme not in _SCHEMES or not _HOST.fullmatch(address.host) or not 0 <= (address.port or 0) < 2**16:
        wrong = "is not the address of a proxy: it must be http://HOST:PORT, or https, socks5 or socks5h."
        return Proxy(variable, "", wrong)
    if address.scheme.startswith("socks") and find_spec("socksio") is None:
        return Proxy(variable, url, "names a SOCKS proxy, for which the package socksio must be installed.")
    return Proxy(variable, url)


def _exempt(entry: str) -> Exempt:
    text = entry.rpartition("://")[2].rstrip("/")
    try:
        plain = text if "]:" in text else text.replace("[", "").replace("]", "")
        return Exempt(ip_network(plain, strict=False), "", None)
    except ValueError:
        matched = _ENTRY.fullmatch(text)
    if matched is None:
        raise Misconfigured(
            f"{_NO_PROXY} holds something that is no host, domain, address or range of addresses: write such as "
            "example.com,10.0.0.0/8,[::1]."
        )
    host, port = matched["host"], int(matched["port"]) if matched["port"] else None
    try:
        return Exempt(ip_network(host), "", port)
    except ValueError:
        return Exempt(None, host.removeprefix("*.").strip("."), port)


@lru_cache(maxsize=1)
def _trusted(*variables: str | None) -> ssl.SSLContext:
    """The certificates that servers are verified by: to read them takes 23 ms of CPU, and all clients can share them.
    `variables`: the values of those by which they may lie elsewhere than in certifi."""
    return httpx.create_ssl_context()


class _Routes(httpx.BaseTransport):
    """Sends each request directly or through its proxy, every wait bounded; an error that is met there names it."""

    def __init__(self, proxies: Proxies, limits: httpx.Limits) -> None:
        self._proxies = proxies
        verify = _trusted(*map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))
        self._direct = bounded(httpx.HTTPTransport(verify=verify, limits=limits))
        self._proxied = {
            proxy: bounded(httpx.HTTPTransport(verify=verify, limits=limits, proxy=proxy.url))
            for proxy in set(proxies.by_scheme.values())
            if not proxy.wrong
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        proxy = self._proxies.of(request.url)
        if proxy is None:
            return self._direct.handle_request(request)
        try:
            response = self._proxied[proxy].handle_request(request)
            if response.status_code == httpx.codes.PROXY_AUTHENTICATION_REQUIRED:  # of plain http: no server says this
                response.close()
                raise httpx.ProxyError("407 Proxy Authentication Required", request=request)
        except httpx.TransportError as error:
            error.add_note(f" through {proxy}")
            raise
        return response

    def close(self) -> None:
        for transport in (self._direct, *self._proxied.values()):
            transport.close()
