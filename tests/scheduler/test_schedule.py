"""One step: the policies by literals, then any state against the model in Python."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight._core import InternalError, InvalidArgumentError, scheduler
from scheduler_model import Config, Part, SequenceModel, expected_step, parts_of, schedule

ROOMY = Config(tokens_per_block=4, num_blocks=100, max_batch_size=8, max_num_tokens=16)


def generating(id: int, num_computed: int = 5, max_total_len: int = 20) -> SequenceModel:
    return SequenceModel(id, prompt_len=3, max_total_len=max_total_len, num_computed=num_computed)


def new(id: int, prompt_len: int, num_output: int = 4, priority: int = 0) -> SequenceModel:
    return SequenceModel(id, prompt_len, prompt_len + num_output, priority)


def test_nothing_to_do_is_an_empty_step():
    step = schedule([], [], ROOMY)
    assert step.is_empty() and step.num_tokens == 0


def test_generating_first_then_prompts():
    reading = SequenceModel(1, prompt_len=10, max_total_len=12, num_computed=8)
    step = schedule([reading, generating(2), generating(3, 9)], [new(4, 3)], ROOMY)
    assert parts_of(step) == [
        Part(2, 5, 1, False, False),
        Part(3, 9, 1, False, False),
        Part(1, 8, 2, True, True),
        Part(4, 0, 3, True, True),
    ]
    assert [part.index for part in step.sequences] == [1, 2, 0, 3]
    assert (step.num_tokens, step.num_generating, step.num_admitted) == (7, 2, 1)
    assert (
        repr(step)
        == "step of 7 tokens, 1 admitted: 2@5 3@9 1@8+2(prompt, last) 4@0+3(prompt, last)"
    )
    assert all(part.makes_token() for part in step.sequences)


def test_chunks_end_at_block_borders():
    step = schedule([generating(1), generating(2)], [new(3, 30)], ROOMY)
    # 14 tokens are left, three blocks of 4 fit.
    assert parts_of(step)[2:] == [Part(3, 0, 12, True, False)]
    assert not step.sequences[2].makes_token()


def test_chunk_after_a_part_full_block_reaches_the_next_border():
    reading = SequenceModel(1, prompt_len=50, max_total_len=60, num_computed=6)
    assert parts_of(schedule([reading], [], ROOMY)) == [Part(1, 6, 14, True, False)]


def test_a_step_too_small_for_a_border_still_moves_on():
    narrow = Config(tokens_per_block=32, num_blocks=100, max_batch_size=4, max_num_tokens=5)
    step = schedule([generating(1)], [new(2, 30), new(3, 2)], narrow)
    # Everything goes to the first prompt; the short one behind it does not overtake.
    assert parts_of(step) == [Part(1, 5, 1, False, False), Part(2, 0, 4, True, False)]
    assert step.num_admitted == 1


def test_second_prompt_does_not_begin_between_borders():
    step = schedule([], [new(1, 14), new(2, 9)], ROOMY)
    assert parts_of(step) == [Part(1, 0, 14, True, True)]
    assert step.num_admitted == 1


def test_whole_prompts_without_chunked_context():
    whole = Config(4, 100, max_batch_size=8, max_num_tokens=16, chunked=False)
    step = schedule([generating(1)], [new(2, 9), new(3, 7), new(4, 1)], whole)
    # 3 has 6 tokens left for its 7; 4 would fit and waits all the same.
    assert parts_of(step)[1:] == [Part(2, 0, 9, True, True)]
    assert step.num_admitted == 1


def test_admission_counts_the_worst_case_of_all():
    # Running: 20 tokens at most, 19 in the cache: 5 blocks. New: 5 at most, 4 in the cache: 1.
    for num_blocks, num_admitted in ((5, 0), (6, 1), (7, 2)):
        config = Config(4, num_blocks, max_batch_size=8, max_num_tokens=16)
        step = schedule([generating(1)], [new(2, 3, 2), new(3, 3, 2)], config)
        assert step.num_admitted == num_admitted


def test_small_one_does_not_overtake_one_that_does_not_fit():
    config = Config(4, 8, max_batch_size=8, max_num_tokens=16)
    step = schedule([generating(1)], [new(2, 3, 14), new(3, 1, 1)], config)
    assert parts_of(step) == [Part(1, 5, 1, False, False)]


def test_batch_size_limits_admission():
    config = Config(4, 100, max_batch_size=3, max_num_tokens=16)
    step = schedule([generating(1)], [new(2, 1), new(3, 1), new(4, 1)], config)
    assert [part.id for part in step.sequences] == [1, 2, 3]


def test_no_more_run_than_a_step_has_tokens():
    config = Config(4, 100, max_batch_size=8, max_num_tokens=2)
    assert config.limits().max_running() == 2
    step = schedule([generating(1)], [new(2, 1), new(3, 1)], config)
    assert [part.id for part in step.sequences] == [1, 2]


def test_larger_priority_reads_first():
    low = SequenceModel(1, prompt_len=40, max_total_len=44, priority=0, num_computed=4)
    same = SequenceModel(2, prompt_len=8, max_total_len=12, priority=5, num_computed=4)
    step = schedule([low, same], [new(3, 6, priority=9), new(4, 3, priority=5)], ROOMY)
    assert [(part.id, part.num_tokens) for part in step.sequences] == [(3, 6), (2, 4), (4, 3)]
    assert step.num_admitted == 2


def test_complete_sequence_runs_no_more():
    # 20 tokens at most: the 20th is made by position 18, position 19 never runs.
    assert schedule([generating(1, num_computed=19)], [], ROOMY).is_empty()
    assert not schedule([generating(1, num_computed=18)], [], ROOMY).is_empty()
    one_token = SequenceModel(1, prompt_len=3, max_total_len=4, num_computed=3)
    assert schedule([one_token], [], ROOMY).is_empty()


def test_the_place_of_a_complete_sequence_goes_to_another():
    config = Config(4, 100, max_batch_size=2, max_num_tokens=16)
    running = [generating(1, num_computed=19), generating(2)]
    step = schedule(running, [new(3, 2), new(4, 2)], config)
    assert [part.id for part in step.sequences] == [2, 3]


def with_logits(id: int, prompt_len: int, num_computed: int = 0) -> SequenceModel:
    return SequenceModel(
        id, prompt_len, prompt_len + 4, num_computed=num_computed, logits_of_prompt=True
    )


def test_a_prompt_with_logits_is_cut_by_the_rows_of_logits():
    step = schedule([generating(1), generating(2)], [with_logits(3, 30), new(4, 2)], ROOMY)
    # 6 of 8 rows are left, a block of 4 fits; it is the step's last.
    assert parts_of(step)[2:] == [Part(3, 0, 4, True, False)]
    assert [part.num_logits() for part in step.sequences] == [1, 1, 4]
    assert step.num_admitted == 1
    last = schedule([with_logits(3, 30, num_computed=24)], [], ROOMY)
    assert parts_of(last) == [Part(3, 24, 6, True, True)]
    assert last.sequences[0].logits_of_all and last.sequences[0].makes_token()


def test_a_prompt_with_logits_leaves_a_token_free():
    narrow = Config(tokens_per_block=4, num_blocks=100, max_batch_size=8, max_num_tokens=8)
    assert parts_of(schedule([], [with_logits(1, 8)], narrow)) == [Part(1, 0, 4, True, False)]
    one = Config(tokens_per_block=4, num_blocks=100, max_batch_size=8, max_num_tokens=1)
    assert parts_of(schedule([], [with_logits(1, 8)], one)) == [Part(1, 0, 1, True, False)]
    # A single row needs none, and others may follow it.
    step = schedule([], [with_logits(1, 1), new(2, 7)], narrow)
    assert parts_of(step) == [Part(1, 0, 1, True, True), Part(2, 0, 7, True, True)]


def test_a_prompt_with_logits_is_cut_without_chunked_context_too():
    whole = Config(4, 100, max_batch_size=8, max_num_tokens=64, chunked=False)
    assert parts_of(schedule([], [with_logits(1, 20)], whole)) == [Part(1, 0, 8, True, False)]


def test_prompts_find_no_row_of_logits_left():
    step = schedule([generating(i) for i in range(6)], [with_logits(7, 1), new(8, 3)], ROOMY)
    assert [part.id for part in step.sequences[6:]] == [7, 8]
    full = Config(4, 100, max_batch_size=7, max_num_tokens=16)
    step = schedule([generating(i) for i in range(5)], [with_logits(7, 30), new(8, 3)], full)
    assert parts_of(step)[5:] == [Part(7, 0, 2, True, False)]


def test_waiting_out_of_order_is_our_mistake():
    with pytest.raises(InternalError, match="sequence 2 waits behind one of lower priority"):
        schedule([], [new(1, 1, priority=1), new(2, 1, priority=2)], ROOMY)


@pytest.mark.parametrize(
    ("prompt_len", "max_total_len", "chunked", "message"),
    [
        (16, 401, True, None),
        (17, 20, True, None),
        (16, 20, False, None),
        (17, 20, False, "prompt of 17 tokens exceeds max_num_tokens 16 and chunked context is off"),
        (16, 402, True, "402 tokens need 101 KV cache blocks of 4 tokens, the cache has 100"),
        (0, 4, True, "prompt of 0 tokens: at least 1"),
        (4, 4, True, "at most 4 tokens leave no room for output after a prompt of 4"),
    ],
)
def test_door(prompt_len: int, max_total_len: int, chunked: bool, message: str | None):
    args = (prompt_len, max_total_len, scheduler.CacheView(4, 100, 0))
    limits = scheduler.Limits(8, 16, chunked)
    if message is None:
        scheduler.check_can_run(*args, limits)
    else:
        with pytest.raises(InvalidArgumentError, match=message):
            scheduler.check_can_run(*args, limits)


@pytest.mark.parametrize("name", ["max_batch_size", "max_num_tokens"])
def test_limits_are_positive(name: str):
    values = {"max_batch_size": 1, "max_num_tokens": 1} | {name: 0}
    with pytest.raises(InvalidArgumentError, match=f"{name} 0 < 1"):
        scheduler.Limits(**values)


@st.composite
def states(draw: st.DrawFn) -> tuple[list[SequenceModel], list[SequenceModel], Config]:
    tokens_per_block = draw(st.integers(1, 8))
    num_running = draw(st.integers(0, 6))
    max_running = draw(st.integers(max(num_running, 1), 8))

    def sequence(id: int, is_running: bool) -> SequenceModel:
        prompt_len = draw(st.integers(1, 30))
        max_total_len = prompt_len + draw(st.integers(1, 20))
        num_computed = draw(st.integers(0, max_total_len - 1)) if is_running else 0
        priority, wants_logits = draw(st.integers(-1, 2)), draw(st.integers(0, 3)) == 0
        return SequenceModel(id, prompt_len, max_total_len, priority, num_computed, wants_logits)

    running = [sequence(id, True) for id in range(num_running)]
    waiting = [sequence(100 + id, False) for id in range(draw(st.integers(0, 6)))]
    waiting.sort(key=lambda sequence: -sequence.priority)
    needed = sum(each.worst_blocks(tokens_per_block) for each in running)
    config = Config(
        tokens_per_block,
        num_blocks=needed + draw(st.integers(0, 40)),
        max_batch_size=max_running + draw(st.integers(0, 1)),
        max_num_tokens=max_running + draw(st.integers(0, 40)),
        chunked=draw(st.booleans()),
    )
    return running, waiting, config


@settings(max_examples=600, deadline=None)
@given(states())
def test_any_state_equals_the_model(state: tuple[list[SequenceModel], list[SequenceModel], Config]):
    running, waiting, config = state
    step = schedule(running, waiting, config)
    parts, num_admitted = expected_step(running, waiting, config)
    assert parts_of(step) == parts
    assert step.num_admitted == num_admitted
    assert step.num_generating == sum(not part.is_prompt_chunk for part in parts)
    num_logits = sum(part.num_logits() for part in step.sequences)
    assert num_logits <= config.max_batch_size
    if any(part.num_logits() > 1 for part in step.sequences):
        assert step.num_tokens < config.max_num_tokens
    assert step.num_tokens == sum(part.num_tokens for part in parts) <= config.max_num_tokens
    everybody = [*running, *waiting]
    assert [everybody[part.index].id for part in step.sequences] == [part.id for part in parts]
    assert step == schedule(running, waiting, config)
