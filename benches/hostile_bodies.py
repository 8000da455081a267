"""The bodies of ``benches.hostile``: damaged in one place, or built to be slow."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

import dynamo_tito as tito
from dynamo_tito._types import Wire
from support.bodies import DIALECTS, Dialect, Sample
from support.samples import invent
from support.writing import compact

DIALECT: Final[dict[Wire, Dialect]] = {
    "dynamo_chat": DIALECTS["dynamo_chat"],
    "dynamo_completions": DIALECTS["dynamo_completions"],
    "vllm_generate": DIALECTS["prime_generate"],
    "vllm_chat": DIALECTS["vllm_chat"],
    "sglang_generate": DIALECTS["sglang"],
}

ERROR_SIZES: Final = ("small", "1 MB")

_BYTES: Final = 1_000_000
_TOKEN, _LOGPROB = 77_777, -0.765625
"""What the damaged position holds; nothing else in a body does."""

_ROW: Final[dict[str, Any]] = {"num_layers": 4, "top_k": 2}


def _bytes_per_token(dialect: Dialect) -> float:
    return len(compact(dialect.build([_sample(1000)], dialect.container))) / 1000


def _sample(tokens: int, *, layers: int = 0, at: float | None = None) -> Sample:
    sample = invent(7, prompt=8, completion=tokens, layers=layers)
    if at is None:
        return sample
    place = min(tokens - 2, max(1, int(at * tokens)))
    ids = [token if token != _TOKEN else token + 1 for token in sample.tokens]
    return replace(
        sample,
        tokens=[*ids[:place], _TOKEN, *ids[place + 1 :]],
        logprobs=[*sample.logprobs[:place], _LOGPROB, *sample.logprobs[place + 1 :]],
    )


def plain(wire: Wire, size: int = _BYTES) -> bytes:
    """An answer of that many bytes, with nothing unusual in it."""
    dialect = DIALECT[wire]
    tokens = int(size / _bytes_per_token(dialect))
    return compact(dialect.build([_sample(tokens)], dialect.container))


# ----------------------------------------------------------------------------------------------------------- damage


@dataclass(frozen=True, slots=True)
class Damage:
    """A body with one error in it, and the same without."""

    name: str
    kind: str
    broken: bytes
    whole: bytes
    options: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)


_Edit = tuple[str, bytes, bytes]
"""Kind of the error, what stands at the position, and what shall stand there."""

_ID: Final = b",%d," % _TOKEN
_VALUE: Final = json.dumps(_LOGPROB).encode()

_EVERYWHERE: Final[tuple[_Edit, ...]] = (
    ("type", _ID, b",true,"),
    ("range", _ID, b",3000000000,"),
    ("count", _ID, b",%d,5," % _TOKEN),
    ("syntax", _ID, b",%d;" % _TOKEN),
    ("too_deep", _ID, b"," + b"[" * 200 + b"]" * 200 + b","),
    ("utf8", _ID, b',"\xff",'),
    ("type", _VALUE, b'"x"'),
    ("range", _VALUE, b"-1e999"),
    ("no_logprob", _VALUE, b"-9999.0"),
    ("syntax", _VALUE, b"-.5"),
)
_NAMED: Final[tuple[_Edit, ...]] = (
    ("identity", b"token_id:%d" % _TOKEN, b"token_id:5"),
    ("duplicate_key", b'"logprob":' + _VALUE, b'"logprob":1,"logprob":1'),
    ("missing", b'"logprob":' + _VALUE, b'"x":1'),
    ("type", b'"token_id:%d"' % _TOKEN, b"5"),
)
_EDITS: Final[dict[Wire, tuple[_Edit, ...]]] = {
    "dynamo_chat": _EVERYWHERE,
    "dynamo_completions": (*_EVERYWHERE, ("identity", b'"w%d"' % _TOKEN, b'"token_id:5"')),
    "vllm_generate": _EVERYWHERE + _NAMED,
    "vllm_chat": _EVERYWHERE + _NAMED,
    "sglang_generate": (
        *_EVERYWHERE,
        ("identity", b"[%s,%d," % (_VALUE, _TOKEN), b"[%s,5," % _VALUE),
        ("type", b"[%s,%d," % (_VALUE, _TOKEN), b"[%s],[5," % _VALUE),
        ("no_logprob", b"[%s,%d," % (_VALUE, _TOKEN), b"[null,%d," % _TOKEN),
    ),
}
_PLACES: Final = {"early": 0.0, "middle": 0.5, "late": 1.0}


def damages(wire: Wire, size: str) -> Iterator[Damage]:
    """Every kind of error at every place where it can be."""
    dialect = DIALECT[wire]
    tokens = 12 if size == "small" else int(_BYTES / _bytes_per_token(dialect))
    for place, share in _PLACES.items():
        sample = _sample(tokens, at=share)
        whole = compact(dialect.build([sample], dialect.container))
        for kind, old, new in _EDITS[wire]:
            broken = whole.replace(old, new, 1)
            assert broken != whole, (wire, kind, old)
            yield Damage(f"{size}, {kind}: {new[:24]!r} {place}", kind, broken, whole, {"wire": wire})
        if size != "small":
            # Cut out of one that is larger, so that the sizes agree.
            twice = plain(wire, 2 * _BYTES)
            yield Damage(f"{size}, truncated, {place}", "truncated", twice[: len(whole)], whole, {"wire": wire})
        yield from _of_prompt(wire, size, place, sample, whole)
        yield from _of_experts(wire, size, place, share, tokens)
    sample = _sample(tokens)
    whole = compact(dialect.build([sample], dialect.container))
    yield from _of_document(wire, size, whole)


def _blob(body: bytes) -> bytes:
    """The text of its routed experts."""
    found: list[bytes] = re.findall(rb'"([A-Za-z0-9+/=]+)"', body)
    return max(found, key=len)


def _of_document(wire: Wire, size: str, whole: bytes) -> Iterator[Damage]:
    error = b'"error":{"message":"the engine failed","code":500}'
    choices = b'"output_ids"' if wire == "sglang_generate" else b'"choices"'
    edits = {
        "trailing_data": whole + b"x",
        "server": b"{" + error + b"," + whole[1:],
        "server at the end": whole[:-1] + b"," + error + b"}",
        "duplicate_key": whole[:-1] + b"," + choices + b":[]}",
        "missing": whole.replace(choices, b'"x"', 1),
        "type": b"[" + whole + b"]" if wire != "sglang_generate" else b"[[" + whole + b"]]",
        "utf8 at the end": whole[:-1] + b',"x":"\xff"}',
    }
    for name, broken in edits.items():
        yield Damage(f"{size}, {name}", name.split(" ")[0], broken, whole, {"wire": wire})


def _of_prompt(wire: Wire, size: str, place: str, sample: Sample, whole: bytes) -> Iterator[Damage]:
    if not DIALECT[wire].echo:
        return
    options = {"wire": wire, "prompt_token_ids": np.array(sample.prompt, np.int32)}
    other = {"prompt_token_ids": np.array([*sample.prompt[:-1], 1], np.int32)}
    yield Damage(f"{size}, prompt_mismatch, {place}", "prompt_mismatch", whole, whole, options, other)


def _of_experts(wire: Wire, size: str, place: str, share: float, tokens: int) -> Iterator[Damage]:
    dialect = DIALECT[wire]
    sample = _sample(tokens if size == "small" else tokens // 2, layers=4)
    document = dialect.build([sample], dialect.container)
    whole = compact(document)
    options = _ROW | {"wire": wire, "prompt_len": len(sample.prompt)}
    blob = _blob(whole)
    # Behind the first characters, which say what it is.
    at = whole.index(blob) + min(len(blob) - 5, max(24, int(share * len(blob))))
    yield Damage(f"{size}, base64, {place}", "base64", whole[:at] + b"!" + whole[at + 1 :], whole, options)
    if place == "early":
        for kind, extra in {"rows": {"prompt_len": 3}, "shape": {"num_layers": 3}}.items():
            if kind == "shape" and dialect.container == "bare":
                continue
            yield Damage(f"{size}, {kind}", kind, whole, whole, options, extra)
        yield Damage(f"{size}, size", "size", whole.replace(blob, blob[:-8], 1), whole, options)


# ------------------------------------------------------------------------------------------------------ slow bodies


@dataclass(frozen=True, slots=True)
class Attack:
    """A body that is built to be slow, how it is decoded, and what must come of it."""

    name: str
    body: bytes
    expected: str | bytes
    """The kind of the error, or a plain body of the same value."""

    options: dict[str, Any]
    decode: Callable[..., Any] = tito.decode

    def prove(self, found: Any) -> None:
        """Check the value or the error."""
        if isinstance(self.expected, str):
            kind = "server" if isinstance(found, tito.ServerError) else getattr(found, "kind", None)
            assert kind == self.expected, f"{self.name}: {found!r}"
            return
        truth = self.decode(self.expected, **self.options)
        assert not isinstance(found, Exception), f"{self.name}: {found!r}"
        pairs = zip(found, truth, strict=True) if isinstance(found, list) else [(found, truth)]
        for one, other in pairs:
            for name in ("token_ids", "logprobs"):
                assert np.array_equal(getattr(one, name), getattr(other, name)), f"{self.name}: {name}"


def attacks(wire: Wire) -> Iterator[Attack]:
    """All of them."""
    small = plain(wire, 1_000)
    for name, value in _values().items():
        yield Attack(f"unread {name}", small[:-1] + b',"x":' + value + b"}", small, {"wire": wire})
    for name, members in _members().items():
        yield Attack(name, small[:-1] + b"," + members + b"}", small, {"wire": wire})
    body = plain(wire)
    yield Attack("white space between all tokens", _spaced(body, b" "), body, {"wire": wire})
    yield Attack(
        "much white space between all tokens",
        _spaced(plain(wire, 60_000), b" \n\t\r" * 8),
        plain(wire, 60_000),
        {"wire": wire},
    )
    yield Attack("escapes in every string", _escaped(plain(wire, 200_000)), plain(wire, 200_000), {"wire": wire})
    yield from _numbers(wire)
    yield from _experts(wire)
    yield from _metadata(wire, small)
    yield from _errors(wire, small)
    yield from _many(wire)
    yield from _ragged(wire)


def _repeat(unit: bytes, separator: bytes = b",") -> bytes:
    return separator.join([unit] * (_BYTES // (len(unit) + len(separator))))


def _values() -> dict[str, bytes]:
    """Values that are not read."""
    deep = b"[" * 120 + b"]" * 120
    maps = b'{"a":' * 120 + b"1" + b"}" * 120
    return {
        "nesting": b"[" + _repeat(deep) + b"]",
        "nested objects": b"[" + _repeat(maps) + b"]",
        "empty arrays": b"[" + _repeat(b"[]") + b"]",
        "empty objects": b"[" + _repeat(b"{}") + b"]",
        "integer": b"7" * _BYTES,
        "fraction": b"0." + b"7" * _BYTES,
        "exponent": b"1e" + b"7" * _BYTES,
        "digits": b"[" + _repeat(b"7") + b"]",
        "digits of a list that ends otherwise": b"["
        + _repeat(b"[1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,x]".replace(b"x", b"1.5"))
        + b"]",
        "escapes": b'"' + b"\\n" * (_BYTES // 2) + b'"',
        "unicode escapes": b'"' + b"\\u0041" * (_BYTES // 6) + b'"',
        "surrogate pairs": b'"' + b"\\ud83d\\ude00" * (_BYTES // 12) + b'"',
        "lone surrogates": b'"' + b"\\ud800" * (_BYTES // 6) + b'"',
        "two-byte text": b'"' + "é".encode() * (_BYTES // 2) + b'"',
        "three-byte text": b'"' + "你".encode() * (_BYTES // 3) + b'"',
        "four-byte text": b'"' + "😀".encode() * (_BYTES // 4) + b'"',
        "short strings": b"[" + _repeat(b'"a"') + b"]",
        "short two-byte strings": b"[" + _repeat('"é"'.encode()) + b"]",
        "short escaped strings": b"[" + _repeat(b'"\\n"') + b"]",
        "literals": b"[" + _repeat(b"null") + b"]",
        "white space": b"[" + b" " * _BYTES + b"]",
        "line breaks": b"[" + b"\r\n" * (_BYTES // 2) + b"]",
    }


def _members() -> dict[str, bytes]:
    """Unknown keys at the top."""
    return {
        "a hundred thousand keys": b",".join(b'"k%d":1' % n for n in range(_BYTES // 11)),
        "keys of one letter": _repeat(b'"a":1'),
        "empty keys": _repeat(b'"":1'),
        "one key over and over": _repeat(b'"choicez":1'),
        "escaped keys": _repeat(b'"\\u0061\\n":1'),
        "keys of escapes alone": _repeat(b'"%b":1' % (b"\\u0061" * 12)),
        "a key of a megabyte": b'"' + b"a" * _BYTES + b'":1',
        "an escaped key of a megabyte": b'"' + b"\\u0061" * (_BYTES // 6) + b'":1',
        "two-byte keys": _repeat('"éé":1'.encode()),
    }


def _spaced(body: bytes, space: bytes) -> bytes:
    """White space before and behind every token."""
    out, text = [], False
    for byte in body:
        one = bytes([byte])
        if one == b'"':
            text = not text
        out.append(space + one + space if not text and one in b"{}[]:," else one)
    return b"".join(out)


def _escaped(body: bytes) -> bytes:
    """Every character of every string as an escape."""

    def escaped(match: re.Match[bytes]) -> bytes:
        text = json.loads(match[0])
        return b'"%b"' % b"".join(b"\\u%04x" % ord(character) for character in text)

    return re.sub(rb'"(?:[^"\\]|\\.)*"', escaped, body)


def _logprobs(wire: Wire, texts: list[str]) -> bytes:
    """An answer with these log-probabilities, as they are written."""
    dialect = DIALECT[wire]
    marks = [-(2.0**-20) * (place + 1) for place in range(len(texts))]
    sample = replace(_sample(len(texts)), logprobs=marks)
    document = dialect.build([sample], dialect.container)
    written = json.dumps(document, separators=(",", ":"))
    pieces: list[str] = []
    at = 0
    for mark, text in zip(marks, texts, strict=True):
        found = written.index(repr(mark), at)
        pieces += written[at:found], text
        at = found + len(repr(mark))
    return "".join((*pieces, written[at:])).encode()


def _halfway(rng: random.Random, exponent: int, digits: int | None) -> str:
    """A decimal between two doubles, or so near to it that only all of its digits decide."""
    mantissa = rng.getrandbits(52) | 1 << 52
    numerator, power = 2 * mantissa + 1, exponent - 53
    whole = str(numerator * 10 ** (-power) >> -power) if power < 0 else str(numerator << power)
    scale = min(0, power)
    if digits is not None and len(whole) > digits:
        scale += len(whole) - digits
        whole = whole[:digits]
    return f"-{whole[0]}.{whole[1:] or '0'}e{scale + len(whole) - 1}"


def _numbers(wire: Wire) -> Iterator[Attack]:
    rng = random.Random(0)

    def same(name: str, texts: list[str]) -> Attack:
        return Attack(
            name, _logprobs(wire, texts), _logprobs(wire, [repr(float(text)) for text in texts]), {"wire": wire}
        )

    for digits in (19, 20, 25, 40, 100, 400, None):
        for exponent in (-1, -60, -300, -1000):
            one = _halfway(rng, exponent, digits)
            texts = [_halfway(rng, exponent, digits) for _ in range(max(2, 300_000 // (len(one) + 40)))]
            yield same(f"halfway numbers, {digits or 'all'} digits, 2**{exponent}", texts)
    yield same("subnormal numbers", [f"-{rng.randrange(1, 10**16)}e-330" for _ in range(8_000)])
    yield same("numbers of 17 digits, e-300", [f"-{rng.randrange(10**16, 10**17)}e-300" for _ in range(8_000)])
    yield same("tiny exponents", [f"-1e-{rng.randrange(10**8, 10**9)}" for _ in range(8_000)])
    yield same("a fraction of a megabyte", ["-0." + "7" * _BYTES, "-0.5"])
    yield same("fractions of ten kilobytes", ["-0." + "7" * 10_000] * 100)
    yield same("zeros of a megabyte", ["-0." + "0" * _BYTES + "7", "-0.5"])
    yield Attack("an integer of a megabyte", _logprobs(wire, ["7" * _BYTES, "-0.5"]), "range", {"wire": wire})
    body = plain(wire, 2_000)
    mark = b",%d," % invent(7, prompt=8, completion=3, layers=0).tokens[1]
    grown = body.replace(mark, b"," + b"7" * _BYTES + b",", 1) if mark in body else None
    if grown is not None:
        yield Attack("an id of a megabyte", grown, "range", {"wire": wire})


def _experts(wire: Wire) -> Iterator[Attack]:
    dialect = DIALECT[wire]
    sample = _sample(8_000, layers=4)
    whole = compact(dialect.build([sample], dialect.container))
    blob = _blob(whole)
    options = _ROW | {"wire": wire, "prompt_len": len(sample.prompt)}
    for name, share in {"every character": 1, "one character in ten": 10}.items():
        text = b"".join(b"\\u%04x" % byte if n % share == 0 else b"%c" % byte for n, byte in enumerate(blob))
        yield Attack(f"routed experts, {name} escaped", whole.replace(blob, text, 1), whole, options)
    text = blob.replace(b"/", b"\\/")
    yield Attack("routed experts, slashes escaped", whole.replace(blob, text, 1), whole, options)


def _metadata(wire: Wire, small: bytes) -> Iterator[Attack]:
    """What is passed on: as many values as are taken, as many bytes, and more of either."""
    if wire == "sglang_generate":
        old, key = b'"weight_version":"default"', b'"weight_versions"'
        wrap = b"[%b]"
    else:
        old, key = (b'"usage":', b'"usage"') if b'"usage":' in small else (b'"choices":', b'"usage"')
        wrap = b"%b"
    room = b'"z":"' + b"z" * (_BYTES - 20_000) + b'"'
    many = {
        "many keys": b"{" + b",".join(b'"k%d":1' % n for n in range(80_000)) + b"}",
        "one key over and over": b"{" + _repeat(b'"a":1') + b"}",
        "nesting": b'{"a":[' + _repeat(b"[" * 100 + b"]" * 100) + b"]}",
        "maps": b'{"a":[' + _repeat(b'{"a":1,"b":2}') + b"]}",
    }
    forms = many | {
        "500 keys": b"{" + b"".join(b'"k%d":1,' % n for n in range(500)) + room + b"}",
        "1,000 texts": b'{"a":[' + b",".join([b'"text"'] * 1_000) + b"]," + room + b"}",
        "escapes": b'{"a":"' + b"\\n" * (_BYTES // 2) + b'"}',
        "a long fraction": b'{"a":0.' + b"7" * _BYTES + b"}",
        "fractions of 1,000 digits": b'{"a":[' + _repeat(b"0." + b"7" * 1_000) + b"]}",
    }
    for name, form in forms.items():
        value = key + b":" + wrap % form
        if old == b'"usage":':
            at = small.index(old)
            end = _end(small, at + len(old))
            body = small[:at] + value + small[end:]
        else:
            body = small.replace(old, value if old.startswith(b'"weight') else value + b"," + old, 1)
        yield Attack(f"metadata of {name}", body, "too_many" if name in many else small, {"wire": wire})
        huge = body.replace(form, form[:-1] + b',"z":"' + b"z" * (1 << 20) + b'"}', 1)
        yield Attack(f"too much metadata of {name}", huge, "too_large", {"wire": wire})


def _end(text: bytes, at: int) -> int:
    """Where the object that begins at `at` ends."""
    depth = 0
    for place in itertools.count(at):
        depth += {0x7B: 1, 0x7D: -1}.get(text[place], 0)
        if not depth:
            return place + 1
    raise AssertionError


def _errors(wire: Wire, small: bytes) -> Iterator[Attack]:
    """Servers that say no at length."""
    texts = {
        "a long message": b"a" * _BYTES,
        "a message of spaces": b"a " * (_BYTES // 2),
        "a message of line breaks": b"\\n" * (_BYTES // 2),
        "a message of escapes": b"\\u4f60" * (_BYTES // 6),
        "a message in Chinese": "你".encode() * (_BYTES // 3),
    }
    for name, text in texts.items():
        yield Attack(f"error with {name}", b'{"error":{"message":"' + text + b'"}}', "server", {"wire": wire})
        flat = b'{"message":"' + text + b'","type":"x","code":500}'
        yield Attack(f"flat error with {name}", flat, "server", {"wire": wire})
    many = _repeat(b'"messagf":"x"')
    yield Attack("error of many members", b'{"error":{' + many + b"}}", "server", {"wire": wire})
    yield Attack(
        "error behind a value", small[:-1] + b',"error":"' + b"\\n" * (_BYTES // 2) + b'"}', "server", {"wire": wire}
    )


def _many(wire: Wire) -> Iterator[Attack]:
    """Choices by the thousand."""
    dialect = DIALECT[wire]
    one = compact(dialect.build([_sample(3)], dialect.container))
    if wire == "sglang_generate":
        element, head, tail = one, b"", b""
    else:
        begin = one.index(b'"choices":[') + 11
        end = begin + _end(one[begin:], 0)
        element, head, tail = one[begin:end].replace(b'"index":0', b'"index":null'), one[:begin], one[end + 1 :]
    for count, kind in ((4096, "several_choices"), (20_000, "too_many")):
        body = head + (b"" if head else b"[") + b",".join([element] * count) + b"]" + tail
        yield Attack(f"{count:,} choices", body, kind, {"wire": wire})
    body = head + (b"" if head else b"[") + b",".join([b"{}"] * 300_000) + b"]" + tail
    yield Attack("300,000 empty choices", body, "too_many", {"wire": wire})


def _ragged(wire: Wire) -> Iterator[Attack]:
    """All alternatives at one position."""
    dialect = DIALECT[wire]
    rng = random.Random(1)
    falling = {n: -n / 64 for n in range(20_000)}
    shuffled = dict(sorted(falling.items(), key=lambda _: rng.random()))
    orders = {
        "falling": falling,
        "rising": dict(reversed(falling.items())),
        "shuffled": shuffled,
        "equal": dict.fromkeys(falling, -1.0),
    }
    for name, scores in orders.items():
        sample = _sample(3)
        if dialect.top:
            top = replace(sample, top=[[*scores.items()], [], []])
            body = compact(dialect.build([top], dialect.container))
            yield Attack(
                f"alternatives at one position, {name}",
                body,
                compact(dialect.build([sample], dialect.container)),
                {"wire": wire},
            )
        if wire != "sglang_generate":
            scored = replace(sample, prompt=[0, 1], prompt_logprobs=[{0: 0.0}, scores])
            alone = replace(sample, prompt=[0, 1], prompt_logprobs=[{0: 0.0}, {1: scores[1]}])
            bodies = [compact(dialect.build([form], dialect.container)) for form in (scored, alone)]
            options = {"wire": wire, "prompt_token_ids": np.array([0, 1], np.int32)}
            yield Attack(f"prompt entries at one position, {name}", bodies[0], bodies[1], options)
