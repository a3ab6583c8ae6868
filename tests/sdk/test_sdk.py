"""The official `openai` package against a running Weir.

WEIR_BASE_URL and WEIR_ADMIN_URL name the gateway, which has SmolLM2-135M and MiniLM inside and a 0.5B
model, behind another Weir, as the upstream `large`. `tests/sdk.rs` starts all of it and runs this file.
"""

import asyncio
import json
import os
import time
import unittest
import urllib.request
from typing import Any, Callable

import openai

BASE = os.environ["WEIR_BASE_URL"]
ADMIN = os.environ["WEIR_ADMIN_URL"]
SMALL = "local/smollm2-135m-instruct"
LARGE = "large/qwen2.5-coder-0.5b-instruct"
EMBEDDER = "local/all-minilm-l6-v2"
COUNT = [{"role": "user", "content": "Count from one to twenty in words, separated by commas."}]
CAPITAL = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SETTINGS: dict[str, Any] = {"base_url": f"{BASE}/v1", "api_key": "any", "max_retries": 0, "timeout": 120}


def metric(family: str, *pieces: str) -> float:
    """The sum of a family's samples whose line holds all of these pieces."""
    with urllib.request.urlopen(f"{ADMIN}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    own = (line for line in lines if line.startswith((family + "{", family + " ")))
    return sum(float(line.rsplit(" ", 1)[1]) for line in own if all(piece in line for piece in pieces))


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether this comes to hold within half a minute."""
    for _ in range(300):
        if holds():
            return True
        time.sleep(0.1)
    return False


class Sdk(unittest.TestCase):
    """A client per test."""

    def setUp(self) -> None:
        self.client = openai.OpenAI(**SETTINGS)
        self.addCleanup(self.client.close)

    def ask(self, model: str = SMALL, messages: list[dict[str, Any]] = COUNT, **more: Any) -> Any:
        return self.client.chat.completions.create(model=model, messages=messages, **{"max_tokens": 16, "temperature": 0, **more})


class Chat(Sdk):
    def test_an_answer_has_the_usual_shape(self) -> None:
        for model in (SMALL, LARGE):
            answer = self.ask(model, CAPITAL)
            choice = answer.choices[0]
            self.assertEqual((answer.object, answer.model, len(answer.choices)), ("chat.completion", model, 1))
            self.assertEqual((choice.index, choice.message.role), (0, "assistant"))
            self.assertIn(choice.finish_reason, ("stop", "length"))
            self.assertTrue(choice.message.content)
            self.assertGreater(answer.usage.prompt_tokens, 5)
            self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
            self.assertTrue(answer.id)
            self.assertGreater(answer.created, 1_700_000_000)

    def test_the_upstream_answers_rightly(self) -> None:
        self.assertIn("Paris", self.ask(LARGE, CAPITAL).choices[0].message.content)

    def test_max_tokens_ends_with_length(self) -> None:
        answer = self.ask(max_tokens=3)
        self.assertEqual((answer.choices[0].finish_reason, answer.usage.completion_tokens), ("length", 3))

    def test_a_stream_gives_the_same_text_as_the_whole_answer(self) -> None:
        for model in (SMALL, LARGE):
            whole = self.ask(model, CAPITAL).choices[0]
            chunks = list(self.ask(model, CAPITAL, stream=True))
            self.assertTrue(all(chunk.object == "chat.completion.chunk" and chunk.model == model for chunk in chunks))
            self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
            self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), whole.message.content)
            self.assertEqual(chunks[-1].choices[0].finish_reason, whole.finish_reason)
            self.assertTrue(all(chunk.usage is None for chunk in chunks))
            self.assertEqual(len({chunk.id for chunk in chunks}), 1)

    def test_a_stream_ends_with_usage_where_asked(self) -> None:
        for model in (SMALL, LARGE):
            whole = self.ask(model, CAPITAL).usage
            *chunks, last = self.ask(model, CAPITAL, stream=True, stream_options={"include_usage": True})
            self.assertEqual(last.choices, [])
            self.assertEqual((last.usage.prompt_tokens, last.usage.completion_tokens), (whole.prompt_tokens, whole.completion_tokens))
            self.assertTrue(all(chunk.usage is None for chunk in chunks))

    def test_logprobs_have_the_usual_shape(self) -> None:
        for model in (SMALL, LARGE):
            answer = self.ask(model, logprobs=True, top_logprobs=3)
            content = answer.choices[0].logprobs.content
            self.assertGreater(len(content), 1)
            text = b"".join(bytes(token.bytes) for token in content).decode()
            self.assertEqual(text.strip(), answer.choices[0].message.content.strip())
            for token in content:
                self.assertLessEqual(token.logprob, 0)
                self.assertEqual(len(token.top_logprobs), 3)
                falling = [other.logprob for other in token.top_logprobs]
                self.assertEqual(falling, sorted(falling, reverse=True))
                self.assertAlmostEqual(falling[0], token.logprob, delta=1e-3)

    def test_a_stream_carries_logprobs(self) -> None:
        chunks = [chunk.choices[0] for chunk in self.ask(stream=True, logprobs=True)]
        tokens = [token for choice in chunks if choice.logprobs for token in choice.logprobs.content]
        whole = self.ask(logprobs=True).choices[0].logprobs.content
        self.assertEqual([token.token for token in tokens], [token.token for token in whole])

    def test_n_gives_several_choices(self) -> None:
        answer = self.ask(n=2, temperature=1.5, seed=7, max_tokens=24)
        self.assertEqual(sorted(choice.index for choice in answer.choices), [0, 1])
        self.assertNotEqual(answer.choices[0].message.content, answer.choices[1].message.content)
        chunks = [chunk.choices[0] for chunk in self.ask(n=2, stream=True)]
        self.assertEqual({choice.index for choice in chunks}, {0, 1})
        self.assertEqual(sum(choice.finish_reason is not None for choice in chunks), 2)

    def test_the_same_seed_gives_the_same_answer(self) -> None:
        texts = {self.ask(temperature=1.0, seed=11).choices[0].message.content for _ in range(2)}
        self.assertEqual(len(texts), 1)

    def test_a_stop_text_ends_the_answer_before_it(self) -> None:
        free = self.ask(max_tokens=48).choices[0].message.content
        stop = free[len(free) // 3 : len(free) // 3 + 9]
        self.assertGreater(len(stop), 6)
        for stream in (False, True):
            if stream:
                chunks = [chunk.choices[0] for chunk in self.ask(max_tokens=48, stop=[stop], stream=True)]
                text, reason = "".join(choice.delta.content or "" for choice in chunks), chunks[-1].finish_reason
            else:
                choice = self.ask(max_tokens=48, stop=stop).choices[0]
                text, reason = choice.message.content, choice.finish_reason
            self.assertEqual((text, reason), (free[: free.index(stop)], "stop"))

    def test_a_schema_is_kept(self) -> None:
        schema = {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "sure": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
            "required": ["city", "sure", "size"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        for model in (SMALL, LARGE):
            found = json.loads(self.ask(model, CAPITAL, response_format=form, max_tokens=80).choices[0].message.content)
            self.assertEqual(set(found), {"city", "sure", "size"})
            self.assertIsInstance(found["sure"], bool)
            self.assertIn(found["size"], ("small", "large"))

    def test_a_json_object_is_one(self) -> None:
        asked = [{"role": "user", "content": "Reply with a JSON object with the key capital: what is the capital of France?"}]
        answer = self.ask(LARGE, asked, response_format={"type": "json_object"}, max_tokens=60)
        self.assertIsInstance(json.loads(answer.choices[0].message.content), dict)

    def test_tools_are_called_or_answered_in_the_right_shape(self) -> None:
        asked = [{"role": "user", "content": "What is the weather in Paris? Use the tool."}]
        choice = self.ask(LARGE, asked, tools=[WEATHER], max_tokens=80).choices[0]
        if choice.finish_reason != "tool_calls":
            self.assertTrue(choice.message.content)
            return
        call = choice.message.tool_calls[0]
        self.assertEqual((call.type, call.function.name), ("function", "get_weather"))
        self.assertIsInstance(json.loads(call.function.arguments), dict)

    def test_a_tool_s_answer_is_understood(self) -> None:
        call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
        asked = [
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain, 12 degrees"},
        ]
        self.assertTrue(self.ask(LARGE, asked, tools=[WEATHER], max_tokens=40).choices[0].message.content)

    def test_every_answer_tells_its_story(self) -> None:
        raw = self.client.chat.completions.with_raw_response.create(model=SMALL, messages=CAPITAL, max_tokens=8)
        self.assertEqual(raw.headers["x-weir-served-by"], SMALL)
        self.assertIn("min_logprob=", raw.headers["x-weir-confidence"])
        self.assertEqual(raw.headers["x-weir-cost-usd"], "0")
        self.assertTrue(raw.headers["x-request-id"])
        self.assertEqual(raw.parse().model, SMALL)
        raw = self.client.chat.completions.with_raw_response.create(model=LARGE, messages=CAPITAL, max_tokens=8)
        self.assertEqual(raw.headers["x-weir-served-by"], LARGE)
        self.assertGreater(float(raw.headers["x-weir-cost-usd"]), 0)


class Others(Sdk):
    def test_a_text_completion(self) -> None:
        answer = self.client.completions.create(model=SMALL, prompt="One, two, three,", max_tokens=8, temperature=0)
        self.assertEqual((answer.object, answer.choices[0].finish_reason), ("text_completion", "length"))
        self.assertIn("four", answer.choices[0].text)
        chunks = self.client.completions.create(model=SMALL, prompt="One, two, three,", max_tokens=8, temperature=0, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), answer.choices[0].text)

    def test_embeddings_know_what_is_alike(self) -> None:
        texts = ["How do I reset my password?", "I forgot my password", "The river is deep"]
        answer = self.client.embeddings.create(model=EMBEDDER, input=texts)
        self.assertEqual([one.index for one in answer.data], [0, 1, 2])
        first, alike, other = (one.embedding for one in answer.data)
        self.assertEqual((len(first), answer.model), (384, EMBEDDER))
        self.assertGreater(cosine(first, alike), cosine(first, other) + 0.3)
        self.assertAlmostEqual(cosine(first, first), sum(value * value for value in first), places=3)
        self.assertGreater(answer.usage.prompt_tokens, 10)

    def test_embeddings_come_as_numbers_where_asked(self) -> None:
        packed = self.client.embeddings.create(model=EMBEDDER, input="a sentence").data[0].embedding
        plain = self.client.embeddings.create(model=EMBEDDER, input="a sentence", encoding_format="float").data[0].embedding
        self.assertLess(max(abs(one - other) for one, other in zip(packed, plain)), 1e-5)

    def test_models_are_listed_and_found(self) -> None:
        names = {model.id for model in self.client.models.list()}
        self.assertLessEqual({SMALL, LARGE, EMBEDDER, "auto"}, names)
        for name in (SMALL, LARGE):
            found = self.client.models.retrieve(name)
            self.assertEqual((found.id, found.object), (name, "model"))
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("local/nothing")


def cosine(one: list[float], other: list[float]) -> float:
    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b))

    return dot(one, other) / (dot(one, one) * dot(other, other)) ** 0.5


class Errors(Sdk):
    def test_an_unknown_model_is_not_found(self) -> None:
        with self.assertRaises(openai.NotFoundError) as caught:
            self.ask("gpt-nothing")
        self.assertEqual((caught.exception.code, caught.exception.param), ("model_not_found", "model"))
        self.assertIn("gpt-nothing", caught.exception.message)

    def test_a_wrong_value_is_a_bad_request_that_names_the_field(self) -> None:
        for param, wrong in {"temperature": 9, "max_tokens": -1, "n": 0, "messages": []}.items():
            with self.assertRaises(openai.BadRequestError, msg=param) as caught:
                self.ask(**{param: wrong})
            self.assertEqual(caught.exception.param, param)
            self.assertEqual(caught.exception.type, "invalid_request_error")

    def test_a_wrong_role_names_its_place(self) -> None:
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(messages=[{"role": "robot", "content": "hello"}])
        self.assertEqual(caught.exception.param, "messages[0].role")

    def test_a_prompt_beyond_the_context_says_so(self) -> None:
        for model in (SMALL, LARGE):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.ask(model, [{"role": "user", "content": "word " * 5000}])
            self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_tools_without_a_template_for_them_are_refused(self) -> None:
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(SMALL, tools=[WEATHER])
        self.assertEqual(caught.exception.param, "tools")

    def test_an_impossible_schema_is_a_bad_request(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(response_format=form)
        self.assertIn("response_format", caught.exception.param)

    def test_a_chat_model_does_not_embed(self) -> None:
        with self.assertRaises(openai.BadRequestError):
            self.client.embeddings.create(model=SMALL, input="a sentence")


class Concurrency(Sdk):
    LONG = {"messages": [{"role": "user", "content": "Tell a long story about a river."}], "max_tokens": 1500}

    def idle(self) -> bool:
        return metric("weir_slots", 'state="busy"') == 0 and metric("weir_queue_depth") == 0

    def test_a_client_that_leaves_in_the_middle_frees_its_slot(self) -> None:
        self.assertTrue(eventually(self.idle))
        stream = self.ask(SMALL, stream=True, **self.LONG)
        next(iter(stream))
        self.assertTrue(eventually(lambda: metric("weir_slots", 'state="busy"') > 0))
        stream.close()
        self.assertTrue(eventually(self.idle))

    def test_a_client_whose_time_is_out_frees_its_slot(self) -> None:
        self.assertTrue(eventually(self.idle))
        with self.assertRaises(openai.APITimeoutError):
            self.ask(SMALL, timeout=1, **{**self.LONG, "temperature": 1.0, "logit_bias": {"2": -100}})
        self.assertTrue(eventually(self.idle))

    def test_eight_at_once_are_all_answered(self) -> None:
        async def all_at_once() -> list[Any]:
            async with openai.AsyncOpenAI(**SETTINGS) as client:
                asks = (
                    client.chat.completions.create(
                        model=SMALL, messages=[{"role": "user", "content": f"Say the number {at}."}], max_tokens=12, temperature=0
                    )
                    for at in range(8)
                )
                return await asyncio.gather(*asks)

        answers = asyncio.run(all_at_once())
        self.assertTrue(all(answer.choices[0].message.content for answer in answers))
        self.assertEqual(len({answer.id for answer in answers}), 8)


if __name__ == "__main__":
    unittest.main(verbosity=2)
