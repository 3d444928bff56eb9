"""What a step must be, in the plainest Python: searched for instead of computed."""

from dataclasses import dataclass

from inflight._core import scheduler


@dataclass
class SequenceModel:
    id: int
    prompt_len: int
    max_total_len: int
    priority: int = 0
    num_computed: int = 0
    logits_of_prompt: bool = False

    def num_blocks(self, tokens_per_block: int) -> int:
        return len({position // tokens_per_block for position in range(self.num_computed)})

    def worst_blocks(self, tokens_per_block: int) -> int:
        """The last token is never run, so it never needs a slot."""
        return len({p // tokens_per_block for p in range(self.max_total_len - 1)})

    def view(self, tokens_per_block: int) -> scheduler.SequenceView:
        return scheduler.SequenceView(
            self.id,
            prompt_len=self.prompt_len,
            max_total_len=self.max_total_len,
            num_computed=self.num_computed,
            num_blocks=self.num_blocks(tokens_per_block),
            priority=self.priority,
            logits_of_prompt=self.logits_of_prompt,
        )


@dataclass(frozen=True)
class Part:
    id: int
    first_position: int
    num_tokens: int
    is_prompt_chunk: bool
    is_last_chunk: bool


@dataclass(frozen=True)
class Config:
    tokens_per_block: int
    num_blocks: int
    max_batch_size: int
    max_num_tokens: int
    chunked: bool = True

    def limits(self) -> scheduler.Limits:
        return scheduler.Limits(self.max_batch_size, self.max_num_tokens, self.chunked)

    def can_run(self, sequence: SequenceModel) -> bool:
        fits = sequence.worst_blocks(self.tokens_per_block) <= self.num_blocks
        return fits and (self.chunked or sequence.prompt_len <= self.max_num_tokens)


def expected_step(
    running: list[SequenceModel], waiting: list[SequenceModel], config: Config
) -> tuple[list[Part], int]:
    """The parts in order, and how many of the waiting are admitted."""
    left = config.max_num_tokens
    logits_left = config.max_batch_size
    parts: list[Part] = []
    for sequence in running:
        ran_all = sequence.num_computed >= sequence.max_total_len - 1
        if sequence.num_computed >= sequence.prompt_len and not ran_all:
            parts.append(Part(sequence.id, sequence.num_computed, 1, False, False))
            left -= 1
            logits_left -= 1

    may_hold_cache: list[SequenceModel] = []
    for sequence in waiting:
        together = [*running, *may_hold_cache, sequence]
        worst = sum(each.worst_blocks(config.tokens_per_block) for each in together)
        going_on = [each for each in together if each.num_computed < each.max_total_len - 1]
        too_many = len(going_on) > min(config.max_batch_size, config.max_num_tokens)
        if worst > config.num_blocks or too_many:
            break
        may_hold_cache.append(sequence)

    reading = [sequence for sequence in running if sequence.num_computed < sequence.prompt_len]
    in_order = sorted([*reading, *may_hold_cache], key=lambda sequence: -sequence.priority)
    num_admitted = 0
    is_first = True
    for sequence in in_order:
        if logits_left == 0:
            break
        most = left
        if sequence.logits_of_prompt:  # a row of logits a token; several leave a token free
            most = max((n for n in range(1, left + 1) if n == 1 or n <= left - 1), default=0)
            most = min(most, logits_left)
        may_be_cut = config.chunked or sequence.logits_of_prompt
        remaining = sequence.prompt_len - sequence.num_computed
        possible = [
            count
            for count in range(1, min(most, remaining) + 1)
            if count == remaining
            or (may_be_cut and (sequence.num_computed + count) % config.tokens_per_block == 0)
        ]
        if not possible and may_be_cut and is_first and left > 0:
            possible = [most]
        if not possible:
            break
        count = max(possible)
        parts.append(Part(sequence.id, sequence.num_computed, count, True, count == remaining))
        left -= count
        is_first = False
        num_admitted += sequence in may_hold_cache
        logits_left -= count if sequence.logits_of_prompt else 1
        if sequence.logits_of_prompt and count > 1:
            break
    return parts, num_admitted


def schedule(
    running: list[SequenceModel], waiting: list[SequenceModel], config: Config
) -> scheduler.Step:
    size = config.tokens_per_block
    used = sum(sequence.num_blocks(size) for sequence in running)
    return scheduler.schedule(
        [sequence.view(size) for sequence in running],
        [sequence.view(size) for sequence in waiting],
        scheduler.CacheView(size, config.num_blocks, config.num_blocks - used),
        config.limits(),
    )


def parts_of(step: scheduler.Step) -> list[Part]:
    return [
        Part(p.id, p.first_position, p.num_tokens, p.is_prompt_chunk, p.is_last_chunk)
        for p in step.sequences
    ]
