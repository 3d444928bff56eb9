"""Two small tokenizers, byte-level and with byte fallback, without training."""

from inflight.text.tokenizer import Tokenizer
from tokenizers import Tokenizer as Raw
from tokenizers import decoders, models, normalizers, pre_tokenizers

SPECIAL = ["<unk>", "<s>", "</s>"]


def _merged(characters: list[str], words: list[str]) -> tuple[dict[str, int], list]:
    """A vocabulary of the characters and of every beginning of the words, with its merges."""
    tokens = [*SPECIAL, *characters]
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    return {token: index for index, token in enumerate(tokens)}, merges


def _wrapped(raw: Raw) -> Tokenizer:
    raw.add_special_tokens(SPECIAL)
    return Tokenizer(raw, {"bos_token": "<s>", "eos_token": "</s>"}, None)


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = _merged(alphabet, ["Ġthe", "Ġstop", "stop", "ing", "Ġa", "END"])
    raw = Raw(models.BPE(vocab, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return _wrapped(raw)


def byte_fallback() -> Tokenizer:
    letters = [*"▁abcdefghijklmnopqrstuvwxyzSTOPEND.,!"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab, merges = _merged([*letters, *byte_tokens], ["▁the", "▁stop", "stop", "ing"])
    raw = Raw(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrapped(raw)


BUILDERS = {"byte_level": byte_level, "byte_fallback": byte_fallback}
