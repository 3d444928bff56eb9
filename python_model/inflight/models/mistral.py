"""Mistral and Ministral: Llama whose layers see a sliding window, all of them or those of
`layer_types`."""

from functools import partial

from inflight.models.decoder import build_decoder, unsupported
from inflight.models.family import ModelFamily
from inflight.models.llama import mapping

FAMILY = ModelFamily(
    mapping=mapping, unsupported=partial(unsupported, has_windows=True), graph=build_decoder
)
