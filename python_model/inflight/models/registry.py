"""Architecture, as config.json spells it, to family: one line each."""

from collections.abc import Mapping

from inflight.models import llama
from inflight.models.family import ModelFamily

FAMILIES: Mapping[str, ModelFamily] = {
    "LlamaForCausalLM": llama.FAMILY,
}
