"""Word lists as the backend reads them: ids of all words over their end offsets, [2, N] a row."""

from collections.abc import Sequence

import numpy as np


def pack_words(rows: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """Word lists of a batch (rows of words of ids) -> int32 [B, 2, N].

    Row 0 of each holds the ids one word after another, padded with 0; row 1 the running end
    offsets, padded with -1.
    """
    length = max(1, max((sum(map(len, words)) for words in rows), default=0))
    packed = np.zeros((len(rows), 2, length), np.int32)
    packed[:, 1, :] = -1
    for row, words in zip(packed, rows, strict=True):
        ids = [token for word in words for token in word]
        row[0, : len(ids)] = ids
        row[1, : len(words)] = np.cumsum([len(word) for word in words])
    return packed


def no_words(batch_size: int) -> np.ndarray:
    return np.zeros((batch_size, 2, 0), np.int32)
