"""The `parameters` of a Python model's configuration."""

import json


class Parameters:
    """A value that is empty or still a template placeholder (`${…}`) counts as absent;
    blanks around one are no part of it."""

    def __init__(self, model_config: str) -> None:
        listed = json.loads(model_config).get("parameters", {})
        texts = {key: value.get("string_value", "").strip() for key, value in listed.items()}
        self._values = {k: v for k, v in texts.items() if v and not v.startswith("${")}

    def text(self, key: str, default: str | None = None) -> str:
        """Raises ValueError if absent and without a default."""
        if key not in self._values:
            if default is not None:
                return default
            raise ValueError(f"the parameter {key} is missing in config.pbtxt")
        return self._values[key]

    def refuse(self, key: str, why: str) -> None:
        """Raises ValueError if the key has a value."""
        if key in self._values:
            raise ValueError(f"the parameter {key} in config.pbtxt is {self._values[key]!r}: {why}")

    def flag(self, key: str, default: bool) -> bool:
        text = self._values.get(key, "").lower()
        return {"true": True, "1": True, "false": False, "0": False}.get(text, default)

    def number(self, key: str, default: int) -> int:
        text = self._values.get(key, "")
        try:
            return int(text) if text else default
        except ValueError:
            raise ValueError(
                f"the parameter {key} in config.pbtxt is {text!r}, no number"
            ) from None
