"""Starts `inflight serve` on the demo model and streams one answer through tritonclient."""

import argparse
import queue
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient

MODEL = Path(__file__).resolve().parent.parent / "demo_model"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(ports: dict[str, int], log) -> subprocess.Popen:
    flags = [f"--{name}-port={port}" for name, port in ports.items()]
    command = [sys.executable, "-m", "inflight.cli.main", "serve", str(MODEL), *flags]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait_until_ready(server: subprocess.Popen, client, log_path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"the server ended with code {server.returncode}; its log is {log_path}")
        try:
            if client.is_server_ready() and client.is_model_ready("ensemble"):
                return
        except grpcclient.InferenceServerException:
            pass  # not listening yet
        time.sleep(0.1)
    sys.exit(f"the server was not ready within {seconds:.0f} s; its log is {log_path}")


def stream(client, prompt: str, max_tokens: int) -> tuple[int, float, float]:
    """Prints the answer as it comes; returns tokens, seconds to the first and in all."""

    def tensor(name, value, dtype, triton_dtype):
        tensor = grpcclient.InferInput(name, [1, 1], triton_dtype)
        tensor.set_data_from_numpy(np.array([[value]], dtype=dtype))
        return tensor

    inputs = [
        tensor("text_input", prompt.encode(), object, "BYTES"),
        tensor("max_tokens", max_tokens, np.int32, "INT32"),
        tensor("stream", True, bool, "BOOL"),
        tensor("temperature", 0.8, np.float32, "FP32"),
        tensor("top_k", 40, np.int32, "INT32"),
        tensor("seed", 7, np.uint64, "UINT64"),
    ]
    parts: queue.Queue = queue.Queue()
    client.start_stream(callback=lambda result, error: parts.put((result, error)))
    started = time.perf_counter()
    first = None
    count = 0
    client.async_stream_infer("ensemble", inputs, enable_empty_final_response=True)
    while True:
        result, error = parts.get(timeout=60)
        if error is not None:
            sys.exit(f"the server answered: {error}")
        text = result.as_numpy("text_output")
        if text is not None and text.size:
            first = first or time.perf_counter() - started
            count += 1
            print(text.flatten()[0].decode(), end="", flush=True)
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    seconds = time.perf_counter() - started
    client.stop_stream()
    return count, first or seconds, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="ROMEO:\nWhat light")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--keep", action="store_true", help="leave the server running")
    args = parser.parse_args()

    ports = {"http": free_port(), "grpc": free_port(), "metrics": free_port()}
    log_path = Path("build/demo-server.log")
    with log_path.open("w") as log:
        print(f"starting tritonserver on the demo model (log: {log_path}) ...")
        server = start_server(ports, log)
        try:
            client = grpcclient.InferenceServerClient(f"127.0.0.1:{ports['grpc']}")
            wait_until_ready(server, client, log_path, 120)
            print(f"ready: gRPC {ports['grpc']}, HTTP {ports['http']}\n\n{args.prompt}", end="")
            count, first, seconds = stream(client, args.prompt, args.max_tokens)
            print(
                f"\n\n{count} pieces of text in {seconds:.2f} s, the first after {first * 1e3:.0f} ms"
            )
            if args.keep:
                print("the server stays until Ctrl-C; scripts/demo --help says more")
                server.wait()
        except KeyboardInterrupt:
            pass
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


if __name__ == "__main__":
    main()
