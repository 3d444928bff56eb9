"""Text that waits for postprocessing by the thousand does the server no harm.

The damage that this guards against (docs/serving.md) shows at random: in an allocation, or at the
end, when a thread gives back what it freed.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from triton_server import Setup, ask_text, running

STREAMS = 12
LENGTH = 400  # tokens; together far more than the 1,000 payloads that the server keeps for reuse
ROUNDS = 2


def test_the_server_ends_well_after_thousands_of_waiting_pieces(
    setup: Setup, tmp_path: Path
) -> None:
    with running(setup.repository, tmp_path, "--load-model=*") as server:

        def run(_: int) -> str:
            return ask_text(server, "abc", LENGTH, stream=True, end_id=-1)

        with ThreadPoolExecutor(STREAMS) as pool:
            texts = list(pool.map(run, range(STREAMS * ROUNDS)))
        assert set(texts) == {texts[0]}
        server.wait_until_idle()
    assert server.process.returncode >= 0, server.log.read_text()[-3000:]
