"""README and docs: what they show runs and prints what they say, figures are the measured ones, keys are all named.

A Python block runs after those before it on its page, on top of the names of `docs/example_data.py` and of the README's
first block. A comment before a block says more:

- `<!-- prints what follows -->`: the block prints the following text block; numbers may differ a little.
- `<!-- prints roughly what follows -->`: the same, and counts may differ by a few.
- `<!-- run with: A -> B -->`: A is replaced by B when it is run, so that it takes seconds.
- `<!-- illustration: why -->`: it is not run, and why not.
"""

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir

from mi_callback import MemorizationDetector
from mi_callback.cache import LIMIT
from mi_callback.cli import audit_command, encoders_command, first_steps, record_commands
from mi_callback.cli.arguments import Grammar
from mi_callback.images.windows import WINDOWS
from mi_callback.lightning import samplers
from mi_callback.lightning.loggers.looks import band
from mi_callback.retrieval.engines import EXACT_MOST, Backend
from mi_callback.retrieval.engines.milvus import TOKEN
from mi_callback.retrieval.engines.reranked import FEWEST
from mi_callback.retrieval.growing import LARGE
from mi_callback.scores import RECALL

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"((?:^<!--.*?-->\n)*)^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")


LATER = (first_steps.DOCTOR, first_steps.DEMO, record_commands.VERIFY, record_commands.REVIEW, record_commands.FILTER)
BY_WORD = {command.name.split()[1]: command for command in LATER}


class Block(NamedTuple):
    page: str
    marks: str
    language: str
    text: str

    def mark(self, kind: str) -> str | None:
        found = re.search(rf"<!-- {kind}(?:: )?(.*?) ?-->", self.marks, re.DOTALL)
        return found and found[1]


def blocks_of(page: Path) -> list[Block]:
    return [Block(page.name, *found) for found in FENCE.findall(page.read_text())]


BLOCKS = {page.name: blocks_of(page) for page in PAGES}
PAGES_WITH_CODE = [name for name, blocks in BLOCKS.items() if any(block.language == "python" for block in blocks)]
CONSOLE_LINES = [
    (page, line.removeprefix("$ "))
    for page, blocks in BLOCKS.items()
    for block in blocks
    if block.language == "console"
    for line in block.text.splitlines()
    if line.startswith("$ ")
]


def run(block: Block, names: dict) -> str:
    code = block.text
    if (changed := block.mark("run with")) is not None:
        written, quick = changed.split(" -> ")
        assert written in code, f"{block.page}: {written} is not in the block that says how to run it"
        code = code.replace(written, quick)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, block.page, "exec"), names)
    return printed.getvalue()


@pytest.fixture(scope="module")
def first_example() -> tuple[dict, str]:
    """Names that the first block of the README makes, and what it prints."""
    names: dict = {}
    return names, run(next(block for block in BLOCKS["README.md"] if block.language == "python"), names)


