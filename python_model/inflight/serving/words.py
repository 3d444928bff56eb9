"""Word lists as the backend reads them: ids of all words over their end offsets, [2, N] a row."""

from collections.abc import Sequence
from itertools import accumulate, chain

import numpy as np


def pack_words(rows: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """Word lists of a batch (rows of words of ids) -> int32 [B, 2, N].

    Row 0 of each holds the ids one word after another, padded with 0; row 1 the running end
    offsets, padded with -1.
    """
    length = max(1, max((sum(map(len, words)) for words in rows), default=0))
    # As lists: numpy's calls cost more than the few ids of a list.
    return np.array([_packed_row(words, length) for words in rows], np.int32).reshape(-1, 2, length)


def _packed_row(words: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    ids = [*chain.from_iterable(words)]
    ends = [*accumulate(map(len, words))]
    return [ids + [0] * (length - len(ids)), ends + [-1] * (length - len(ends))]


def no_words(batch_size: int) -> np.ndarray:
    return np.zeros((batch_size, 2, 0), np.int32)
