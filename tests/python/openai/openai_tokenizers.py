"""Two tokenizers without files: byte-level, and SentencePiece-like with byte fallback."""

import tokenizers
from inflight.text.tokenizer import Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

_SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level() -> Tokenizer:
    tokens = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(_SPECIAL)
    return Tokenizer(raw, {"eos_token": "</s>"}, None)


def byte_fallback() -> Tokenizer:
    tokens = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [*"▁abcdefghijklmnopqrstuvwxyz,", "▁t", "▁to"]
    merges = [("▁", "t"), ("▁t", "o")]
    vocab = {token: id for id, token in enumerate(tokens)}
    raw = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*stages, decoders.Strip(" ", 1, 0)])
    raw.add_special_tokens(_SPECIAL)
    return Tokenizer(raw, {"eos_token": "</s>"}, None)
