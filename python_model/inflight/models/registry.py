"""Architecture, as config.json spells it, to family: one line each."""

from collections.abc import Mapping

from inflight.models import llama, mistral
from inflight.models.family import ModelFamily

FAMILIES: Mapping[str, ModelFamily] = {
    "LlamaForCausalLM": llama.FAMILY,
    "MinistralForCausalLM": mistral.FAMILY,
    "MistralForCausalLM": mistral.FAMILY,
}
