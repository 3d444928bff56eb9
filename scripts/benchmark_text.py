#!/usr/bin/env python3
"""What text costs: milliseconds of a prompt in preprocessing, microseconds of a streamed chunk in
postprocessing, as processor time of one thread, without a server (benchmark_server.py --stages has
Triton's share).

A prompt's words are known when it comes again; "new" are prompts that come for the first time.

Tokenizers of every kind that the tests know (tests/python/text/text_tokenizers.py), trained here on the
text of Python's own documentation, since none can be had without a network. Each figure is the least of
many repeats: what it takes when nobody else is on the core.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # of tokenizers: the cost of one core
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "python_model"), str(ROOT / "tests" / "python" / "text")]

import numpy as np  # noqa: E402
from inflight.serving.postprocess import Postprocessor  # noqa: E402
from inflight.serving.preprocess import Preprocessor  # noqa: E402
from inflight.text.tokenizer import Tokenizer  # noqa: E402
from text_tokenizers import BUILDERS  # noqa: E402

VOCAB_SIZE = 16_000
CHUNK_LIMIT_US = 50
PROMPT_LIMIT_MS = 1.0


def documentation() -> list[str]:
    """English prose that every Python brings: its language reference, some 700 kB."""
    return [line for text in topics.values() for line in text.splitlines()]


def beginning(tokenizer: Tokenizer, text: str, num_tokens: int) -> str:
    """The shortest that has so many tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.encode(text[:middle])) < num_tokens:
            low = middle + 1
        else:
            high = middle
    return text[:low]


def cpu_us(call: Callable[[], object]) -> float:
    begin = time.process_time_ns()
    call()
    return (time.process_time_ns() - begin) / 1e3


def prompt_us(tokenizer: Tokenizer, text: str, repeats: int) -> tuple[float, float, float]:
    """(with a stop and a bad word, without, the library's part) of a whole preprocessing call."""
    preprocessor = Preprocessor(tokenizer)
    bare = {
        "QUERY": np.array([[text.encode()]], object),
        "REQUEST_OUTPUT_LEN": np.array([[100]], np.int32),
    }
    words = {
        "STOP_WORDS_DICT": np.array([[b"User:"]], object),
        "BAD_WORDS_DICT": np.array([[b"import"]], object),
    }
    calls = (
        lambda: preprocessor.process({**bare, **words}),
        lambda: preprocessor.process(bare),
        lambda: tokenizer._tokenizer.encode_batch_fast([text]),
    )
    turns = [[cpu_us(call) for call in calls] for _ in range(repeats)]
    return tuple(map(min, zip(*turns, strict=True)))


def new_prompt_us(tokenizer: Tokenizer, text: str, size: int, repeats: int) -> tuple[float, float]:
    """(whole, the library's part) for 1,000 tokens of prompts never met before, each of so many
    characters of the text's second half, in a process that has read the first: mean over the prompts,
    each the least of some repeats that know no more of it."""
    preprocessor = Preprocessor(tokenizer)
    words = tokenizer._words
    prompts = [text[at : at + size] for at in range(0, len(text) - size + 1, size)]
    half = len(prompts) // 2
    for prompt in prompts[:half]:
        tokenizer.encode(prompt)
    times = []
    for prompt in prompts[half:]:
        inputs = {
            "QUERY": np.array([[prompt.encode()]], object),
            "REQUEST_OUTPUT_LEN": np.array([[100]], np.int32),
        }
        known = (dict(words._ids), words._num_characters) if words is not None else None
        turns = []
        for _ in range(repeats):
            if known is not None:
                words._ids, words._num_characters = dict(known[0]), known[1]
            whole = cpu_us(lambda: preprocessor.process(inputs))  # noqa: B023
            library = cpu_us(lambda: tokenizer._tokenizer.encode_batch_fast([prompt]))  # noqa: B023
            turns.append((whole, library))
        num_tokens = len(tokenizer.encode(prompt))
        times.append([min(column) * 1000 / num_tokens for column in zip(*turns, strict=True)])
    return tuple(np.mean(times, axis=0))


def chunk_us(tokenizer: Tokenizer, ids: list[int], repeats: int) -> tuple[float, float]:
    """Mean and 99th percentile over the one-id chunks of an answer with a stop word, each the least of
    some passes."""
    context = np.frombuffer(json.dumps({"stop": ["\nUser:"]}).encode(), np.uint8)[None]
    length = np.ones((1, 1), np.int32)
    chunks = [
        {
            "TOKENS_BATCH": np.array([[[id]]], np.int32),
            "SEQUENCE_LENGTH": length,
            "TEXT_CONTEXT": context,
            "PREVIOUS_IDS": np.array([ids[:at]], np.int32),
            "RESPONSE_STATE": np.array([[1 << 32, 0, 1]], np.int64),
        }
        for at, id in enumerate(ids)
    ]
    passes = []
    for _ in range(repeats):
        postprocessor = Postprocessor(tokenizer)
        passes.append([cpu_us(lambda: postprocessor.process(chunk)) for chunk in chunks])  # noqa: B023
    least = np.min(passes, axis=0)
    return float(least.mean()), float(np.percentile(least, 99))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--chunks", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=300, help="of a prompt")
    parser.add_argument("--passes", type=int, default=10, help="of an answer's chunks")
    parser.add_argument("--kinds", default="", help="only those whose names hold one of a,b,…")
    parser.add_argument("--tokenizer", action="append", help="a folder, beside those trained here")
    arguments = parser.parse_args()

    lines = documentation()
    sources: dict[str, Callable[[], Tokenizer]] = {
        name: lambda build=build: Tokenizer(build(lines, VOCAB_SIZE), {}, None)
        for name, build in BUILDERS.items()
        if any(part in name for part in arguments.kinds.split(","))
    }
    for folder in arguments.tokenizer or ():
        sources[folder] = lambda folder=folder: Tokenizer.load(folder)
    text = "\n".join(lines)[:100_000]
    columns = ("characters", "prompt", "no words", "library", "new", "library", "chunk", "99 %")
    print(f"{'tokenizer':24}" + "".join(f"{column:>12}" for column in columns))
    slow = []
    for name, load in sources.items():
        tokenizer = load()
        prompt = beginning(tokenizer, text, arguments.prompt_tokens)
        whole, bare, library = prompt_us(tokenizer, prompt, arguments.repeats)
        ids = tokenizer.encode(text)[: arguments.chunks]
        chunk, high = chunk_us(tokenizer, ids, arguments.passes)
        new = new_prompt_us(tokenizer, "\n".join(lines)[:300_000], len(prompt), arguments.passes)
        prompts = "".join(f"{us / 1e3:9.2f} ms" for us in (whole, bare, library, *new))
        print(f"{name:24}{len(prompt):12}{prompts}{chunk:9.1f} us{high:9.1f} us", flush=True)
        if max(whole, new[0]) > PROMPT_LIMIT_MS * 1e3 or chunk > CHUNK_LIMIT_US:
            slow.append(name)
    if slow:
        print(f"slower than {PROMPT_LIMIT_MS} ms or {CHUNK_LIMIT_US} us: {', '.join(slow)}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
