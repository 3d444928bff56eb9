"""Many users at once, of three kinds, each of whom sends the next prompt when the last is answered:

agents  a long prompt of instructions that all of a kind share, then a task: what was asked and
        answered so far, and the result of another call
chats   a short prompt of instructions that all share, then all that was said and a new question
others  one prompt that has nothing in common with any other

The traces of `inflight.simulation` go by the clock, whatever the engine has answered; here it is the
engine that sets the pace, and its own answers are part of what is said next.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from inflight import LLM, SamplingParams


@dataclass(frozen=True)
class Mix:
    """Who there is; tokens."""

    num_agents: int = 24
    num_agent_kinds: int = 6  # the n-th 1/n times as popular as the first
    agent_instructions: int = 4096
    agent_calls: int = 3
    agent_result: int = 256  # in, each call
    num_chats: int = 24
    chat_instructions: int = 256
    chat_turns: int = 4
    chat_question: int = 96
    num_others: int = 48
    other_prompt: int = 1024
    answer: int = 128

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt and its answer."""
        agent = self.agent_instructions + self.agent_calls * (self.agent_result + self.answer)
        chat = self.chat_instructions + self.chat_turns * (self.chat_question + self.answer)
        return max(agent, chat, self.other_prompt + self.answer)


@dataclass(frozen=True)
class User:
    said: list[int]  # before the first turn
    turns: list[list[int]]  # what is added to all that was said


def draw_users(mix: Mix, vocab_size: int, seed: int) -> list[User]:
    """In no order of kinds."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return draw.choices(range(3, vocab_size), k=count)

    kinds = [ids(mix.agent_instructions) for _ in range(mix.num_agent_kinds)]
    popularity = [1 / (n + 1) for n in range(mix.num_agent_kinds)]
    users = [
        User(said, [ids(mix.agent_result) for _ in range(mix.agent_calls)])
        for said in draw.choices(kinds, popularity, k=mix.num_agents)
    ]
    common = ids(mix.chat_instructions)
    users += [
        User(common, [ids(mix.chat_question) for _ in range(mix.chat_turns)])
        for _ in range(mix.num_chats)
    ]
    users += [User([], [ids(mix.other_prompt)]) for _ in range(mix.num_others)]
    draw.shuffle(users)
    return users


async def _serve(llm: LLM, user: User, params: SamplingParams) -> int:
    said, total = list(user.said), 0
    for turn in user.turns:
        said += turn
        output = await llm.generate_async(said, params).aresult()
        total += len(said)
        said += output.outputs[0].token_ids
    return total


def serve_all(llm: LLM, users: list[User], num_out: int) -> tuple[int, int]:
    """Tokens of all prompts, of all answers. Greedy, end ids ignored."""
    params = SamplingParams(max_tokens=num_out, ignore_eos=True)

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(_serve(llm, user, params) for user in users))

    num_in = sum(asyncio.run(all_of_them()))
    return num_in, num_out * sum(len(user.turns) for user in users)
