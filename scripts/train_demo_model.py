#!/usr/bin/env python3
"""Train the demo model: a small Llama on one text file, saved as an ordinary HuggingFace folder.

    scripts/train_demo_model.py TEXT --output DIR

The last tenth of the text is held out; the weights kept are those (an exponential moving average)
with the lowest held-out loss. Small data wants strong regularisation: dropout on the embeddings and
on every block's two branches, and BPE-dropout (Provilkov et al., 2020), which tokenises the text
anew, differently, for every pass over it. A GPU takes minutes, a CPU hours.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer: any text has ids, and ids give back the text exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, dropout: float) -> torch.Tensor:
    """Ids of `text` [N] int64; with `dropout`, each merge is skipped with that probability."""
    tokenizer.model.dropout = dropout or None
    lines = tokenizer.encode_batch(text.splitlines(keepends=True))
    tokenizer.model.dropout = None
    return torch.tensor([token for line in lines for token in line.ids])


def add_dropout(model: LlamaForCausalLM, rate: float) -> None:
    """Residual and embedding dropout, which Llama's own configuration does not offer."""

    def drop(module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return functional.dropout(output, rate, training=module.training)

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, ids: torch.Tensor, length: int) -> float:
    """Mean negative log-likelihood (nats) a token, each read with up to `length` tokens before."""
    model.eval()
    device = next(model.parameters()).device
    total, count, stride = 0.0, 0, length // 2
    for start in range(0, len(ids) - 1, stride):
        window = ids[start : start + length + 1].to(device)
        # Only what the window before has not scored; its first half is context.
        first = 0 if start == 0 else length - stride
        if len(window) - 1 <= first:
            break
        logits = model(window[None, :-1]).logits[0, first:].float()
        total += functional.cross_entropy(logits, window[1 + first :], reduction="sum").item()
        count += len(window) - 1 - first
    model.train()
    return total / count


def new_model(args: argparse.Namespace, vocab_size: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size,
        num_hidden_layers=args.num_layers,
        num_attention_heads=args.num_heads,
        num_key_value_heads=args.num_kv_heads,
        max_position_embeddings=args.max_length,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def new_optimizer(model: LlamaForCausalLM, args: argparse.Namespace) -> torch.optim.AdamW:
    """Matrices decay, norms' weights do not."""
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": decayed, "weight_decay": args.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98))


def learning_rate_at(step: int, args: argparse.Namespace) -> float:
    """Linear over the first 200 steps, then half a cosine down to a twentieth."""
    warm_up = min(1.0, (step + 1) / 200)
    cosine = 0.5 * (1 + math.cos(math.pi * step / args.steps))
    return args.learning_rate * warm_up * (0.05 + 0.95 * cosine)


@torch.no_grad()
def add_to_average(average: LlamaForCausalLM, model: LlamaForCausalLM, step: int) -> None:
    decay = min(0.998, (step + 1) / (step + 10))
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    text = args.text.read_text(encoding="utf-8")
    split = int(len(text) * 0.9)
    train_text, held_out_text = text[:split], text[split:]
    tokenizer = train_tokenizer(train_text, args.vocab_size)
    held_out = encode(tokenizer, held_out_text, 0.0)
    chars_per_token = len(held_out_text) / len(held_out)

    model = new_model(args, tokenizer.get_vocab_size()).to(device).train()
    add_dropout(model, args.dropout)
    num_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{num_parameters / 1e6:.2f}M parameters on {device}, {chars_per_token:.2f} chars a token"
    )

    optimizer = new_optimizer(model, args)
    average = copy.deepcopy(model)
    best_loss, best_state, best_step = math.inf, None, 0
    started = time.monotonic()
    for step in range(args.steps):
        if step % args.steps_per_encoding == 0:
            ids = encode(tokenizer, train_text, args.bpe_dropout).to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, args)
        starts = torch.randint(len(ids) - args.max_length - 1, (args.batch_size, 1), device=device)
        rows = ids[starts + torch.arange(args.max_length + 1, device=device)]
        with torch.autocast(device, dtype=torch.bfloat16):
            logits = model(rows[:, :-1]).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        add_to_average(average, model, step)
        if (step + 1) % args.steps_per_check == 0 or step + 1 == args.steps:
            held = held_out_loss(average, held_out, args.max_length)
            seconds = time.monotonic() - started
            print(
                f"step {step + 1:5d}  train {loss.item():.3f}  held out {held:.3f} a token, "
                f"{held / chars_per_token:.4f} a character  {seconds:.0f} s",
                flush=True,
            )
            if held < best_loss:
                best_loss, best_step = held, step + 1
                best_state = copy.deepcopy(average.state_dict())

    average.load_state_dict(best_state)
    average = average.to(torch.bfloat16)
    loss = held_out_loss(average, held_out, args.max_length)
    save(args, average.cpu(), tokenizer, loss, loss / chars_per_token, best_step, num_parameters)


def save(
    args: argparse.Namespace,
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    loss: float,
    loss_per_char: float,
    step: int,
    num_parameters: int,
) -> None:
    model.save_pretrained(args.output)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=args.max_length,
    ).save_pretrained(args.output)
    config = model.config
    card = f"""# Demo model

A Llama of {num_parameters / 1e6:.1f}M parameters, trained from scratch on `{args.text.name}` for the
demo and the tests of inflight. It writes something like Shakespeare and knows nothing.

| | |
|---|---|
| layers, hidden size, intermediate size | {config.num_hidden_layers}, {config.hidden_size}, {config.intermediate_size} |
| heads, key/value heads | {config.num_attention_heads}, {config.num_key_value_heads} |
| tokenizer | byte-level BPE, {config.vocab_size} tokens |
| context | {config.max_position_embeddings} tokens |
| held-out loss (last tenth of the text, bf16 weights) | {loss:.3f} nats a token, {loss_per_char:.3f} nats a character |
| weights | bf16, moving average at step {step} of {args.steps} |
| training text | Shakespeare's plays, public domain |
| made by | `scripts/train_demo_model.py`, seed {args.seed} |
"""
    (args.output / "README.md").write_text(card, encoding="utf-8")
    print(json.dumps({"held_out_nats_per_char": loss_per_char, "held_out_nats_per_token": loss}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--intermediate-size", type=int, default=768)
    parser.add_argument("--num-layers", type=int, default=7)
    parser.add_argument("--num-heads", type=int, default=8)
    parser.add_argument("--num-kv-heads", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.3)
    parser.add_argument("--dropout", type=float, default=0.4)
    parser.add_argument("--bpe-dropout", type=float, default=0.1)
    parser.add_argument("--steps-per-encoding", type=int, default=50)
    parser.add_argument("--steps-per-check", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
