"""What copies may overlap: any order that the phases allow gives what the list means."""

from hypothesis import given
from hypothesis import strategies as st
from inflight._core import kv_cache

Place = tuple[str, int]
Copy = tuple[Place, Place, int]
PLACES = st.tuples(st.sampled_from(["device", "host"]), st.integers(0, 4))
COPIES = st.tuples(PLACES, PLACES, st.just(1)).filter(
    lambda copy: copy[0] != copy[1] and not copy[0][0] == copy[1][0] == "host"
)


def run(copies: list[Copy]) -> dict[Place, Place]:
    """Whose first contents each place has in the end."""
    held: dict[Place, Place] = {}
    for source, target, _ in copies:
        held[target] = held.get(source, source)
    return {place: origin for place, origin in held.items() if place != origin}


@given(st.lists(COPIES, max_size=12))
def test_phases_mean_what_the_list_means(copies: list[Copy]) -> None:
    phases = kv_cache.copy_phases(copies)
    for flip in (False, True):
        order: list[Copy] = []
        for between_tiers, on_device in phases:
            order += between_tiers
            order += reversed(on_device) if flip else on_device
        assert sorted(order) == sorted(copies)
        assert run(order) == run(copies)
    for between_tiers, on_device in phases:
        assert all(source[0] != target[0] for source, target, _ in between_tiers)
        written = [target for _, target, _ in on_device]
        assert len(set(written)) == len(written)  # they may overlap, not only change places
        assert not set(written) & {source for source, _, _ in on_device}


def test_what_is_apart_is_one_phase() -> None:
    """Partial blocks taken by copy between evictions and blocks that come back: all overlap."""
    copies = [
        (("device", 0), ("device", 1), 1),
        (("device", 2), ("host", 0), 1),
        (("host", 1), ("device", 2), 1),
        (("device", 3), ("device", 4), 1),
        (("device", 0), ("host", 2), 1),  # read twice is no conflict
    ]
    [(between_tiers, on_device)] = kv_cache.copy_phases(copies)
    assert on_device == [copies[0], copies[3]]
    assert between_tiers == [copies[1], copies[2], copies[4]]


def test_a_conflict_begins_a_phase() -> None:
    read_then_filled = [(("device", 0), ("device", 1), 1), (("host", 0), ("device", 0), 1)]
    written_then_moved = [(("device", 0), ("device", 1), 1), (("device", 1), ("host", 0), 1)]
    chain = [(("device", 0), ("device", 1), 1), (("device", 1), ("device", 2), 1)]
    for copies in (read_then_filled, written_then_moved, chain):
        assert len(kv_cache.copy_phases(copies)) == 2
    assert kv_cache.copy_phases([]) == []
