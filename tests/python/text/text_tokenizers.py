"""Tokenizers of every kind a checkpoint may bring, trained here: small ones, or on what text and to what
vocabulary is asked for. No files, no network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer",
    "the slings and arrows of outrageous fortune, or to take arms against a sea of troubles",
    "naïve café, Straße, 东京は夜の七時, привет мир, नमस्ते, 😀👍🏽 and 👨‍👩‍👧",
    "def main():\n\tprint('a  b')\n    return  0\n",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
Texts = Sequence[str]


def byte_level(corpus: Texts = CORPUS, vocab_size: int = 400) -> tokenizers.Tokenizer:
    """As GPT-2, Llama 3, Qwen."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        show_progress=False,
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(["<tool>", "日本"])
    return tokenizer


def byte_level_with_prefix(corpus: Texts = CORPUS, vocab_size: int = 400) -> tokenizers.Tokenizer:
    """As RoBERTa, and GPT-2 and Falcon with add_prefix_space."""
    tokenizer = byte_level(corpus, vocab_size)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def split_by(pattern: str):
    """Byte-level with a pattern of its own, as newer models have."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama_3_like(corpus: Texts = CORPUS, vocab_size: int = 400) -> tokenizers.Tokenizer:
    """Its pattern; special tokens for turns of a chat, and one that is not ASCII."""
    tokenizer = byte_level(corpus, vocab_size)
    tokenizer.pre_tokenizer = split_by(LLAMA_3_PATTERN)
    tokenizer.add_special_tokens(
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<｜end｜>"]
    )
    return with_begin_token(tokenizer)


def byte_fallback(
    corpus: Texts = CORPUS[:2], vocab_size: int = 420, strips_first_blank: bool = True
) -> tokenizers.Tokenizer:
    """As Llama 2, Mistral, TinyLlama (which strip the first blank) and Gemma (which does not)."""
    tokenizer = tokenizers.Tokenizer(
        models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    )
    replace = normalizers.Replace(" ", "▁")
    if strips_first_blank:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    else:
        tokenizer.normalizer = replace
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if strips_first_blank:
        stages.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(stages)
    # Words as units while training; a merge across words would make whole sentences tokens.
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        show_progress=False,
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz▁"),
        limit_alphabet=40,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.pre_tokenizer = None
    # Byte tokens are ordinary ones in real checkpoints, not special ones.
    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [
        token for token in description["added_tokens"] if not token["content"].startswith("<0x")
    ]
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def gemma_like(corpus: Texts = CORPUS[:2], vocab_size: int = 420) -> tokenizers.Tokenizer:
    return byte_fallback(corpus, vocab_size, strips_first_blank=False)


def metaspace(corpus: Texts = CORPUS * 5, vocab_size: int = 300) -> tokenizers.Tokenizer:
    """As T5 and older conversions of SentencePiece unigram models."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def word_level(corpus: Texts = CORPUS, vocab_size: int = 30_000) -> tokenizers.Tokenizer:
    """No decoder: the library puts blanks between tokens."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(["<tool>"])
    return tokenizer


def characters(corpus: Texts = CORPUS, vocab_size: int = 400) -> tokenizers.Tokenizer:
    """A token a character, one after another."""
    common = [character for character, _ in Counter("".join(corpus)).most_common()]
    known = sorted(common[: vocab_size - len(SPECIAL)])
    vocab = {token: id for id, token in enumerate([*SPECIAL, *known])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def word_piece(corpus: Texts = CORPUS, vocab_size: int = 300) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def word_suffix(corpus: Texts = CORPUS, vocab_size: int = 300) -> tokenizers.Tokenizer:
    """BPE whose tokens end words: the blank after a token shows only with the next one."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def with_begin_token(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def by_transformers(name: str, source: Callable[..., tokenizers.Tokenizer], **options):
    """A class of transformers over a trained vocabulary: its normaliser, its decoder."""

    def build(*corpus_and_size) -> tokenizers.Tokenizer:
        import transformers

        model = json.loads(source(*corpus_and_size).to_str())["model"]
        parts = {"vocab": model["vocab"]}
        if "merges" in model:
            parts["merges"] = [tuple(pair) for pair in model["merges"]]
        elif model["type"] == "Unigram":
            parts["vocab"] = [(token, score) for token, score in model["vocab"]]
        made = getattr(transformers, name)(**parts, **options)
        made.add_tokens(["<tool>"])
        made.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
        return made.backend_tokenizer

    return build


BUILDERS = {
    builder.__name__: builder
    for builder in (
        byte_level,
        byte_level_with_prefix,
        llama_3_like,
        byte_fallback,
        gemma_like,
        metaspace,
        word_piece,
        word_level,
        characters,
        word_suffix,
    )
} | {
    "GPT2Tokenizer": by_transformers("GPT2Tokenizer", byte_level, add_prefix_space=True),
    "LlamaTokenizer": by_transformers("LlamaTokenizer", byte_fallback),
    "GemmaTokenizer": by_transformers("GemmaTokenizer", gemma_like),
    "T5Tokenizer": by_transformers("T5Tokenizer", metaspace),
    "BertTokenizer": by_transformers("BertTokenizer", word_piece, unk_token="<unk>"),
    "OpenAIGPTTokenizer": by_transformers("OpenAIGPTTokenizer", word_suffix),
}
