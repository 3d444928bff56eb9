"""Loading a folder's tokenizer gives what transformers' AutoTokenizer gives."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from inflight.text.tokenizer import Tokenizer
from text_tokenizers import CORPUS, byte_fallback, byte_level, with_begin_token

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
MESSAGES = [
    {"role": "user", "content": "Who goes there?"},
    {"role": "assistant", "content": "Nay, answer me."},
]


def save(folder: Path, tokenizer, config: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    base = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True},
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**base, **(config or {})}))
    return folder


@pytest.mark.parametrize("build", [byte_level, byte_fallback])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": True},
        {"add_bos_token": False},
        {"add_bos_token": True, "add_eos_token": True},
        {"pad_token": "</s>", "clean_up_tokenization_spaces": False},
    ],
)
def test_equals_transformers(tmp_path: Path, build, config: dict):
    from transformers import AutoTokenizer

    save(tmp_path, with_begin_token(build()), config)
    ours = Tokenizer.load(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in [*CORPUS, "", " a", "<s>x</s>"]:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids
            for skip in (True, False):
                assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.encode_batch(CORPUS) == [theirs.encode(text) for text in CORPUS]
    assert ours.vocab_size == len(theirs)
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (
        theirs.bos_token_id,
        theirs.eos_token_id,
        theirs.pad_token_id,
    )
    assert Tokenizer.from_transformers(theirs).encode(CORPUS[0]) == theirs.encode(CORPUS[0])


@pytest.mark.parametrize("place", ["file", "key", "named"])
def test_chat_template(tmp_path: Path, place: str):
    from transformers import AutoTokenizer

    config = {}
    if place == "key":
        config = {"chat_template": TEMPLATE}
    elif place == "named":
        named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]
        config = {"chat_template": named}
    save(tmp_path, byte_level(), config)
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    messages = MESSAGES
    text = Tokenizer.load(tmp_path).apply_chat_template(messages)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<s>[user] Who goes there?\n") and text.endswith("[assistant] ")


def test_templates_by_name(tmp_path: Path):
    """The one for tools where tools are given; from the key, and from files of their own."""
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    listed = "{% for tool in tools %}{{ tool.function.name }}{% endfor %}"
    named = [{"name": "tool_use", "template": listed}, {"name": "default", "template": "plain"}]
    save(tmp_path / "key", byte_level(), {"chat_template": named})
    save(tmp_path / "file", byte_level())
    (tmp_path / "file" / "chat_template.jinja").write_text("plain")
    (tmp_path / "file" / "additional_chat_templates").mkdir()
    (tmp_path / "file" / "additional_chat_templates" / "tool_use.jinja").write_text(listed)
    for folder in ("key", "file"):
        tokenizer = Tokenizer.load(tmp_path / folder)
        assert tokenizer.apply_chat_template(MESSAGES) == "plain"
        assert tokenizer.apply_chat_template(MESSAGES, tools=tools) == "look"
    save(tmp_path / "other", byte_level(), {"chat_template": named[:1]})
    with pytest.raises(ValueError, match="no chat template named default, only tool_use"):
        Tokenizer.load(tmp_path / "other").apply_chat_template(MESSAGES)


def test_what_a_chat_template_is_given(tmp_path: Path):
    tokenizer = Tokenizer.load(save(tmp_path, byte_level(), {"chat_template": TEMPLATE}))
    closed = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=False)
    assert closed == "<s>[user] Who goes there?\n[assistant] Nay, answer me.\n"
    open_ended = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=False, continue_final_message=True
    )
    assert open_ended == closed.rstrip("\n")
    own = "{{ mood }}{{ eos_token }}"
    assert tokenizer.apply_chat_template(
        MESSAGES, chat_template=own, template_arguments={"mood": "wry"}
    ) == "wry</s>"  # fmt: skip


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", {}, "fails .*: roles must alternate"),
        ("{% if %}", {}, "the chat template fails"),
        ("{{ messages[0].content + 1 }}", {}, "the chat template fails"),
        (TEMPLATE, {"continue_final_message": True}, "not with both"),
    ],
)
def test_chat_templates_that_refuse(template: str, options: dict, message: str):
    tokenizer = Tokenizer(byte_level(), {}, template)
    with pytest.raises(ValueError, match=message):
        tokenizer.apply_chat_template(MESSAGES, **options)
    with pytest.raises(ValueError, match="at least one message"):
        tokenizer.apply_chat_template([])


def test_without_chat_template(tmp_path: Path):
    save(tmp_path, byte_level())
    with pytest.raises(ValueError, match="no chat template"):
        Tokenizer.load(tmp_path).apply_chat_template([{"role": "user", "content": "x"}])


def test_without_tokenizer(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no tokenizer in"):
        Tokenizer.load(tmp_path)


def test_special_tokens_map_is_read(tmp_path: Path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode([tokenizer.eos_token_id]) == ""
    assert tokenizer.bos_token_id is None


@pytest.mark.parametrize("text", ["\udcff", "a \ud83d b " + 200 * "word "])
def test_halves_of_characters_are_refused(tmp_path: Path, text: str):
    """A shell's arguments have them where their bytes are no UTF-8."""
    tokenizer = Tokenizer.load(save(tmp_path, byte_level()))
    with pytest.raises(ValueError, match="is not Unicode: '.udcff' at character 0|at character 2"):
        tokenizer.encode(text)


def test_padding_and_truncation_of_the_file_are_off(tmp_path: Path):
    raw = byte_level()
    raw.enable_truncation(3)
    raw.enable_padding(length=8)
    save(tmp_path, raw)
    plain = byte_level().encode(CORPUS[0]).ids
    assert Tokenizer.load(tmp_path).encode_batch([CORPUS[0], "a"])[0] == plain


def test_many_threads_share_a_tokenizer():
    tokenizer = Tokenizer(byte_fallback(), {}, None)
    expected = [tokenizer.decode(tokenizer.encode(text)) for text in CORPUS]
    wrong = []

    def work() -> None:
        for _ in range(20):
            if [tokenizer.decode(tokenizer.encode(text)) for text in CORPUS] != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
