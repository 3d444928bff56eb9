"""What the backend finds in its page: backend/triton/receipts.h."""

import struct
from pathlib import Path

import pytest
from inflight.serving import receipts
from inflight.serving.receipts import Receipts

NUMBER = 0x1A2B


def page(folder: Path, number: int = NUMBER, slots: int = 8) -> Path:
    path = folder / f"inflight-{number:x}"
    path.write_bytes(bytes(8 * slots))
    return path


def test_slots_by_the_requests_number(tmp_path: Path) -> None:
    path = page(tmp_path)
    told = Receipts(tmp_path)
    told.tell(NUMBER << 32 | 3, 1)
    told.tell(NUMBER << 32 | 13, 700)
    told.tell(NUMBER << 32 | 3, 2)
    told.tell(NUMBER << 32 | 0xFFFFFFFF, 9)
    slots = struct.unpack("<8Q", path.read_bytes())
    assert slots == (0, 0, 0, 3 << 32 | 2, 0, 13 << 32 | 700, 0, 0xFFFFFFFF << 32 | 9)


def test_no_page_is_no_error(tmp_path: Path) -> None:
    page(tmp_path, slots=0)
    Receipts(tmp_path).tell(NUMBER << 32 | 3, 1)
    Receipts(tmp_path).tell(7 << 32 | 3, 1)


def test_engines_come_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "_MAX_OPEN", 2)
    paths = [page(tmp_path, number) for number in range(1, 5)]
    told = Receipts(tmp_path)
    for turn in (1, 2):
        for number in range(1, 5):
            told.tell(number << 32 | 1, turn)
    assert [struct.unpack_from("<Q", path.read_bytes(), 8)[0] & 0xFF for path in paths] == [2] * 4
