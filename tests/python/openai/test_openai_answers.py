"""The bodies of answers, where clients could not tell a wrong one from the model's words."""

from types import SimpleNamespace

from inflight.openai.answers import ChatFormat, CompletionFormat
from inflight.openai.choice import Delta, TokenLogProb

HALF = TokenLogProb("\ufffd", b"\xf0\x9f", -1.0, [TokenLogProb("\ufffd", b"\x80", -0.5)])
GENERATION = SimpleNamespace(
    usage={"total_tokens": 3}, choices=[SimpleNamespace(echo=lambda: "ab")]
)


def test_a_token_that_is_half_a_character_has_its_bytes() -> None:
    format = ChatFormat(GENERATION, {"id": "x"}, False, True)
    (choice,) = format.whole([Delta("", [HALF], "length")])["choices"]
    (token,) = choice["logprobs"]["content"]
    assert (token["token"], token["bytes"]) == ("\ufffd", [0xF0, 0x9F])
    assert token["top_logprobs"] == [{"token": "\ufffd", "logprob": -0.5, "bytes": [0x80]}]


def test_offsets_count_characters_behind_an_echo() -> None:
    format = CompletionFormat(GENERATION, {"id": "x"}, False, True)
    tokens = [TokenLogProb(text, text.encode(), -1.0) for text in ("é", "cd", "e")]
    (choice,) = format.whole([Delta("écde", tokens, "stop")])["choices"]
    assert choice["text"] == "abécde"
    assert choice["logprobs"]["text_offset"] == [2, 3, 5]
