"""A reader that turns the engine's one queue of parts into answers, and the tiny model's shape."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflight import _core

TINY: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


@dataclass
class Answer:
    """All parts of one request, joined."""

    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_parts: int = 0
    num_finals: int = 0
    finish_reason: str = "none"
    error: Exception | None = None
    first_token: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


class Client:
    """An engine and the one thread that reads its parts."""

    def __init__(self, engine_dir: Path, **settings: Any) -> None:
        settings = {"num_threads": 1, "check_invariants": True} | settings
        self.engine = _core.Engine(str(engine_dir), **settings)
        self._answers: dict[int, Answer] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while (parts := self.engine.next_responses()) is not None:
            for part in parts:
                answer = self._answers[part.tag]
                answer.token_ids += part.token_ids
                answer.log_probs += [each.chosen for each in part.log_probs]
                answer.num_parts += 1
                if answer.token_ids:
                    answer.first_token.set()
                if part.is_final:
                    answer.num_finals += 1
                    answer.finish_reason = part.finish_reason
                    answer.error = part.error
                    answer.done.set()

    def submit(self, input_ids: list[int], **parameters: Any) -> tuple[int, Answer]:
        answer = Answer()
        self._answers[id(answer)] = answer
        try:
            return self.engine.submit(input_ids, tag=id(answer), **parameters), answer
        except Exception:
            del self._answers[id(answer)]
            raise

    def forget(self) -> None:
        """Drops the answers that are done."""
        self._answers = {tag: one for tag, one in self._answers.items() if not one.done.is_set()}

    def generate(self, input_ids: list[int], **parameters: Any) -> Answer:
        _, answer = self.submit(input_ids, **parameters)
        assert answer.done.wait(60)
        return answer

    def assert_all_free(self) -> None:
        stats = self.engine.stats()
        # On a GPU a step in flight may name a sequence whose ending came from the step before.
        deadline = time.monotonic() + (5 if self.engine.info.device != "cpu" else 0)
        while stats.used_blocks > 0 and time.monotonic() < deadline:
            time.sleep(0.001)
            stats = self.engine.stats()
        assert stats.active_requests == stats.running_requests == stats.waiting_requests == 0
        assert stats.used_blocks == 0
        assert stats.free_blocks == stats.max_blocks == self.engine.info.num_blocks

    def close(self) -> None:
        self.engine.close()
        self._reader.join(60)
        assert not self._reader.is_alive()
