"""Measures everything and writes ``docs/benchmarks.md``."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import dynamo_tito as tito
from benches import beside, growth, request, speed, transport
from benches.cases import CASES, ROOT
from benches.measure import Table, times_faster
from benches.speed import Result

_PAGE = ROOT / "docs" / "benchmarks.md"
_CHART = ROOT / "docs" / "growth.png"

_FULL = ("c_vllm", "d_nvext")
_RIVALS = (
    *("renderers", "orjson", "msgspec", "pysimdjson", "jiter", "pybase64", "httpx", "numpy"),
    *("aiohttp", "openai", "pyqwest"),
)

_HEAD = """# Benchmarks

`make bench` writes this page. The command that measures a table stands below it. Every contender reads the same bytes
in the same process, in an order that changes each round. Its arrays are compared with the true values, bit for bit,
before it is timed. A ratio is the median of the ratios of the rounds, so a slow moment of the machine slows both sides
of it. Milliseconds are those of one machine on one day.

*Today's way* is what trainers run: `renderers`' own functions and verifiers' decoding for vLLM's shape, `json.loads`
with trimming and re-encoding for Dynamo's, `json` for scored prompts. *The best by hand* is the fastest of what an
expert would write with orjson, msgspec, jiter or pysimdjson and pybase64: it cuts the blob out of the document by its
exact bytes, and decodes only the rows that are needed. Those pipelines check very little. They do not check the
characters of dropped rows, whether every entry names its token, or whether a key is there once. This library always
does.
"""

_CASES = """| case | tokens: all / sampled | routed experts |
| :--- | ---: | ---: |
| a | 1,280 / 256 | none |
| b | 8,192 / 4,096 | 48 layers x top-8, uint8 |
| c | 65,536 / 16,384 | 48 layers x top-8, uint8 |
| c, noexp | 65,536 / 65,024 | none |
| d | 16,384 / 8,192 | 88 layers x top-22, uint16 |
| e | 32,784 / 16 | none; the prompt is scored, 1 entry a position (k2: 2) |

`vllm` is `/inference/v1/generate`, an entry per token; `nvext` is Dynamo's chat with flat lists; `nvchat` is Dynamo's
chat with its log-probabilities in `choices[0].logprobs.content`; `topN` has N alternatives a token. Rows of the prompt
are trimmed, as a client asks for them, unless it says *all rows*.
"""

_LIMITS = """## Where the limits are

- **Routed experts** run at the speed of memory. One pass over the text validates it and finds its end. Another decodes
  and widens the rows that are needed. A pipeline by hand that decodes only the tail has the same bound. So the lead
  over it is smallest where the blob is nearly all of the body and the rest is flat lists (`c_nvext`, `d_nvext`).
- **A new block of memory costs its pages.** Results of 64 KiB and more come from a pool. A block returns to it when
  its array is freed. A caller who keeps every result gets fresh pages each time, and the kernel clears those at a few
  GB/s.
- **Small bodies** (`a`): the call costs more than the scan, for arguments, metadata and the objects of the result.
- **Without routed experts** numbers cost most. A log-probability of 17 digits, correctly rounded, costs more than the
  rest of its entry. Spaces after commas and colons, or keys in another order, are read by a slower path.
- **Requests from a list** of ints read every object in it. An int32 array does not.
"""


def write(rounds: int) -> None:
    """Measure and write the page.

    Args:
        rounds: of every measurement; 0 for each one's own default.
    """
    parts: list[str] = [_HEAD, _machine(), "## Time\n", _CASES]
    results = [_told(speed.measure(name, rounds or 15)) for name in CASES]
    results += [_told(speed.measure(name, rounds or 15, full=True)) for name in _FULL]
    parts += [speed.summary(results).markdown(), _command("peers time"), _smallest(results)]
    parts += _section("peers mem", beside.memory(beside.CASES_OF_MEMORY))
    parts += _section("peers lag", beside.lag(beside.CASES_OF_LAG, rounds or 15))
    parts += _section("peers heap", beside.heap(beside.CASES_OF_HEAP, rounds or 9))
    parts += _section("peers growth", growth.tables(rounds or 15, _CHART))
    parts += ["![time by tokens, beside rivals](growth.png)\n"]
    parts += _section("peers request", request.tables(rounds or 31))
    parts += _section("transport", [transport.table(rounds or 5)])
    parts += [_LIMITS, "## Every contender\n", _command("peers time")]
    parts += [speed.details(result).markdown() for result in results]
    _PAGE.write_text("\n".join(parts))
    print(f"wrote {_PAGE.relative_to(ROOT)} and {_CHART.relative_to(ROOT)}")


def _told(result: Result) -> Result:
    leads = [times_faster(result.lead(name)) for name in (result.today, result.by_hand)]
    print(f"{result.case:16s} {leads[0]:>6s} against today's way, {leads[1]:>6s} against the best by hand", flush=True)
    return result


def _section(command: str, tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        print(table.title, flush=True)
        yield table.markdown(2)
    yield _command(command)


def _command(name: str) -> str:
    return f"`.venv/bin/python -m benches.{name}`\n"


def _smallest(results: list[Result]) -> str:
    least = min(results, key=lambda result: result.lead(result.by_hand))
    lead, rival = times_faster(least.lead(least.by_hand)), least.by_hand
    return f"The smallest lead over a pipeline by hand: {lead}, {least.case} against {rival}.\n"


def _machine() -> str:
    info = tito.build_info()
    versions = ", ".join(f"{name} {version(name)}" for name in _RIVALS)
    facts = [
        f"{_cpu()}, {os.cpu_count()} cores, {_cache()} of last-level cache; {platform.system()} {platform.machine()}",
        f"dynamo-tito {info['version']}, {info['profile']} build, {info['kernel']} kernel",
        f"Python {platform.python_version()}, {versions}",
        f"{datetime.now(UTC):%Y-%m-%d}, load average at the start {os.getloadavg()[0]:.1f}",
    ]
    return "\n".join(f"- {fact}" for fact in facts) + "\n"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")


def _cache() -> str:
    levels = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"))
    if not levels:
        return "unknown size"
    size = (levels[-1] / "size").read_text().strip()
    return f"{int(size[:-1]) // 1024} MiB" if size.endswith("K") else size
