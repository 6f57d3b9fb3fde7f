"""A small slice of the programs that compare this package with the paper and with other rules."""

import importlib
import json
from pathlib import Path

import lightning
import pytest
import torch
from factories import texture
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from mi_callback.images.perturbations import affine, blur
from mi_callback.statistics.set_scores import authpct

ROOT = Path(__file__).parents[1]
SMALL = (
    "side=64", "seeds=1", "coin_seeds=0", "train=24", "held_out=6", "novel=6", "copies={clean: 3, others: 1}",
    "recipes=[rows]", "~sets.brain", "~sets.spine", "~sets.lesions",
    "+sets.made_up={folder: slices, unknown: 0.0, people: [8, 4, 4]}",
)  # fmt: skip


@pytest.fixture
def programs(monkeypatch):
    """Import a module of `examples/`; of the paper's changes five are made, to be quick."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for change in ("noise σ .02", "intensity × .9", "intensity × 1.1", "rotation 3°"):
        monkeypatch.delitem(importlib.import_module("paper.measure").CHANGES, change)
    return importlib.import_module


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three slices of each of sixteen made-up people."""
    (tmp_path / "slices").mkdir()
    names = [f"p{person:02}_{position}.png" for person in range(16) for position in range(3)]
    for name, image in zip(names, (texture(48, side=64)[:, 0] * 255).byte().numpy(), strict=True):
        Image.fromarray(image).save(tmp_path / "slices" / name)
    rows = "".join(f"{name},{name[:3]}\n" for name in names)
    (tmp_path / "slices" / "manifest.csv").write_text(f"file,subject\n{rows}")
    return tmp_path


def configured(name: str, folder: Path, *more: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        paths = (f"data={folder}", f"kept={folder / name}", f"page={folder}")
        return compose(name, overrides=[*SMALL, *paths, *more])


@pytest.mark.filterwarnings("ignore")
def test_the_papers_tables_are_made_of_strangers_go_on_where_they_stopped_and_are_told(folder, programs, monkeypatch):
    measure, run, page, figures = (programs(f"paper.{name}") for name in ("measure", "run", "page", "figures"))
    config = configured("paper", folder)
    split = measure.divide(config, "made_up", seed=0, by_slice=False)
    people = [set(part.subjects) for part in (split.train, split.held_out, split.novel)]
    assert [len(one) for one in people] == [8, 4, 4]
    assert len(set.union(*people)) == 16
    assert set(measure.divide(config, "made_up", 0, by_slice=True).novel.subjects) & people[0]

    found = run.measured(config)
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("what was kept is measured again"))
    assert run.measured(config) == found

    one = programs("paper.results").Results(found["made_up", False])
    assert one.auc("ours", "clean") == one.auc("ours", "flip, up-down") == [1.0]
    assert one.response("fid", 45)[0] < one.response("fid", 0)[0]  # better, for it copies
    assert one.response("ours", 45)[0] > one.response("ours", 0)[0]
    text = page.page(config, found)
    assert text.index("What falls short") < text.index("Is this image a copy?")
    assert "4 held-out people carry no flag" in text
    assert "| flip, up-down | 0.727 |" in text
    figures.draw(config, found, folder)
    assert (folder / "auc.png").is_file()
    assert (folder / "response.png").is_file()


def test_a_mixed_set_holds_the_share_of_copies_that_was_asked(programs):
    mixed = programs("paper.measure").mixed
    parts = {"clean": torch.ones(9), "novel": torch.zeros(40)}
    assert [(len(some), int(some.sum())) for some in (mixed(parts, "clean", level) for level in (0, 10, 45))] == [
        (20, 0),
        (20, 2),
        (20, 9),
    ]


def test_slices_are_spread_over_people_and_within_them(programs):
    images = programs("common.people").Images(torch.arange(9.0), [*"aaaaaabbc"])
    some = images.spread(5)
    assert some.subjects == [*"aabbc"]
    assert some.images.tolist() == [1, 4, 6, 7, 8]
    assert len(images.spread(99)) == 9


