"""Ports to listen at, looked at before anything starts: a server finds out after its models are
loaded, if at all."""

import socket
from collections.abc import Iterable

MAX_PORT = 2**16 - 1


def check_ports(wanted: Iterable[tuple[str, str, int]]) -> None:
    """`wanted`: option, address, port. Raises ValueError that names the option of one that cannot
    be had."""
    options: dict[int, str] = {}
    for option, host, port in wanted:
        if port in options:
            raise ValueError(f"{options[port]} and {option} are both {port}")
        options[port] = option
        try:
            _listen(host, port)
        except OSError as error:
            raise ValueError(f"{option} {port} at {host}: {error.strerror or error}") from error


def _listen(host: str, port: int) -> None:
    """Takes the port and gives it back. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(1)
