"""Messages written and read back by tritonclient's own classes; the stream against a server of two
lines."""

import asyncio
import random

import grpc
import numpy as np
import pytest
from inflight.openai.engine_client import EngineClient
from inflight.openai.engine_request import EngineRequest, Part, read_response, to_message
from inflight.openai.errors import ApiError
from inflight.serving.schema import TENSORRT_LLM
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

FULL = EngineRequest(
    prompt_ids=[5, 6, 7],
    max_tokens=9,
    end_id=2,
    numbers={"temperature": 0.5, "runtime_top_p": 0.25},
    counts={"runtime_top_k": 3, "min_tokens": 1},
    seed=2**64 - 1,
    log_probs=True,
    num_top_log_probs=2,
    bias=np.array([0.5, 0.0, -1.0], np.float32).tobytes(),
    cache_salt="sält",
    tenant="team",
)


def test_a_message_holds_tensors_of_the_schema() -> None:
    message = to_message(FULL, "name", 2**62, 7)
    table = {tensor.name: tensor for tensor in TENSORRT_LLM.inputs}
    types = {"INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_, "UINT64": np.uint64}
    types["INT64"] = np.int64
    values = {}
    assert message.parameters["tenant"].string_param == "team"
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            assert table[tensor.name].dtype == "STRING"
            values[tensor.name] = deserialize_bytes_tensor(raw).reshape(tensor.shape).tolist()
            continue
        assert tensor.datatype == table[tensor.name].dtype, tensor.name
        array = np.frombuffer(raw, types[tensor.datatype]).reshape(tensor.shape)
        values[tensor.name] = array.tolist()
    assert values == {
        "input_ids": [[5, 6, 7]],
        "input_lengths": [[3]],
        "request_output_len": [[9]],
        "exclude_input_in_output": [[True]],
        "return_finish_reason": [[True]],
        "streaming": [[True]],
        "end_id": [[2]],
        "temperature": [[0.5]],
        "runtime_top_p": [[0.25]],
        "runtime_top_k": [[3]],
        "min_tokens": [[1]],
        "seed": [[2**64 - 1]],
        "return_log_probs": [[True]],
        "num_top_log_probs": [[2]],
        "embedding_bias": [[0.5, 0.0, -1.0]],
        "response_group": [[2**62, 7]],
        "cache_salt": [["sält".encode()]],
    }
    outputs = {output.name for output in message.outputs}
    assert outputs == {
        "output_ids",
        "sequence_length",
        "finish_reason",
        "output_log_probs",
        "top_log_prob_ids",
        "top_log_probs",
    }
    assert outputs <= {tensor.name for tensor in TENSORRT_LLM.outputs}


def response_of(
    ids: list[int], final: bool, id: str = "", begin: int | None = None
) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name="tensorrt_llm", id=id)
    response.parameters["triton_final_response"].bool_param = final
    for name, array in (
        ("output_ids", np.array([[ids]], np.int32)),
        ("output_log_probs", np.array([[[-0.5] * len(ids)]], np.float32)),
        ("top_log_prob_ids", np.array([[[[id, -1] for id in ids]]], np.int32)),
        ("top_log_probs", np.array([[[[-0.5, -np.inf]] * len(ids)]], np.float32)),
    ):
        shape = list(array.shape)
        kind = "INT32" if array.dtype == np.int32 else "FP32"
        response.outputs.add(name=name, datatype=kind, shape=shape)
        response.raw_output_contents.append(array.tobytes())
    if begin is not None:
        response.outputs.add(name="group_begins", datatype="INT32", shape=[1, 1])
        response.raw_output_contents.append(np.int32(begin).tobytes())
    reason = np.array([[b"length" if final else b""]], object)
    response.outputs.add(name="finish_reason", datatype="BYTES", shape=[1, 1])
    response.raw_output_contents.append(serialize_byte_tensor(reason).item())
    return response