@pytest.mark.filterwarnings("ignore")
def test_every_other_rule_knows_a_clean_copy_and_all_are_told(folder, programs):
    measure, page, figure = (programs(f"peers.{name}") for name in ("measure", "page", "figure"))
    small = ("judged=[made_up]", "further=1", "others=2", "steps={ssim: 3, identity: 2, copies: 2}")
    config = configured("peers", folder, *small, f"paper={folder / 'paper'}")
    changes = programs("paper.measure").CHANGES
    before = {"held_out": [0.0] * 6, "novel": [0.1] * 6} | {c: [5.0] * (3 if c == "clean" else 1) for c in changes}
    (folder / "paper").mkdir()
    told = {"methods": {"ours": {"mi": before, "p": {"novel": [0.01, 1, 1, 1, 1, 1]}}}}
    (folder / "paper" / "made_up-0.json").write_text(json.dumps(told))
    found = measure.measure(config, "made_up", 0)
    assert {part: found["rules"]["ours"][part] for part in before} == before  # as kept by the paper's tables
    assert sum(found["flagged"]["novel"]) == 1
    judged = page.Judged([found], people=4)
    assert {rule: judged.auc(rule, "clean")[0] for rule in page.TITLES} == dict.fromkeys(page.TITLES, 1.0)
    assert found["sets"]["clean copies"]["mifid"] > 1000 * found["sets"]["novel"]["mifid"]
    text = page.page(config, {"made_up": [found]})
    assert judged.flagged("novel") is None
    assert page.Judged([found], people=19).flagged("novel") == (1, 6)
    assert all(f"| {title} |" in text for title in page.TITLES.values())
    figure.draw({"made_up": [found]}, folder / "found.png")
    assert (folder / "found.png").is_file()


def test_the_ssim_that_a_network_learns_is_that_of_a_plain_loop(programs):
    images = texture(3, side=16)
    expected = torch.empty(3, 3)
    for i, one in enumerate(images[:, 0]):
        for j, other in enumerate(images[:, 0]):
            values = []
            for y in range(10):
                for x in range(10):
                    a, b = one[y : y + 7, x : x + 7].flatten(), other[y : y + 7, x : x + 7].flatten()
                    both = ((a - a.mean()) * (b - b.mean())).mean()
                    light = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
                    values.append(light * (2 * both + 9e-4) / (a.var(correction=0) + b.var(correction=0) + 9e-4))
            expected[i, j] = torch.stack(values).mean()
    torch.testing.assert_close(programs("peers.learned").all_ssim(images), expected, atol=1e-4, rtol=0)


def test_authenticity_by_image_is_the_share_that_the_set_score_counts(programs):
    rules = programs("peers.rules")
    generator = torch.Generator().manual_seed(0)
    train, some = (torch.randn(20, 4, generator=generator) for _ in range(2))
    authentic = rules.authenticity(train)(rules.Seen(some, some, some)) < 1
    assert float(authentic.double().mean()) == authpct(train, some)


def test_attacks_change_copies_within_their_budgets_and_a_gradient_makes_them_less_alike(programs):
    adaptive, fixed = programs("attacks.adaptive"), programs("attacks.fixed")
    copies, generator = texture(4, side=96), torch.Generator().manual_seed(0)
    for name, attack in fixed.FIXED.items():
        attacked = attack(copies, copies.flip(0), generator)
        assert attacked.shape == copies.shape, name
        assert float(attacked.min()) >= -1e-6, name
        assert float(attacked.max()) <= 1 + 1e-6, name
        assert not torch.allclose(attacked, copies, atol=1e-3), name
    likeness = adaptive.Likeness(copies)
    grey, warped = adaptive.within_grey_values(copies, 4 / 255, steps=6), adaptive.within_warps(copies, steps=6)
    assert float((grey - copies).abs().max()) <= 4 / 255 + 1e-6
    assert float(likeness(copies)) > max(float(likeness(grey)), float(likeness(warped))) + 0.05


