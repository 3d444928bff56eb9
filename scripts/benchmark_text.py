#!/usr/bin/env python3
"""What text costs: microseconds of a streamed chunk in postprocessing, milliseconds of a prompt in
preprocessing, as processor time of one thread, without a server (benchmark_server.py has Triton's
share).

The tokenizers are trained here, on the text of Python's own documentation, to vocabularies of up to
16,000, since none can be had without a network.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # of tokenizers: the cost of one core
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python_model"))

import numpy as np  # noqa: E402
import tokenizers  # noqa: E402
from inflight.serving.postprocess import Postprocessor  # noqa: E402
from inflight.serving.preprocess import Preprocessor  # noqa: E402
from inflight.text.tokenizer import Tokenizer  # noqa: E402
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

VOCAB_SIZE = 16_000
CHUNK_LIMIT_US = 50
PROMPT_LIMIT_MS = 1.0


def documentation() -> list[str]:
    """English prose that every Python brings: its language reference, some 700 kB."""
    return [line for text in topics.values() for line in text.splitlines()]


def byte_level(texts: list[str]) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def byte_fallback(texts: list[str]) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.normalizer = prepend
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=["<unk>", *byte_tokens], show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def unigram(texts: list[str]) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCAB_SIZE // 2, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return raw


def word_piece(texts: list[str]) -> tokenizers.Tokenizer:
    raw = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=["<unk>"], show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    return raw


BUILDERS = {
    builder.__name__: builder for builder in (byte_level, byte_fallback, unigram, word_piece)
}


def median_of(times: list[float]) -> float:
    return statistics.median(times)


def prompt_ms(tokenizer: Tokenizer, text: str, repeats: int) -> tuple[float, float]:
    """Of a whole preprocessing call with a stop word and a bad word, and of the library's part."""
    preprocessor = Preprocessor(tokenizer)
    inputs = {
        "QUERY": np.array([[text.encode()]], object),
        "REQUEST_OUTPUT_LEN": np.array([[100]], np.int32),
        "STOP_WORDS_DICT": np.array([[b"User:"]], object),
        "BAD_WORDS_DICT": np.array([[b"import"]], object),
    }
    whole, library = [], []
    for _ in range(repeats):
        begin = time.process_time()
        preprocessor.process(inputs)
        middle = time.process_time()
        tokenizer._tokenizer.encode_batch_fast([text])
        whole.append(middle - begin)
        library.append(time.process_time() - middle)
    return median_of(whole) * 1e3, median_of(library) * 1e3


def chunk_us(tokenizer: Tokenizer, ids: list[int]) -> tuple[float, float]:
    """Median and 99th percentile over the one-id chunks of an answer with a stop word."""
    postprocessor = Postprocessor(tokenizer)
    context = np.frombuffer(json.dumps({"stop": ["\nUser:"]}).encode(), np.uint8)[None]
    times = []
    length = np.ones((1, 1), np.int32)
    for at, id in enumerate(ids):
        tokens = np.array([[[id]]], np.int32)
        previous = np.array([ids[:at]], np.int32)
        state = np.array([[1 << 32, 0, 1]], np.int64)
        inputs = {
            "TOKENS_BATCH": tokens,
            "SEQUENCE_LENGTH": length,
            "TEXT_CONTEXT": context,
            "PREVIOUS_IDS": previous,
            "RESPONSE_STATE": state,
        }
        begin = time.process_time()
        postprocessor.process(inputs)
        times.append(time.process_time() - begin)
    return median_of(times) * 1e6, float(np.percentile(times, 99)) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--tokenizer", action="append", help="a folder, beside those trained here")
    arguments = parser.parse_args()

    texts = documentation()
    sources: dict[str, Callable[[], Tokenizer]] = {
        name: lambda build=build: Tokenizer(build(texts), {}, None)
        for name, build in BUILDERS.items()
    }
    for folder in arguments.tokenizer or ():
        sources[folder] = lambda folder=folder: Tokenizer.load(folder)
    whole = "\n".join(texts)
    columns = ("prompt", "of it, library", "chunk, median", "chunk, 99 %")
    print(f"{'tokenizer':16}" + "".join(f"{column:>16}" for column in columns))
    slow = []
    for name, load in sources.items():
        tokenizer = load()
        ids = tokenizer.encode(whole[:400_000])
        prompt = tokenizer.decode(ids[: arguments.prompt_tokens])
        ms, library_ms = prompt_ms(tokenizer, prompt, arguments.repeats)
        median, high = chunk_us(tokenizer, ids[: arguments.chunks])
        figures = f"{ms:13.2f} ms{library_ms:13.2f} ms{median:13.1f} us{high:13.1f} us"
        print(f"{name:16}{figures}", flush=True)
        if ms > PROMPT_LIMIT_MS or median > CHUNK_LIMIT_US:
            slow.append(name)
    if slow:
        print(f"slower than {PROMPT_LIMIT_MS} ms or {CHUNK_LIMIT_US} us: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