def group_response(
    ids: dict[int, list[int]], id: str = "", begins: list[int] | None = None
) -> pb.ModelInferResponse:
    begins = begins or [0] * len(ids)
    response = response_of([one for each in ids.values() for one in each], False, id)
    for name, kind, array in (
        ("group_members", "INT64", np.array([list(ids)], np.int64)),
        ("group_begins", "INT32", np.array([begins], np.int32)),
        ("group_lengths", "INT32", np.array([[len(each) for each in ids.values()]], np.int32)),
    ):
        response.outputs.add(name=name, datatype=kind, shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    return response


@pytest.mark.parametrize("ids", [[], [7], [1, 2, 2**31 - 1]])
def test_a_part_is_what_tritonclient_reads(ids: list[int]) -> None:
    response = response_of(ids, final=bool(ids))
    part = read_response(response)
    result = InferResult(response)
    assert part.ids == result.as_numpy("output_ids").reshape(-1).tolist() == ids
    assert part.log_probs == result.as_numpy("output_log_probs").reshape(-1).tolist()
    assert part.top_log_probs == [[(id, -0.5)] for id in ids]
    assert part.final == bool(ids) and part.finish_reason == ("length" if ids else "")


def test_a_groups_response_is_divided_among_its_members() -> None:
    response = group_response({4: [1, 2], 7: [], 2**40: [3]}, begins=[5, 0, 1])
    assert read_response(response) == {
        4: Part([1, 2], [-0.5, -0.5], False, "", [[(1, -0.5)], [(2, -0.5)]], 5),
        7: Part([], [], False),
        2**40: Part([3], [-0.5], False, "", [[(3, -0.5)]], 1),
    }


def test_responses_that_are_none() -> None:
    flag = pb.ModelInferResponse()
    flag.parameters["triton_final_response"].bool_param = True
    assert read_response(flag) == Part([], [], True)
    other = pb.ModelInferResponse()
    other.outputs.add(name="text", datatype="BYTES", shape=[1])
    other.raw_output_contents.append(b"x")
    with pytest.raises(ValueError, match="without output_ids"):
        read_response(other)


class Servicer(rpc.GRPCInferenceServiceServicer):
    """Answers a request twice, first with a response of its group; prompt 1 with an error, prompt 2
    by ending the stream; a stop is noted."""

    def __init__(self) -> None:
        self.stopped: list[str] = []
        self.members: list[tuple[int, int]] = []  # and the group of each

    async def ModelStreamInfer(self, requests, context):  # noqa: N802 - the protocol's name
        async for request in requests:
            first = np.frombuffer(request.raw_input_contents[0], np.int32)[0]
            if any(tensor.name == "stop" for tensor in request.inputs):
                self.stopped.append(request.id)
            elif first == 1:
                answer = pb.ModelStreamInferResponse(error_message="Maximum queue size of 2")
                answer.infer_response.id = request.id
                yield answer
            elif first == 3:  # the flag alone
                shared = group_response({0: [5]}, "another's")
                yield pb.ModelStreamInferResponse(infer_response=shared)
                flag = pb.ModelInferResponse(id=request.id)
                flag.parameters["triton_final_response"].bool_param = True
                yield pb.ModelStreamInferResponse(infer_response=flag)
            elif first == 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")
            else:
                at = [tensor.name for tensor in request.inputs].index("response_group")
                group, member = np.frombuffer(request.raw_input_contents[at], np.int64).tolist()
                self.members.append((member, group))
                # With what is of nobody here, and under the id of whoever carries it.
                shared = group_response({member + 100: [1, 2], member: [int(first)]}, "another's")
                yield pb.ModelStreamInferResponse(infer_response=shared)
                last = response_of([int(first)], True, request.id, begin=1)
                yield pb.ModelStreamInferResponse(infer_response=last)


class Shuffled(rpc.GRPCInferenceServiceServicer):
    """Answers a request with the ids 10 to 19, a part each, in another order for each request, the
    end somewhere among them."""

    async def ModelStreamInfer(self, requests, context):  # noqa: N802 - the protocol's name
        async for request in requests:
            at = [tensor.name for tensor in request.inputs].index("response_group")
            _, member = np.frombuffer(request.raw_input_contents[at], np.int64).tolist()
            seed = int(np.frombuffer(request.raw_input_contents[0], np.int32)[0])
            answers = [
                group_response({member: [10 + begin]}, "another's", [begin]) for begin in range(9)
            ]
            answers.append(response_of([19], True, request.id, begin=9))
            random.Random(seed).shuffle(answers)
            for answer in answers:
                yield pb.ModelStreamInferResponse(infer_response=answer)


def test_parts_that_overtake_each_other_are_put_in_order() -> None:
    async def main() -> None:
        server = grpc.aio.server()
        rpc.add_GRPCInferenceServiceServicer_to_server(Shuffled(), server)
        port = server.add_insecure_port("localhost:0")
        await server.start()
        client = EngineClient(f"localhost:{port}")
        for seed in range(20):
            got: asyncio.Queue = asyncio.Queue()
            client.submit(EngineRequest([seed], 10), f"id {seed}", got.put_nowait)
            parts = [await asyncio.wait_for(got.get(), 5) for _ in range(10)]
            assert [part.ids for part in parts] == [[each] for each in range(10, 20)]
            assert [part.final for part in parts] == [False] * 9 + [True]
        await client.close()
        await server.stop(None)

    asyncio.run(main())


def test_an_end_without_its_reason_is_an_error() -> None:
    async def main() -> None:
        server = grpc.aio.server()
        rpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("localhost:0")
        await server.start()
        client = EngineClient(f"localhost:{port}")
        got: asyncio.Queue = asyncio.Queue()
        client.submit(EngineRequest([3], 4), "lost", got.put_nowait)
        part, error = [await asyncio.wait_for(got.get(), 5) for _ in range(2)]
        assert part.ids == [5] and not part.final
        assert isinstance(error, ApiError) and (error.status, error.code) == (500, "engine_error")
        await client.close()
        await server.stop(None)

    asyncio.run(main())


def test_one_stream_for_all_and_a_new_one_after_its_end() -> None:
    async def main() -> None:
        server, servicer = grpc.aio.server(), Servicer()
        rpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("localhost:0")
        await server.start()
        client = EngineClient(f"localhost:{port}")
        got: asyncio.Queue = asyncio.Queue()

        def ask(first: int, id: str) -> None:
            request = EngineRequest([first], 4, log_probs=id == "b")
            client.submit(request, id, lambda part: got.put_nowait((id, part)))

        async def take(count: int) -> list:
            return [await asyncio.wait_for(got.get(), 5) for _ in range(count)]

        ask(7, "a")
        ask(8, "b")
        answers = await take(4)
        assert [(id, part.ids, part.final) for id, part in sorted(answers, key=lambda x: x[0])] == [
            ("a", [7], False), ("a", [7], True), ("b", [8], False), ("b", [8], True),
        ]  # fmt: skip

        # The group's response holds zeros for who asked for none.
        shared = {id: part for id, part in answers if not part.final}
        assert [shared[id].log_probs for id in "ab"] == [[], [-0.5]]

        ask(1, "full")
        (_, error), = await take(1)  # fmt: skip
        assert isinstance(error, ApiError)
        assert (error.status, error.code) == (503, "engine_overloaded")

        ask(2, "end")
        ask(9, "with it")
        ended = dict(await take(2))
        assert set(ended) == {"end", "with it"}
        assert [error.status for error in ended.values()] == [503, 503]
        assert all("ended before the answer" in str(error) for error in ended.values()), ended
        ask(10, "again")
        assert [part.ids for _, part in await take(2)] == [[10], [10]]

        client.stop("again")  # has ended: nothing to stop
        ask(11, "left")
        client.stop("left")
        ask(12, "last")
        assert {id for id, _ in await take(2)} == {"last"}
        assert servicer.stopped == ["left"]
        # Numbers of their own in the group of their stream; the second stream's is another.
        members, groups = zip(*servicer.members, strict=True)
        assert members == (0, 1, 0, 1, 2), servicer.members
        assert len(set(groups[:2])) == len(set(groups[2:])) == 1 and groups[0] != groups[2]
        assert not await client.is_ready()  # the servicer does not know the question
        await client.close()
        await server.stop(None)

    asyncio.run(main())
