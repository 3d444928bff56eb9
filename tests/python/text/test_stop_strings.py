"""The incremental matcher against a brute-force search in the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight.text.stop_strings import StopStrings

alphabet = "ab"  # few letters, so that stop strings overlap themselves and each other
stops = st.lists(st.text(alphabet=alphabet, min_size=1, max_size=5), max_size=4)


def first_stop(text: str, stop: list[str]) -> str | None:
    """Grow the text a character at a time; the longest stop string it then ends with."""
    for end in range(1, len(text) + 1):
        found = [string for string in stop if text[:end].endswith(string)]
        if found:
            return text[:end], max(found, key=len)
    return None


@settings(max_examples=800, deadline=None)
@given(
    chunks=st.lists(st.text(alphabet=alphabet, max_size=6), max_size=12),
    stop=stops,
    include=st.booleans(),
)
def test_any_chunks(chunks: list[str], stop: list[str], include: bool):
    matcher = StopStrings(stop, include)
    told = "".join(matcher.feed(chunk) for chunk in chunks) + matcher.finish()
    found = first_stop("".join(chunks), stop)
    if found is None:
        assert told == "".join(chunks) and matcher.matched is None
    else:
        text, string = found
        assert told == (text if include else text[: -len(string)])
        assert matcher.matched == string


@settings(max_examples=400, deadline=None)
@given(text=st.text(alphabet=alphabet, max_size=20), stop=stops)
def test_nothing_is_told_too_early_nor_too_late(text: str, stop: list[str]):
    """After each character exactly what cannot be part of a stop string any more has been told."""
    matcher = StopStrings(stop)
    told = ""
    for end, character in enumerate(text, start=1):
        told += matcher.feed(character)
        if matcher.matched is not None:
            break
        starts = [start for start in range(end) if any(s.startswith(text[start:end]) for s in stop)]
        assert told == text[: min(starts, default=end)]


def test_text_after_the_match_is_dropped():
    matcher = StopStrings("###")
    assert matcher.feed("a#") == "a"
    assert matcher.feed("##b") == ""
    assert matcher.matched == "###"
    assert matcher.feed("more") == "" and matcher.finish() == ""


def test_a_false_start_is_told_later():
    matcher = StopStrings(["\nUser:"])
    assert matcher.feed("Hello\nUs") == "Hello"
    assert matcher.feed("ually") == "\nUsually"
    assert matcher.feed("\nU") == ""
    assert matcher.finish() == "\nU"


@pytest.mark.parametrize("stop", [[""], ["a", ""], [3]])
def test_stop_strings_must_be_texts(stop: list):
    with pytest.raises(ValueError, match="non-empty"):
        StopStrings(stop)
