"""The tokenizer of an engine directory or checkpoint folder. Never touches the network.

Reads `tokenizer.json` with the `tokenizers` library alone, and as transformers 5 does: the file
alone says which tokens go around a text, and blanks are not cleaned up. Only folders without that
file, and chat templates, need `transformers` (imported then).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from inflight.text.detokenizer import Detokenizer, TokenTexts
from inflight.text.word_cache import WordCache

_MODEL_FILES = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


def has_tokenizer(folder: str | Path) -> bool:
    """Whether `Tokenizer.load` finds something to load."""
    return any((Path(folder) / name).is_file() for name in ("tokenizer.json", *_MODEL_FILES))


class Tokenizer:
    """Text to ids and back. Safe to use from several threads."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        config: dict[str, Any],
        chat_template: str | dict[str, str] | None,
    ) -> None:
        """Use `Tokenizer.load`. `config`: the content of tokenizer_config.json, {} without it;
        `chat_template`: Jinja text, or several by name ("default", "tool_use")."""
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        named = {name: _content(config.get(f"{name}_token")) for name in ("bos", "eos", "pad")}
        self.bos_token, self.eos_token, self.pad_token = (named[n] for n in ("bos", "eos", "pad"))
        special = [text for text in (*named.values(), _content(config.get("unk_token"))) if text]
        self._tokenizer.add_special_tokens(
            [text for text in special if self._tokenizer.token_to_id(text) is not None]
        )
        self.chat_template = chat_template
        self._named_tokens = {f"{name}_token": text for name, text in named.items() if text}
        self._texts = TokenTexts(self._tokenizer)
        self._words = WordCache.of(self._tokenizer)
        self._around = _special_tokens_around(self._tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Raises FileNotFoundError when the folder holds no tokenizer."""
        folder = Path(folder)
        config = _read_json(folder / "tokenizer_config.json")
        special_tokens = _read_json(folder / "special_tokens_map.json")
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            if config.get(name) is None and special_tokens.get(name) is not None:
                config[name] = special_tokens[name]
        if (folder / "tokenizer.json").is_file():
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            tokenizer = _load_with_transformers(folder)
            config = {
                k: v for k, v in config.items() if k not in ("add_bos_token", "add_eos_token")
            }
        return cls(tokenizer, config, _read_chat_template(folder, config))

    @classmethod
    def from_transformers(cls, tokenizer: Any) -> Tokenizer:
        """Of a fast tokenizer of `transformers`; later changes of it have no effect here."""
        backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        config = {name: getattr(tokenizer, name, None) for name in names}
        template = getattr(tokenizer, "chat_template", None)
        return cls(backend, config, template if isinstance(template, (str, dict)) else None)

    @property
    def vocab_size(self) -> int:
        """Ids are below it; a model's vocabulary may be padded beyond."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def bos_token_id(self) -> int | None:
        return self.token_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return self.token_id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        return self.token_id(self.pad_token)

    def token_id(self, token: str | None) -> int | None:
        return None if token is None else self._tokenizer.token_to_id(token)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.encode_batch([text], add_special_tokens)[0]

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Raises ValueError for a text with halves of UTF-16 pairs, which no encoding has."""
        try:
            return self._encode_batch(texts, add_special_tokens)
        except TypeError:
            for text in texts:
                _refuse_halves(text)
            raise

    def _encode_batch(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        ids = [self._encode_by_words(text, add_special_tokens) for text in texts]
        rest = [at for at, found in enumerate(ids) if found is None]
        # "Fast": without where in the text each token lies, a quarter of the time.
        encodings = self._tokenizer.encode_batch_fast(
            [texts[at] for at in rest], add_special_tokens=add_special_tokens
        )
        for at, encoding in zip(rest, encodings, strict=True):
            ids[at] = encoding.ids
        return ids

    def _encode_by_words(self, text: str, add_special_tokens: bool) -> list[int] | None:
        ids = self._words.encode(text) if self._words is not None else None
        if ids is None or not add_special_tokens:
            return ids
        before, after = self._around
        return [*before, *ids, *after]

    def detokenizer(
        self, context_ids: Sequence[int] = (), skip_special_tokens: bool = True
    ) -> Detokenizer:
        """A new stream of ids to text; see `Detokenizer` for what the context does."""
        return Detokenizer(self._texts, context_ids, skip_special_tokens)

    def token_bytes(self, id: int) -> bytes:
        """What an id says in the middle of a text, where it may be a part of a character; b"" of
        an id that is no token."""
        value = self._texts.of(id)
        return value if isinstance(value, bytes) else (value or "").encode()

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        stream = self.detokenizer(skip_special_tokens=skip_special_tokens)
        return stream.feed(ids) + stream.finish()

    def text_of(
        self,
        context_ids: Sequence[int],
        new_ids: Iterable[int],
        final: bool,
        skip_special_tokens: bool = True,
    ) -> str:
        """What a stream that has been fed `context_ids` tells next: a stateless `Detokenizer`.

        For chunks c1, c2, … cn of one answer, text_of([], c1, False) + text_of(c1, c2, False) + …
        + text_of(c1 + … , cn, True) == decode(c1 + … + cn); the time does not grow with the
        context.
        """
        stream = self.detokenizer(context_ids, skip_special_tokens)
        text = stream.feed(new_ids)
        return text + stream.finish() if final else text

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        template_arguments: dict[str, Any] | None = None,
        chat_template: str | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt of a conversation. It holds the special tokens already: encode it with
        `add_special_tokens=False`.

        Arguments:
        messages: dicts of "role" and "content", and whatever else the template knows.
        add_generation_prompt: end with what opens the model's turn.
        tools: JSON schemas of functions, for templates that list them.
        template_arguments: variables of the template beside those.
        chat_template: Jinja text, instead of the folder's own.
        continue_final_message: leave the last message open, so that the answer goes on with it.

        Raises ValueError when there is no chat template, and when the template refuses the messages
        or cannot be rendered with them.
        """
        template = chat_template or self._own_chat_template(with_tools=bool(tools))
        if add_generation_prompt and continue_final_message:
            raise ValueError(
                "a conversation ends with an open turn (add_generation_prompt) or with an open "
                "last message (continue_final_message), not with both"
            )
        if not messages:
            raise ValueError("a conversation needs at least one message, got none")
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered, _ = render_jinja_template(
                conversations=[list(messages)],
                tools=tools,
                chat_template=template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **{**self._named_tokens, **(template_arguments or {})},
            )
        except (TemplateError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"the chat template fails on these messages: {error}") from error
        return rendered[0]

    def _own_chat_template(self, with_tools: bool) -> str:
        if isinstance(self.chat_template, dict):
            for name in ("tool_use", "default") if with_tools else ("default",):
                if name in self.chat_template:
                    return self.chat_template[name]
            raise ValueError(
                "this tokenizer has no chat template named default, only "
                f"{', '.join(sorted(self.chat_template))}"
            )
        if self.chat_template is None:
            raise ValueError(
                "this tokenizer has no chat template (chat_template.jinja or the key "
                "chat_template of tokenizer_config.json)"
            )
        return self.chat_template


def _refuse_halves(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text is not Unicode: {text[error.start]!r} at character {error.start}"
        ) from error


def _special_tokens_around(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the library puts before and behind a text."""
    encoding = tokenizer.encode("a")
    mask = encoding.special_tokens_mask
    text = [at for at, is_special in enumerate(mask) if not is_special]
    if not text:
        return encoding.ids, []
    return encoding.ids[: text[0]], encoding.ids[text[-1] + 1 :]


def _content(token: Any) -> str | None:
    """A special token's text; the files hold a string, an object, or null."""
    return token.get("content") if isinstance(token, dict) else token


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_chat_template(folder: Path, config: dict[str, Any]) -> str | dict[str, str] | None:
    """The newest spelling first: files of their own, then the key (a text or a list of named)."""
    named = {
        path.stem: path.read_text(encoding="utf-8")
        for path in (folder / "additional_chat_templates").glob("*.jinja")
    }
    if (folder / "chat_template.jinja").is_file():
        default = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        return {"default": default, **named} if named else default
    template = _read_json(folder / "chat_template.json").get("chat_template")
    template = template or config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    return template


def _load_with_transformers(folder: Path) -> tokenizers.Tokenizer:
    if not has_tokenizer(folder):
        raise FileNotFoundError(
            f"no tokenizer in {folder}: neither tokenizer.json nor one of {', '.join(_MODEL_FILES)}"
        )
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