@pytest.fixture(scope="module")
def example_data(tmp_path_factory) -> dict:
    spec = importlib.util.spec_from_file_location("example_data", ROOT / "docs" / "example_data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.names(tmp_path_factory.mktemp("folders"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_python_on_a_page_runs_and_prints_what_it_says(page, first_example, example_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, printed_first = first_example
    names = example_data | made
    first = next(block.text for block in BLOCKS["README.md"] if block.language == "python")
    for block, following in zip(BLOCKS[page], [*BLOCKS[page][1:], None], strict=True):
        if block.language != "python" or block.mark("illustration") is not None:
            continue
        printed = printed_first if block.text == first else run(block, names)
        if (how := block.mark("prints")) is not None:
            assert following is not None
            assert following.language == "text", f"{page}: no text block after one that prints"
            compare(printed, following.text, counts=3 if "roughly" in how else 0)


def compare(printed: str, shown: str, counts: int) -> None:
    """Words are equal; numbers are, but for rounding and other processors."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split(), printed
    for ours, theirs in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        near = counts if "." not in theirs else 0.051
        assert float(ours) == pytest.approx(float(theirs), rel=0.02, abs=near), printed


def test_comparison_sees_other_words_and_numbers():
    compare("4 of 16, MI 0.47", "4 of 16, MI 0.48", counts=0)
    for printed in ("5 of 16, MI 0.47", "4 of 16, MI 0.67", "4 in 16, MI 0.47", "4 of 16"):
        with pytest.raises(AssertionError):
            compare(printed, "4 of 16, MI 0.47", counts=0)


def test_every_block_has_a_language_that_is_checked_or_says_why_not():
    for page, blocks in BLOCKS.items():
        for block in blocks:
            assert block.language in ("python", "console", "text", "yaml"), page
            assert block.mark("illustration") != "", f"{page}: an illustration without a reason"


def test_quick_start_and_readme_show_the_same_example():
    def first(page: str) -> str:
        return next(block.text for block in BLOCKS[page] if block.language == "python")

    assert first("README.md") == first("quickstart.md")


# Commands -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "line"), CONSOLE_LINES, ids=[f"{page}-{line[:30]}" for page, line in CONSOLE_LINES])
def test_commands_and_their_options_exist(page, line, tmp_path):
    first, *words = shlex.split(line.split(" && ")[0])
    if first in ("mi-audit", "mi-encoders"):
        command = {"mi-audit": audit_command, "mi-encoders": encoders_command}[first].COMMAND
        if words and (other := BY_WORD.get(words[0])):
            command, words = other, [word for word in words[1:] if "=" in word]
        options = [word for word in words if word != "--help"]
        Grammar(command.name, command.options, command.paths, ("detector.encoder",)).overrides(options)
    elif words and words[0] == "train.py":  # any app of the user's
        (tmp_path / "app.yaml").write_text("{}")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            compose("app", overrides=words[1:])
    elif words and words[0] == "examples/demo/main.py":
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            compose("demo", overrides=words[1:])
    else:
        assert first in ("pip", "make"), line


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [*PAGES, ROOT / ".github/CONTRIBUTING.md", ROOT / "SECURITY.md"]:
        named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets, page


@pytest.mark.parametrize(
    ("command", "words"),
    [("main", ["--help"]), ("encoders", ["name=mri_core"])],
    ids=["mi-audit --help", "mi-encoders name=mri_core"],
)
def test_commands_run(command, words, tmp_path):
    code = f"import sys; from mi_callback.cli import {command}; sys.argv[1:] = {words!r}; {command}()"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ("Exit code 0" if command == "main" else "licence") in ran.stdout


# Facts --------------------------------------------------------------------------------------------------------------


def test_every_logged_key_is_explained(first_example):
    names, _ = first_example
    keys = {"alarm", "scored", "n_scored", *names["scores"].summary()}
    keys |= band(names["scores"], names["detector"].state.null).keys()
    people = torch.rand(45, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    detector = MemorizationDetector(contrast=True, verify=False).fit(people[:20], held_out=people[20:])
    detector.power(2, changes=["exact"])
    keys |= detector.score(people[:4]).summary().keys() | detector.set_scores(people[:4]).keys()
    assert {"verified_max", "contrast_p", "power", "flagged", "fid", "ct"} <= keys
    explained = (ROOT / "docs" / "numbers.md").read_text()
    for key in keys:
        assert f"`{key}`" in explained, key


def test_every_integration_names_a_test_that_exists():
    page = (ROOT / "docs" / "integrations.md").read_text()
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ") and "`tests/" in line]
    assert len(rows) > 35
    for what, how, test in rows:
        assert what.strip()
        assert how.strip()
        ((file, name),) = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", test)
        assert f"def {name}(" in (ROOT / file).read_text(), f"{what.strip()}: {file} has no {name}"
    ready = {name for name in samplers.__all__ if name.endswith("Sampler")} - {"FoundSampler", "ReadySampler"}
    assert ready <= set(re.findall(r"`(\w+)`", page))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"mi-callback\[(\w+)\]", page)) <= set(extras)


def test_large_training_sets_are_described_with_the_constants_of_the_code():
    page = (ROOT / "docs" / "large.md").read_text()
    for named in (
        f"{EXACT_MOST:,}".replace(",", " ") + " vectors",
        f"{EXACT_MOST // WINDOWS // 1000} 000 images make",
        f"{LARGE // 2**20} MB goes into a file",
        f"at least {FEWEST} vectors",
        f"Below {RECALL:g}".replace("0.", ".") + " nothing",
        f"`{TOKEN}`",
        *(f"| `{backend}" for backend in Backend),
    ):
        assert named in " ".join(page.split()), named
    assert f"up to {LIMIT // 2**30} GB" in (ROOT / "docs" / "training.md").read_text()


def row(file: str, start: str, after: str = "") -> list[str]:
    """Cells of the first row of a table that begins with `start`, below `after`."""
    text = (ROOT / file).read_text()
    line = next(line for line in text[text.index(after) :].splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_limits_are_those_measured():
    detection = "examples/detection/RESULTS.md"
    readme, limits = (ROOT / "README.md").read_text(), (ROOT / "docs" / "limits.md").read_text()
    for page in (readme, limits):
        for change in ("t2_like_shift_0.05", *(["quarter_pasted", "t2_like_rotation_15"] if page is limits else [])):
            brain = row(detection, f"| {change} |", "the encoder knows the anatomy")[5].split()[0]
            assert str(round(100 * float(brain))) in page, change
            assert row(detection, f"| {change} |", "all splits together")[2] in page, change
        for case, found in (
            ("T1W trained, T2W", "21 %"),
            ("T1W trained, FLAIR", "36 %"),
            ("FLAIR trained, T2W", "0 %"),
        ):
            measured = float(row(detection, f"| {case}")[4].split()[0])
            assert f"{100 * measured:.0f} %" == found
            assert found in page or ("none" in page and measured == 0)
        beyond = re.findall(r"above the 1 % threshold:.*?registered (\d\.\d+)", (ROOT / detection).read_text())
        assert max(map(float, beyond)) == 0.224
        assert "22.4 %" in page
    blurred = row("docs/limits.md", "| spine, α = .05")[1:]
    assert [float(cell) for cell in blurred] == [
        float(c.split("/")[1]) for c in row(detection, "| Lumbar spine | 166")[2:]
    ]
    generators = "examples/generators/RESULTS.md"
    as_they_are, at_their_quality = row(generators, "| slices, blurred by .7 px")[1:3]
    assert f"{100 * float(as_they_are.split()[0]):.0f} %" == "11 %"
    assert f"{100 * float(at_their_quality.split()[0]):.0f} %" == "3 %"
    assert all("11 %" in page and "3 %" in page for page in (readme, limits))


def test_readme_is_short():
    prose = re.sub(
        r"^```.*?^```$|^    .*$|<!--.*?-->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE
    )
    assert len(prose.split()) < 1000


@pytest.mark.parametrize("page", [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_reachable():
    docs = ROOT / "docs"
    listed = {
        name
        for page in docs.glob("*.md")
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL)
        for name in tree.split()
    }
    pages = {str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.md") if "api" not in page.parts}
    assert pages - {"index"} <= listed


def test_architecture_names_rooms_that_exist():
    rooms = {path.stem for path in (ROOT / "mi_callback").iterdir()}
    (listed,) = re.findall(
        r"```\{floors\}\n```\n\n(.*?)\n\n", (ROOT / "docs" / "architecture.md").read_text(), re.DOTALL
    )
    assert set(re.findall(r"`(\w+)`", listed)) <= rooms


def test_doubts_are_quoted_as_they_are_said():
    sources = "".join(path.read_text() for path in (ROOT / "mi_callback" / "statistics").glob("*.py"))
    said = re.sub(r'"\s+f?"', "", sources)  # strings that go on in the next line
    quoted = re.findall(r'^\| "(.*?)" \|', (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)
    assert len(quoted) > 4
    for doubt in quoted:
        assert all(part.strip() in said for part in re.split(r"…|\d[\d.]*", doubt)), doubt
