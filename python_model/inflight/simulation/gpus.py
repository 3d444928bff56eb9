"""GPUs as a roofline sees them: peaks by the makers' data sheets, and what is achieved of them."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: float  # bytes that a process can have
    peak_flops: float  # bfloat16, dense
    read: float  # bytes/s, achieved
    host_link: float  # bytes/s, one direction, pinned memory, achieved
    peer_link: float  # bytes/s, one direction, to the other GPUs of its host
    measured: bool  # False: read and host_link are the H200's shares of the peaks


# Measured on an H200 (docs/performance.md): weights and keys at 4.25 TB/s, the bus at 55.4 GB/s.
_READ_SHARE = 4.25 / 4.8
_LINK_SHARE = 55.4 / 64


def _like_h200(
    name: str, gib: float, read: float, flops: float, host_link: float, peer_link: float
) -> Gpu:
    """`read` and `host_link` are the peaks."""
    return Gpu(
        name, gib * GIB, flops, read * _READ_SHARE, host_link * _LINK_SHARE, peer_link, False
    )


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H200", 139.8 * GIB, 989e12, 4.25e12, 55.4e9, 450e9, True),
        _like_h200("H100", 79.1, 3.35e12, 989e12, 64e9, 450e9),
        _like_h200("A100", 79.1, 2.039e12, 312e12, 32e9, 300e9),
        _like_h200("L40S", 44.4, 0.864e12, 362e12, 32e9, 32e9),
        _like_h200("B200", 178.0, 8.0e12, 2250e12, 64e9, 900e9),
    )
}
