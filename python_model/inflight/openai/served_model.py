"""What the endpoint knows of the model behind it, read from the engine directory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from inflight.builder.engine_file import EngineFile
from inflight.text.tokenizer import Tokenizer

_LONG_TEXTS_AT_ONCE = 2


@dataclass(frozen=True)
class ServedModel:
    name: str  # as clients say it
    tokenizer: Tokenizer
    vocab_size: int  # of the logits
    max_seq_len: int  # prompt and answer together
    end_ids: tuple[int, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))
    # Held while a long text is tokenised, which takes 160 times its size of memory.
    long_texts: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_LONG_TEXTS_AT_ONCE), compare=False, repr=False
    )

    @classmethod
    def load(
        cls, engine_dir: str | Path, name: str = "", chat_template: str | Path | None = None
    ) -> ServedModel:
        """`name` defaults to the folder's. Raises FileNotFoundError without a tokenizer, ValueError
        for a chat template with errors of syntax."""
        folder = Path(engine_dir)
        engine = EngineFile.read(folder)
        tokenizer = Tokenizer.load(folder)
        if chat_template is not None:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
            _check_template(tokenizer, chat_template)
        end_ids = tuple(engine.model.eos_token_ids or ())
        if not end_ids and tokenizer.eos_token_id is not None:
            end_ids = (tokenizer.eos_token_id,)
        return cls(
            name=name or folder.resolve().name,
            tokenizer=tokenizer,
            vocab_size=engine.model.vocab_size,
            max_seq_len=engine.settings.max_seq_len,
            end_ids=end_ids,
        )

    def prepare(self) -> None:
        """Does once what would else make the first chat wait: imports, the template's compilation."""
        if self.tokenizer.chat_template is None:
            return
        with contextlib.suppress(ValueError):  # a template may want more than this
            self.tokenizer.apply_chat_template([{"role": "user", "content": ""}])


def _check_template(tokenizer: Tokenizer, file: str | Path) -> None:
    from jinja2 import TemplateSyntaxError

    try:
        tokenizer.apply_chat_template([{"role": "user", "content": ""}])
    except ValueError as error:  # it may want more than this
        if isinstance(error.__cause__, TemplateSyntaxError):
            line = error.__cause__.lineno
            raise ValueError(f"{file}, line {line}: {error.__cause__}") from error
