"""A tritonserver for one test. One before 2.57 can lose its front-end to a cancelled gRPC stream of a
decoupled model, whatever the backend (docs/serving.md): a segmentation fault in the server's
executable, and no other death, earns a test that cancels such streams a second and a third server.
A server that survives must not die of a signal at its end.
"""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import tritonclient.grpc as grpc
from triton_server import Server, running

Scenario = Callable[[Server], None]
SERVERS = 3  # to try, if the front-end dies of its own fault


def run_on_own_server(
    scenario: Scenario, repository: Path, scratch: Path, servers: int = 1
) -> None:
    for attempt in range(servers):
        folder = scratch / str(attempt)
        folder.mkdir()
        with running(repository, folder, "--load-model=*") as server:
            frail = has_frail_front_end(server)
            try:
                scenario(server)
                assert server.process.poll() is None, server.log.read_text()[-3000:]
            except Exception:
                time.sleep(2)  # a dying server still writes its trace
                last = attempt == servers - 1
                if last or not frail or not died_of_its_front_end(server):
                    raise
                continue
        assert server.process.returncode >= 0, server.log.read_text()[-3000:]
        return


def died_of_its_front_end(server: Server) -> bool:
    """By a segmentation fault whose first frame, below the handler and libc, is in the server's
    executable: the gRPC and HTTP front-ends. Core, backends and we live in shared libraries.
    """
    if server.process.poll() != -signal.SIGSEGV:
        return False
    frames = re.findall(r"^ *\d+# .* in (\S+)$", server.log.read_text(), re.MULTILINE)
    below = [frame for frame in frames[1:] if not Path(frame).name.startswith("libc.")]
    return bool(below) and Path(below[0]).name == "tritonserver"


def has_frail_front_end(server: Server) -> bool:
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        version = client.get_server_metadata().version
    return tuple(map(int, version.split("."))) < (2, 57)
