"""The model in this process: what constraints allow, what decoding costs, and the HTTP server it brings along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from optimizer.config.keys import LM
from optimizer.errors import ConfigError
from optimizer.lm import open_backend
from optimizer.lm.backend import AttemptError, CallRequest, Reply
from optimizer.lm.embedded import EmbeddedBackend, gguf_path, open_embedded
from optimizer.lm.grammar import gbnf, only_json, replies
from optimizer.prompts.spec import Choice, Constraint, Json, Line, Message, Number, Text

HEAD = "".join(
    f"Message: {message}\nTeam: {team}\n\n"
    for message, team in [
        ("My parcel has not arrived.", "delivery"),
        ("I was charged twice this month.", "billing"),
        ("The app closes when I open it.", "technical"),
        ("Where is the courier?", "delivery"),
        ("Please send the invoice again.", "billing"),
        ("I cannot log in any more.", "technical"),
    ]
)
TEAMS = Choice(("delivery", "billing", "technical"))
PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "number"},
        "kind": {"type": "string", "enum": ["cat", "dog"]},
        "is_old": {"type": "boolean"},
    },
    "required": ["name", "age", "kind", "is_old"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def backend() -> Iterator[EmbeddedBackend]:
    opened = EmbeddedBackend(gguf_path("embedded"), n_engines=1)
    yield opened
    opened.close()


def pattern(prompt: str, *constraint: object, max_tokens: int = 40, stop: tuple[str, ...] = ("\n",)) -> CallRequest:
    pieces: Constraint = constraint  # type: ignore[assignment]
    return CallRequest(messages=(Message("user", prompt),), max_tokens=max_tokens, stop=stop, constraint=pieces)


def chat(prompt: str, *constraint: object, max_tokens: int = 40) -> CallRequest:
    pieces: Constraint = constraint  # type: ignore[assignment]
    messages = (Message("system", "You sort messages by team."), Message("user", prompt))
    return CallRequest(messages=messages, max_tokens=max_tokens, constraint=pieces)


def label(message: str) -> CallRequest:
    return pattern(f"{HEAD}Message: {message}\nTeam:", Text(" "), TEAMS)


def decoded_in_full(backend: EmbeddedBackend, request: CallRequest) -> Reply:
    """The same request without the short cut for labels: the grammar ends the reply, nothing else does."""
    reply: Reply = backend._engines[0]._call(request, 40)
    return reply


# -- labels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("delivery", "billing", "technical"),
        ("SearchCreativeWork", "SearchScreeningEvent", "AddToPlaylist", "GetWeather"),
        ("ham", "hammer", "hamster"),
        ("no", "not sure", "yes"),
        ("très bien", "très mal", "日本"),
        ('say "hi"', "back\\slash", "tab\there"),
    ],
)
def test_a_label_is_what_full_decoding_gives(options: tuple[str, ...], backend: EmbeddedBackend) -> None:
    """Stopping at the first token that decides never changes the answer, also for labels that begin alike."""
    for message in ("The parcel came too late.", "Hit the nail."):
        prompt = f"Message: {message}\nLabel:"
        for request in (pattern(prompt, Text(" "), Choice(options)), chat(message, Choice(options))):
            found = backend.complete(request)
            assert found.text.strip() in options
            assert found.finish_reason == "stop"
            assert found.text == decoded_in_full(backend, request).text


def test_labels_follow_the_examples(backend: EmbeddedBackend) -> None:
    """The model reads its prompt: with six worked examples it sorts plain cases, and not all into one class."""
    asked = {"Where is the courier?": "delivery", "I was charged twice this month.": "billing"}
    assert {message: backend.complete(label(message)).text.strip() for message in asked} == asked


def test_a_label_takes_one_short_decode(backend: EmbeddedBackend) -> None:
    """Labels that differ in their first tokens are known after two of them, however long they are."""
    options = ("a very long label about deliveries", "some other long label about money")
    assert backend.complete(pattern("Label:", Text(" "), Choice(options))).tokens_out <= 2


def test_what_prompts_share_is_read_once(backend: EmbeddedBackend) -> None:
    """The second row of a candidate costs its own tokens only: a fraction of the first."""
    head = "These notes were taken at the harbour. " * 40

    def seconds(row: str) -> float:
        started = time.perf_counter()
        found = backend.complete(pattern(f"{head}\nMessage: {row}\nTeam:", Text(" "), TEAMS))
        assert found.tokens_in > 300
        return time.perf_counter() - started

    first = seconds("one")
    assert min(seconds("two"), seconds("three")) < first / 3


def test_labels_are_not_cut_by_max_tokens(backend: EmbeddedBackend) -> None:
    """A label is whole even where the limit is shorter than it."""
    request = pattern("Label:", Text(" "), Choice(("SearchCreativeWork", "SearchScreeningEvent")), max_tokens=1)
    assert backend.complete(request).text in (" SearchCreativeWork", " SearchScreeningEvent")


# -- other constraints -----------------------------------------------------------------------------


def test_a_number_is_a_number(backend: EmbeddedBackend) -> None:
    """Only digits, a sign and a point come back, and the number ends where its line would."""
    text = backend.complete(pattern("2 + 3 = 5\n4 + 4 = 8\n1 + 1 =", Text(" "), Number())).text
    assert float(text) == int(text)
    assert len(text.strip()) <= 4


def test_a_boolean_is_yes_or_no(backend: EmbeddedBackend) -> None:
    """Booleans are a choice of two words, in both layouts."""
    choice = Choice(("yes", "no"))
    assert backend.complete(pattern("Is the sky blue?\nAnswer:", Text(" "), choice)).text in (" yes", " no")
    assert backend.complete(chat("Is the sky blue?", choice)).text in ("yes", "no")


@pytest.mark.parametrize("stop", [(), ("\n",)])
def test_json_fits_its_schema(stop: tuple[str, ...], backend: EmbeddedBackend) -> None:
    """A lone JSON reply has every property with its type; a stop text inside it does not cut it."""
    request = pattern("A pet as JSON.\nPet:", Text(" "), Json(json.dumps(PET)), max_tokens=120, stop=stop)
    check_pet(json.loads(backend.complete(request).text))
    schema = json.dumps(PET)
    check_pet(json.loads(backend.complete(chat("A dog called Rex.", Json(schema), max_tokens=120)).text))


@pytest.mark.parametrize("is_chat", [True, False])
def test_json_among_other_pieces_fits_its_schema_too(is_chat: bool, backend: EmbeddedBackend) -> None:
    """A line of reasoning and then an object: both are there, in their order."""
    pieces = (Text("Thought: "), Line(), Text("\nPet: "), Json(json.dumps(PET)))
    request = chat("A dog called Rex.", *pieces) if is_chat else pattern("A dog called Rex.\n", *pieces, stop=("\n\n",))
    text = backend.complete(replace(request, max_tokens=500)).text
    thought, _, pet = text.partition("\nPet: ")
    assert thought.startswith("Thought: ")
    check_pet(json.loads(pet))


def check_pet(pet: dict[str, object]) -> None:
    assert list(pet) == ["name", "age", "kind", "is_old"]
    assert [type(value) in (int, float, str, bool) for value in pet.values()] == [True] * 4
    assert pet["kind"] in ("cat", "dog")
    assert isinstance(pet["is_old"], bool)
    assert isinstance(pet["name"], str)


def test_any_json_is_allowed_where_the_schema_says_nothing(backend: EmbeddedBackend) -> None:
    """A schema without properties asks for some object, alone or among other pieces."""
    schema = '{"type": "object"}'
    assert '"{" space (string' in gbnf((Text("x"), Json(schema)))
    for grammar in (schema, '{"type": "array"}', '{"type": "string"}', "{}"):
        request = pattern("x", Text("go: "), Json(grammar), max_tokens=20, stop=("\n",))
        assert backend.complete(request).text.startswith("go: ")


def test_replies_that_can_be_listed() -> None:
    """Fixed texts around one choice can be listed; two choices or free text cannot."""
    assert replies((Text("<a>"), Choice(("x", "y")), Text("</a>"))) == ("<a>x</a>", "<a>y</a>")
    assert replies((Choice(("x", "y")), Choice(("1", "2")))) == ()
    assert replies((Choice(("x", "y")), Line())) == ()
    assert replies((Text("x"),)) == ()
    assert only_json((Text(" "), Json("{}"))) == "{}"
    assert only_json((Text("a"), Json("{}"))) is None


# -- free text ---------------------------------------------------------------------------------------


def test_the_same_request_gives_the_same_text(backend: EmbeddedBackend) -> None:
    """At temperature 0, and with one sample number above it; other sample numbers give other texts."""
    cold = pattern("Once upon a time", max_tokens=12)
    assert backend.complete(cold) == backend.complete(cold)
    warm = replace(cold, temperature=1.0, sample=3)
    texts = {backend.complete(replace(warm, sample=i)).text for i in range(4)}
    assert len(texts) > 1
    assert backend.complete(warm).text in texts


def test_stop_texts_end_a_reply_and_limits_cut_it(backend: EmbeddedBackend) -> None:
    """What follows a stop text is not decoded; a reply that is cut says so."""
    prompt = "Count.\n1, 2, 3, 4, 5, 6, 7,"
    stopped = backend.complete(pattern(prompt, stop=(" 10",)))
    assert (stopped.text, stopped.finish_reason) == (" 8, 9,", "stop")
    cut = backend.complete(pattern(prompt, stop=(), max_tokens=5))
    assert (cut.finish_reason, cut.tokens_out) == ("length", 5)


def test_patterns_are_continued_and_turns_are_answered(backend: EmbeddedBackend) -> None:
    """A single user message is continued as it stands; with a system message the chat template is put around."""
    plain = backend.complete(pattern("red, green,", stop=(), max_tokens=3))
    turns = (Message("system", "x"), Message("user", "red, green,"))
    templated = backend.complete(CallRequest(messages=turns, max_tokens=3))
    assert plain.tokens_in < templated.tokens_in
    assert plain.text != templated.text


# -- errors and the server ---------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_a_typed_error(backend: EmbeddedBackend) -> None:
    """A prompt beyond the context fails as such, and the next call works."""
    with pytest.raises(AttemptError, match="exceeds the available context") as caught:
        backend.complete(pattern("hello " * 9000))
    assert (caught.value.kind, caught.value.is_retryable) == ("context_length", False)
    assert backend.complete(label("Where is it?")).text


def test_text_that_is_no_utf8_is_a_typed_error(backend: EmbeddedBackend) -> None:
    """Half a character in a row fails that row."""
    with pytest.raises(AttemptError) as caught:
        backend.complete(pattern("a\ud835b"))
    assert caught.value.kind == "invalid_request"


def test_the_model_is_served_on_loopback_too(backend: EmbeddedBackend) -> None:
    """Any OpenAI client reaches the same model at `url`; our own hosted backend gets the same answer there."""
    assert backend.url.startswith("http://127.0.0.1:")
    request = chat("Where is my parcel?", max_tokens=8)
    hosted = open_backend(LM(model="openai/local", api_base=backend.url))
    found, expected = hosted.complete(request), backend.complete(request)
    hosted.close()
    assert (found.text, found.tokens_in) == (expected.text, expected.tokens_in)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    """Each mistake has its own line: missing, not GGUF, damaged, not a hub name."""
    weights, damaged = tmp_path / "weights.gguf", tmp_path / "damaged.gguf"
    weights.write_bytes(b"PK\x03\x04 something else")
    damaged.write_bytes(gguf_path("embedded").read_bytes()[:100_000])
    for model, words in {
        f"gguf:{tmp_path / 'none.gguf'}": "no such file",
        f"gguf:{tmp_path}": "no such file",
        f"gguf:{weights}": "weights.gguf is no GGUF file",
        f"gguf:{damaged}": "damaged.gguf cannot be loaded",
        "gguf:hub:owner/repo": "expected gguf:hub:owner/repo/file.gguf",
    }.items():
        with pytest.raises(ConfigError, match=words):
            open_backend(LM(model=model))


@pytest.mark.slow
def test_a_model_that_was_never_asked_closes_too() -> None:
    """Opening and closing at once, many times, never hangs."""
    script = """
from optimizer.lm.embedded import open_embedded
for _ in range(15):
    open_embedded("embedded").close()
print("closed")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment)
    assert (found.returncode, found.stdout) == (0, "closed\n"), found.stderr


def test_a_closed_model_says_so() -> None:
    """Closing stops the server; later calls are errors of ours, and closing twice is fine."""
    opened = open_embedded(f"gguf:{gguf_path('embedded')}")
    hosted = open_backend(LM(model="openai/local", api_base=opened.url))
    opened.close()
    opened.close()
    with pytest.raises(AttemptError, match="is closed"):
        opened.complete(label("Where is it?"))
    with pytest.raises(AttemptError) as caught:
        hosted.complete(chat("Hello"))
    hosted.close()
    assert caught.value.kind == "unavailable"


def test_identity_follows_the_content(backend: EmbeddedBackend, tmp_path: Path) -> None:
    """Two files of one name are two models; one file under two names of its folder is one."""
    linked = tmp_path / gguf_path("embedded").name
    linked.symlink_to(gguf_path("embedded"))
    again = open_embedded(f"gguf:{linked}")
    again.close()
    assert again.identity == backend.identity
    assert backend.identity.startswith("gguf:SmolLM2-135M-Instruct")
    assert backend.is_local