def test_a_search_stops_at_nothing_but_tells_when_a_copy_first_evaded(programs):
    searched = programs("attacks.adaptive").searched
    answers = iter([torch.tensor([0.9, 0.9]), torch.tensor([0.4, 0.9]), torch.tensor([0.2, 0.9])])
    least, evaded = searched(texture(2, side=64), lambda images: next(answers), limit=0.5, tries=3, seed=0)
    assert evaded.tolist() == [2, 0]
    assert least.tolist() == pytest.approx([0.2, 0.9])


def test_a_mark_tells_which_image_a_sample_comes_from_and_registration_finds_a_moved_copy(programs):
    truth = programs("memorization.truth")
    images = texture(12, side=96)
    images[:, :, :24, :24] = 0  # empty corners, as brain slices have
    numbers = [7, 0, 125, 40]
    marked = truth.mark(images[:4], numbers)
    assert truth.marks_of(marked) == numbers
    assert truth.marks_of(blur(marked, 1.0)) == numbers
    assert truth.marks_of(images[:4]) == [None] * 4
    assert truth.marks_of((marked[:1] + marked[1:2]) / 2) == [None]  # a blend of two bears neither

    moved = affine(images[:3], rotation=2, shift_x=0.01)
    correlation, closest = truth.registered(torch.cat([moved, images[10:]]), images[:6])
    assert closest[:3].tolist() == [0, 1, 2]
    assert float(correlation[:3].min()) > 0.9 > float(correlation[3:].max())


class Returning(lightning.LightningModule):
    """A generator that has its training images by heart."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.images, self.weight = images, torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, _):
        return self.weight.square().sum()

    def validation_step(self, batch, _):
        self.log("val/loss", self.weight.square().sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def sample(self, n):
        return self.images[torch.arange(n) % len(self.images)]


@pytest.mark.filterwarnings("ignore")
def test_a_generator_that_returns_its_training_images_is_told_apart_by_marks_and_by_the_callback(
    folder, programs, monkeypatch
):
    measure, run, page, figure = (programs(f"memorization.{name}") for name in ("measure", "run", "page", "figure"))
    (folder / "manifest.csv").write_text(
        "subject,note\n" + "".join(f"p{person:02},{'east' if person % 2 else 'west'}\n" for person in range(16))
    )
    for path in (folder / "slices").glob("*.png"):  # empty corners, for the marks
        image = Image.open(path)
        image.paste(0, (0, 0, 24, 24))
        image.save(path)
    monkeypatch.setattr(measure, "FAMILIES", {"returns": Returning})
    small = (
        "folder=slices", "known=0.3", "people=[6, 5, 5]", "~slices", "+slices.repeated=12", "held_out=2",
        "canaries=0.34", "~families", "+families.returns={steps: 1, batch: 4}", "looks=1", "samples=12", "power=0",
        "+detector={verify: false, alpha: 0.25}", "side=64",
    )  # fmt: skip
    paths = (f"data={folder}", f"kept={folder / 'kept'}", f"page={folder}")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("memorization", overrides=[*small, *paths])
    found = run.measured(config)
    monkeypatch.setattr(run, "measure", lambda *_: pytest.fail("what was kept is measured again"))
    assert run.measured(config) == found

    one = programs("memorization.results").Run(found["returns", "repeated"])
    assert one.drawn_from > one.images == 12
    assert {sample.truth for sample in one.every()} == {"copy"}
    assert all(sample.closest == sample.match for sample in one.every())
    assert any(sample.bears == sample.match for sample in one.every())
    text = page.page(config, found)
    assert text.index("What falls short") < text.index("Who copies")
    assert "| returns | 4 × |" in text
    assert set(found["returns", "repeated"]["images"]["site"]) == {"west", "east"}
    figure.draw(config, found, folder)
    assert (folder / "copied.png").is_file()
    assert (folder / "truth.png").is_file()
