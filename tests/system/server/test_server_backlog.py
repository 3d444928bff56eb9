"""Text that waits for postprocessing by the thousand does the server no harm.

The damage that this guards against (docs/server_faults.md) shows at random: in an allocation, or at the
server's end, when a thread gives back what it freed (frail_server.py looks at that).
"""

from concurrent.futures import ThreadPoolExecutor

from triton_server import Server, ask_text

STREAMS = 12
LENGTH = 400  # tokens; together far more than the 1,000 payloads that the server keeps for reuse
ROUNDS = 2


def test_the_server_outlives_thousands_of_waiting_pieces(on_frail_server) -> None:
    def scenario(server: Server) -> None:
        def run(_: int) -> str:
            return ask_text(server, "abc", LENGTH, stream=True, end_id=-1)

        with ThreadPoolExecutor(STREAMS) as pool:
            texts = list(pool.map(run, range(STREAMS * ROUNDS)))
        assert set(texts) == {texts[0]}

    on_frail_server(scenario)
