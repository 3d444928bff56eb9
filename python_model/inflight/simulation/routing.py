"""Which replica gets a request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np

from inflight._core.simulation import Trace

# Columns of Fleet.loads().
WAITING, RUNNING, PROMPT_TOKENS, CONTEXT_TOKENS = range(4)


class Router(Protocol):
    looks_at_load: bool  # False: `choose` may be called ahead of time, with loads of zeros

    def choose(self, request: int, loads: np.ndarray) -> int:
        """`loads` as Fleet.loads() when the request arrives."""


class RoundRobin:
    looks_at_load = False

    def __init__(self, trace: Trace, num_replicas: int, cache_tokens: int):
        self._num_replicas = num_replicas

    def choose(self, request: int, loads: np.ndarray) -> int:
        return request % self._num_replicas


class LeastLoaded:
    """Fewest requests; among equals fewest prompt tokens still to read, then the first."""

    looks_at_load = True

    def __init__(self, trace: Trace, num_replicas: int, cache_tokens: int):
        pass

    def choose(self, request: int, loads: np.ndarray) -> int:
        counts = loads[:, WAITING] + loads[:, RUNNING]
        return int(np.lexsort((loads[:, PROMPT_TOKENS], counts))[0])


class PrefixAware:
    """To where most of the prompt probably lies in the cache, weighed against load.

    The router keeps an approximate index of what it sent where, without asking the replicas: pieces
    of prompts, forgotten by age when there are more than the replica's cache holds. That is the
    idea of SGLang's cache-aware router (an approximate tree for each worker; Zheng et al., 2024)
    and of Preble (Srivatsa et al., 2024). What is weighed is a sum as Dynamo's: prompt tokens that
    would have to be computed, those ahead in the queue included, and tokens of context that the
    replica already serves, whose keys every step reads."""

    looks_at_load = True
    PIECE = 128  # tokens
    # An 8B on an H200 reads a token's keys 650 times as fast as it computes a token; what runs has
    # some fifty to a hundred steps to go.
    CONTEXT_WEIGHT = 0.1

    def __init__(self, trace: Trace, num_replicas: int, cache_tokens: int):
        self._trace = trace
        self._holders: dict[int, int] = {}  # hash of a prefix -> replicas, a bit each
        self._pieces: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(num_replicas)]
        self._most_pieces = max(1, cache_tokens // self.PIECE)

    def choose(self, request: int, loads: np.ndarray) -> int:
        hashes = self._trace.prefix_hashes(request, self.PIECE)
        matched = self._matched(hashes)
        costs = loads[:, PROMPT_TOKENS] - matched + self.CONTEXT_WEIGHT * loads[:, CONTEXT_TOKENS]
        # Among equals the least busy, then the first.
        chosen = int(np.lexsort((loads[:, WAITING] + loads[:, RUNNING], costs))[0])
        self._sent(hashes, chosen)
        return chosen

    def _matched(self, hashes: list[int]) -> np.ndarray:
        """Tokens of the prompt that each replica probably has."""
        matched = np.zeros(len(self._pieces), np.int64)
        holders = (1 << len(self._pieces)) - 1
        for depth, hashed in enumerate(hashes):
            still = holders & self._holders.get(hashed, 0)
            self._set(matched, holders & ~still, depth)
            holders = still
            if not holders:
                return matched
        self._set(matched, holders, len(hashes))
        return matched

    def _set(self, matched: np.ndarray, replicas: int, depth: int) -> None:
        while depth and replicas:
            lowest = replicas & -replicas
            matched[lowest.bit_length() - 1] = depth * self.PIECE
            replicas ^= lowest

    def _sent(self, hashes: list[int], replica: int) -> None:
        pieces, bit = self._pieces[replica], 1 << replica
        # The prompt's end first: it is forgotten before what it stands on.
        for hashed in reversed(hashes):
            if hashed in pieces:
                pieces.move_to_end(hashed)
            else:
                pieces[hashed] = None
                self._holders[hashed] = self._holders.get(hashed, 0) | bit
        while len(pieces) > self._most_pieces:
            hashed, _ = pieces.popitem(last=False)
            self._holders[hashed] &= ~bit
            if not self._holders[hashed]:
                del self._holders[hashed]


ROUTERS: dict[str, Callable[[Trace, int, int], Router]] = {
    "round-robin": RoundRobin,
    "least-loaded": LeastLoaded,
    "prefix-aware": PrefixAware,
}
