"""The way of a request through the BLS, over an engine's model of canned answers."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight.serving.bls import Bls, Tensors
from inflight.serving.departures import Departures
from inflight.serving.postprocess import Postprocessor
from inflight.serving.preprocess import Preprocessor
from serving_tokenizers import BUILDERS

TOKENIZERS = {kind: build() for kind, build in BUILDERS.items()}


@dataclass
class CannedLlm:
    """Answers each sequence with its chunks, the sequences in turn."""

    chunks: list[list[list[int]]]  # by sequence
    a_row: int = 1  # sequences
    others: Tensors = field(default_factory=dict)  # with every response
    error_at: int | None = None
    gate: threading.Event | None = None  # awaited after the first response
    inputs: Tensors = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    stops: list[dict] = field(default_factory=list)
    num_told: int = 0
    has_ended: bool = False

    def generate(self, request_id: str, inputs: Tensors, outputs: list[str]) -> Iterator[Tensors]:
        self.request_id, self.inputs, self.outputs = request_id, inputs, outputs
        said: list[list[int]] = [[] for _ in self.chunks]
        for at in range(max(map(len, self.chunks))):
            for number, chunks in enumerate(self.chunks):
                if at < len(chunks):
                    if self.num_told == self.error_at:
                        raise RuntimeError("no blocks")
                    self.num_told += 1
                    yield self._response(number, chunks[at], said[number], at == len(chunks) - 1)
                    said[number] += chunks[at]
                    if self.gate is not None:
                        assert self.gate.wait(20)
        self.has_ended = True

    def _response(self, number: int, ids: list[int], said: list[int], final: bool) -> Tensors:
        row, sequence = divmod(number, self.a_row)
        response = {
            "output_ids": np.array([[ids]], np.int32).reshape(1, 1, -1),
            "sequence_length": np.array([[len(ids)]], np.int32),
            "text_context": self.inputs["text_context"][row : row + 1],
            "previous_ids": np.array([said], np.int32).reshape(1, -1),
            "response_state": np.array([[100 + number, int(final), len(ids)]], np.int64),
            **self.others,
        }
        if len(self.chunks) > self.a_row:
            response["batch_index"] = np.array([[row]], np.int32)
        if self.a_row > 1:
            response["sequence_index"] = np.array([[sequence]], np.int32)
        return response

    def stop(
        self, request_id: str = "", engine_request_id: int = 0, client_left: bool = False
    ) -> None:
        self.stops.append(
            {"id": request_id, "number": engine_request_id, "client_left": client_left}
        )
        if client_left and self.gate is not None:
            self.gate.set()


@dataclass
class Client:
    left: bool = False
    got: list[tuple[Tensors, bool]] = field(default_factory=list)

    def send(self, outputs: Tensors, is_last: bool) -> None:
        self.got.append((outputs, is_last))

    def has_left(self) -> bool:
        return self.left

    def text(self, row: int = 0, sequence: int = 0) -> list[str]:
        """Pieces of one sequence."""
        return [
            outputs["text_output"][0].decode()
            for outputs, _ in self.got
            if int(outputs.get("batch_index", np.zeros(1)).flat[0]) == row
            and int(outputs.get("sequence_index", np.zeros(1)).flat[0]) == sequence
        ]


class Receipts:
    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def tell(self, number: int, num_ids: int) -> None:
        self.told.append((number, num_ids))


class Unwatched:
    @contextmanager
    def watching(self, has_left, on_left) -> Iterator[None]:
        yield


@pytest.fixture
def departures() -> Iterator[Departures]:
    departures = Departures()
    yield departures
    departures.close()


def bls(departures: Departures | None, kind: str = "byte_level", **options) -> Bls:
    tokenizer = TOKENIZERS[kind]
    return Bls(
        Preprocessor(tokenizer),
        Postprocessor(tokenizer),
        Receipts(),
        departures or Unwatched(),
        **options,
    )


def asked(*prompts: str, **others: np.ndarray) -> Tensors:
    return {
        "text_input": np.array([[prompt.encode()] for prompt in prompts], object),
        "max_tokens": np.full((len(prompts), 1), 9, np.int32),
        **others,
    }


def words(*rows: list[str]) -> np.ndarray:
    return np.array([[word.encode() for word in row] for row in rows], object)


def pieces(kind: str, text: str, length: int = 1) -> list[list[int]]:
    ids = TOKENIZERS[kind].encode(text, add_special_tokens=False)
    return [ids[at : at + length] for at in range(0, len(ids), length)] or [[]]


@pytest.mark.parametrize("kind", BUILDERS)
@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(
        st.text(alphabet="stop END theaé東😀.", min_size=1, max_size=20), min_size=1, max_size=4
    ),
    length=st.integers(1, 3),
    accumulate=st.booleans(),
)
def test_pieces_of_every_sequence_join(kind: str, texts: list[str], length: int, accumulate: bool):
    llm, client = CannedLlm([pieces(kind, text, length) for text in texts]), Client()
    bls(None, kind, accumulate_tokens=accumulate).run(asked(*["x"] * len(texts)), llm, client)
    for row, text in enumerate(texts):
        whole = TOKENIZERS[kind].decode(TOKENIZERS[kind].encode(text, add_special_tokens=False))
        told = client.text(row)
        assert (told[-1] if accumulate else "".join(told)) == whole
        if accumulate:
            assert all(later.startswith(told[at]) for at, later in enumerate(told[1:]))
    assert [is_last for _, is_last in client.got] == [False] * (len(client.got) - 1) + [True]
    assert not llm.stops


def test_sequences_of_rows():
    texts = ["a", "stop", "END", "the end"]
    llm = CannedLlm([pieces("byte_level", text) for text in texts], a_row=2)
    client = Client()
    number = np.full((2, 1), 2, np.int32)
    bls(None).run(asked("x", "y", num_return_sequences=number), llm, client)
    told = ["".join(client.text(row, sequence)) for row in range(2) for sequence in range(2)]
    assert told == texts
    assert (llm.inputs["num_return_sequences"] == number).all()
    assert [is_last for _, is_last in client.got].index(True) == len(client.got) - 1


def test_what_the_engines_model_gets():
    tokenizer = TOKENIZERS["byte_level"]
    llm, client = CannedLlm([[[5]]]), Client()
    given = asked(
        "stop the",
        stream=np.array([[True]]),
        top_k=np.array([[3]], np.int32),
        top_p=np.array([[0.5]], np.float32),
        temperature=np.array([[2.0]], np.float32),
        seed=np.array([[7]], np.uint64),
        end_id=np.array([[9]], np.int32),
        stop_words=words(["END"]),
        bad_words=words(["a"]),
        embedding_bias_words=words(["a"]),
        embedding_bias_weights=np.array([[4.0]], np.float32),
    )
    bls(None).run(given, llm, client)
    got = llm.inputs
    assert got["input_ids"].tolist() == [tokenizer.encode("stop the")]
    assert got["input_lengths"].tolist() == [[got["input_ids"].shape[1]]]
    assert got["request_output_len"].tolist() == [[9]]
    assert (got["runtime_top_k"].item(), got["runtime_top_p"].item()) == (3, 0.5)
    assert (got["temperature"].item(), got["seed"].item()) == (2.0, 7)
    assert got["streaming"].item() is True
    assert got["end_id"].item() == 9
    assert got["stop_words_list"].shape[:2] == got["bad_words_list"].shape[:2] == (1, 2)
    assert got["embedding_bias"][0, tokenizer.encode("a")[0]] == 4.0
    assert {"output_ids", "sequence_length", "cum_log_probs", "batch_index"} <= set(llm.outputs)
    assert len(llm.request_id) == 32


def test_outputs_are_passed_on():
    others = {
        "cum_log_probs": np.array([[-1.5]], np.float32),
        "output_log_probs": np.array([[[-1.5]]], np.float32),
        "num_input_tokens": np.array([[3]], np.int32),
    }
    llm, client = CannedLlm([[[5], [6]]], others=others), Client()
    bls(None).run(asked("x"), llm, client)
    for outputs, _ in client.got:
        assert set(outputs) == {"text_output", *others}
        for name, value in others.items():
            assert (outputs[name] == value).all()


def test_a_stop_word_ends_its_own_sequence():
    """By its number: the other sequences of the request go on. The word stays; what follows is
    blank."""
    texts = ["one two", "three END four"]
    llm, client = CannedLlm([pieces("byte_level", text) for text in texts]), Client()
    bls(None).run(asked("x", "y", stop_words=words(["END"], ["END"])), llm, client)
    assert "".join(client.text(0)) == "one two"
    assert "".join(client.text(1)) == "three END"
    assert llm.stops == [{"id": "", "number": 101, "client_left": False}]


def test_receipts_are_told():
    made = bls(None)
    made.run(asked("x"), CannedLlm([[[5], [6, 7], [8]]]), Client())
    assert made._receipts.told == [(100, 1), (100, 3)]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"text_input": words([""])}, "text_input is empty"),
        ({"max_tokens": np.array([[0]], np.int32)}, "max_tokens is 0, expected at least 1"),
        ({"max_tokens": np.array([[-3]], np.int32)}, "max_tokens is -3"),
        ({"num_draft_tokens": np.array([[4]], np.int32)}, "num_draft_tokens is not supported"),
        ({"use_draft_logits": np.array([[True]])}, "use_draft_logits is not supported"),
        ({"image_url_input": words(["http://x"])}, "image_url_input is not supported"),
        ({"image_bytes_input": np.ones((1, 1, 2, 2, 3), np.uint8)}, "image_bytes_input is not"),
        ({"beam_width": np.array([[2]], np.int32)}, "beam_width is not supported"),
        ({"text_input": np.array([[b"\xff"]], object)}, "not UTF-8"),
    ],
)
def test_bad_requests(others: Tensors, message: str):
    llm, client = CannedLlm([[[5]]]), Client()
    with pytest.raises(ValueError, match=message):
        bls(None).run({**asked("x"), **others}, llm, client)
    assert not llm.inputs and not client.got


def test_defaults_of_what_is_refused_are_legal():
    client = Client()
    given = {"num_draft_tokens": np.array([[0]], np.int32), "use_draft_logits": np.array([[False]])}
    bls(None).run(asked("x", **given), CannedLlm([[[5]]]), client)
    assert len(client.got) == 1


def test_an_error_of_the_engines_model():
    llm, client = CannedLlm([[[5], [6], [7]]], error_at=1), Client()
    with pytest.raises(RuntimeError, match="no blocks"):
        bls(None).run(asked("x"), llm, client)
    assert [is_last for _, is_last in client.got] == [False]
    assert [stop["id"] for stop in llm.stops] == [llm.request_id]


def test_a_client_that_breaks_ends_the_generation():
    """Nothing of the request is left running, and every response of it is taken."""
    llm, client = CannedLlm([[[5], [6], [7]]]), Client()

    def send(outputs: Tensors, is_last: bool) -> None:
        raise OSError("gone")

    client.send = send
    with pytest.raises(OSError, match="gone"):
        bls(None).run(asked("x"), llm, client)
    assert llm.has_ended and [stop["id"] for stop in llm.stops] == [llm.request_id]


def test_a_client_that_leaves_ends_the_generation(departures: Departures):
    llm, client = CannedLlm([[[5], [6]]], gate=threading.Event()), Client()
    thread = threading.Thread(target=bls(departures).run, args=(asked("x"), llm, client))
    thread.start()
    time.sleep(0.1)
    assert not llm.stops
    client.left = True
    began = time.monotonic()
    thread.join(20)
    assert not thread.is_alive() and time.monotonic() - began < 5
    assert llm.stops[0] == {"id": llm.request_id, "number": 0, "client_left": True}
    num_stops = len(llm.stops)
    time.sleep(0.1)
    assert len(llm.stops) == num_stops  # nobody is asked after the end


def test_a_stop_is_repeated_ever_more_rarely(departures: Departures):
    """It may have come before what it is to end; others are asked as often as before."""
    stops: list[float] = []
    questions: list[float] = []

    def stays() -> bool:
        questions.append(time.monotonic())
        return False

    with (
        departures.watching(lambda: True, lambda: stops.append(time.monotonic())),
        departures.watching(stays, lambda: None),
    ):
        deadline = time.monotonic() + 20
        while len(stops) < 6 and time.monotonic() < deadline:
            time.sleep(0.005)
    pauses = np.diff(stops[:6])
    assert (pauses >= [0.005, 0.01, 0.02, 0.04, 0.08]).all(), pauses
    assert len(questions) > len(stops)


def test_many_clients_at_once(departures: Departures):
    """One set of parts serves all threads; each hears its own text."""
    made = bls(departures)
    texts = [f"stop {'é' * n} the {'東' * n} end" for n in range(24)]
    clients = [Client() for _ in texts]
    runs = []
    for number, (text, client) in enumerate(zip(texts, clients, strict=True)):
        llm = CannedLlm([pieces("byte_level", text)])
        plain = llm._response
        llm._response = lambda at, ids, said, final, plain=plain, number=number: {
            **plain(at, ids, said, final),
            "response_state": np.array([[1000 + number, int(final), len(ids)]], np.int64),
        }
        runs.append(threading.Thread(target=made.run, args=(asked("x"), llm, client)))
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert ["".join(client.text()) for client in clients] == texts
