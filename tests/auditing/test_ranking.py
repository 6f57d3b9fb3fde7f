"""Which encoder: the list, the ranking, the command."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from PIL import Image

from mi_callback.auditing.loading import load_images
from mi_callback.auditing.ranked import Against, Found, Ranked, in_order
from mi_callback.auditing.ranking import NOT_FOR_RANKING, label, rank
from mi_callback.auditing.tables import listing_table, ranking_table
from mi_callback.cli.encoders_command import COMMAND
from mi_callback.encoders import HookedEncoder, available, entry
from mi_callback.encoders.catalogue import CATALOGUE, Entry
from mi_callback.encoders.listing import count_weights, list_encoders, time_encoder
from mi_callback.errors import CalibrationError, DataError, EncoderError, OptionError
from mi_callback.reporting.tables import text_table
from mi_callback.statistics.power import Power

ALONE = {"verify": False, "alpha": 0.1, "batch_size": 256}


class Blind(torch.nn.Module):
    """Features that do not depend on the image: noise, or all the same."""

    def __init__(self, constant: bool = False):
        super().__init__()
        self.head, self.constant = torch.nn.Identity(), constant
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images):
        noise = torch.randn(len(images), 16, generator=self.generator)
        self.head(torch.ones_like(noise) if self.constant else noise)


def blind(constant: bool = False) -> HookedEncoder:
    return HookedEncoder(Blind(constant), {"head": "BC"}, size=16, name="constant" if constant else "blind")


@pytest.fixture(scope="module")
def people():
    """22 people, two images each."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(22, 1, 6, 6, generator=generator).repeat_interleave(2, dim=0)
    coarse = coarse + 0.1 * torch.rand(44, 1, 6, 6, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")
    return images, [f"patient{i // 2}" for i in range(44)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """22 training subjects and 12 held out, one image each."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for i in range(34):
        path = root / ("train" if i < 22 else "held") / f"sub-{i:02}" / f"scan{i}.png"
        path.parent.mkdir(parents=True)
        coarse = Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8))
        coarse.resize((48, 48), Image.Resampling.BICUBIC).save(path)
    return root


# The list --------------------------------------------------------------------------------------------------------


def test_the_list_shows_every_encoder_and_its_licence():
    rows = list_encoders(measure=False)
    assert {row.name for row in rows} == set(available())
    table = listing_table(rows)
    for name in available():
        assert name in table
        assert entry(name).card.licence.split()[0] in table
    assert "Nothing was downloaded" in table
    restricted = {row.name for row in rows if row.licence.endswith("*")}
    assert restricted == {name for name in available() if entry(name).card.restricted}


def test_those_that_need_nothing_are_measured_and_the_others_are_not():
    by_name = {row.name: row for row in list_encoders(["bundled", "slices", "mri_core"])}
    assert 1e6 < by_name["bundled"].parameters < 1.5e6
    assert by_name["bundled"].megabytes == pytest.approx(4.4, abs=0.3)
    assert "images/s" in by_name["bundled"].speed
    assert "s/volume" in by_name["slices"].speed
    assert by_name["mri_core"].parameters is None
    assert by_name["mri_core"].speed == by_name["mri_core"].size == ""


def test_weights_and_speed_are_of_the_encoder():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    encoder = HookedEncoder(network, {"1": "BCHW"}, size=16)
    assert count_weights(encoder)[0] == 4 * 9 + 4 + 8
    assert time_encoder(encoder) > 0


def test_an_entry_in_full():
    (row,) = list_encoders(["mri_core"])
    card = entry("mri_core").card
    for said in (
        card.citation,
        card.source,
        card.licence,
        "build_encoder(\"mri_core\", checkpoint='MRI_CORE_vitb.pth')",
    ):
        assert said in str(row)
    (restricted,) = list_encoders(["curia"])
    assert "asks for an agreement" in str(restricted)
    assert restricted.call == 'build_encoder("curia")'


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_the_call_of_every_entry_is_python(name):
    compile(list_encoders([name], measure=False)[0].call.replace("…", "0"), name, "eval")


def test_an_unknown_name_is_refused():
    with pytest.raises(EncoderError, match="'nothing' came"):
        list_encoders(["nothing"])


def test_one_that_should_be_built_and_cannot_says_why(monkeypatch):
    def broken():
        raise RuntimeError("no such luck")

    monkeypatch.setitem(CATALOGUE, "broken", Entry(broken))
    (row,) = list_encoders(["broken"])
    assert row.error == "RuntimeError: no such luck"
    assert "no such luck" in listing_table([row])


# The ranking -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranked(people):
    specs = [
        blind(),
        blind(constant=True),
        {"name": "mri_core", "checkpoint": "secret/folder/f.pth"},
        "slices",
        "no_such",
        "pixels",
    ]
    return rank(specs, *people[:1], subjects=people[1], power=6, **ALONE)


def test_a_blind_encoder_ranks_below_a_seeing_one(ranked):
    assert [row.encoder for row in ranked[:2]] == ["pixels", "blind"]
    seeing, unseeing = ranked[:2]
    assert seeing.found.power.share("exact") == 1
    assert unseeing.found.power.overall < 0.3
    assert seeing.alike
    assert not unseeing.alike
    assert seeing.found.verified is None
    assert seeing.found.power is seeing.found.alone


def test_what_failed_is_reported_and_the_others_are_ranked(ranked):
    failed = {row.encoder: row.error for row in ranked if row.error}
    assert set(failed) == {"constant", "mri_core(checkpoint=f.pth)", "slices", "no_such"}
    assert "all have the same features" in failed["constant"]
    assert "an encoder of images" in failed["slices"]
    assert "'no_such' came" in failed["no_such"]
    table = ranking_table(ranked)
    assert all(error in table for error in failed.values())
    assert table.index("pixels") < table.index("blind") < table.index("not ranked")


def test_rows_are_frozen_and_nothing_is_about_a_person(ranked):
    with pytest.raises(FrozenInstanceError):
        ranked[0].encoder = "other"
    assert "patient" not in ranking_table(ranked)


def test_verification_ranks_and_features_alone_are_shown(people):
    (row,) = rank([node()], people[0], subjects=people[1], power=1, candidates=2, null_size=22, alpha=0.1)
    assert row.found.power is row.found.verified
    assert row.found.verified.overall > row.found.alone.overall
    assert list(row.found.verified.flagged) == list(row.found.alone.flagged)
    assert row.found.fit_seconds > 0
    assert row.found.score_seconds > 0
    assert "with windows, views and registration" in ranking_table([row])


def node():
    return {"_target_": "mi_callback.build_encoder", "name": "pixels", "sides": [8]}


def found(*per_image: int) -> Power:
    """Of images whose ten copies were found so many times."""
    flagged = {str(k): torch.tensor([k < n for n in per_image]) for k in range(10)}
    return Power(flagged, flagged, 0.05)


def ranked_by(name: str, alone: Power, verified: Power) -> Ranked:
    return Ranked(name, found=Found(alone, verified, 0.0, 0.0, Against("held-out", 20, 20)))


def test_the_order_is_by_power_and_by_features_among_those_alike():
    rows = [
        Ranked("broken", error="x"),
        ranked_by("weak", found(3, 3, 3, 3, 3, 4), found(5, 5, 5, 6, 5, 5)),
        ranked_by("strongest", found(5, 5, 5, 5, 5, 5), found(9, 9, 10, 10, 9, 9)),
        ranked_by("finer", found(7, 7, 7, 7, 7, 7), found(10, 9, 9, 9, 9, 9)),
        ranked_by("middle", found(9, 9, 9, 9, 9, 9), found(7, 7, 7, 7, 7, 7)),
    ]
    ordered = in_order(rows)
    assert [row.encoder for row in ordered] == ["finer", "strongest", "middle", "weak", "broken"]
    assert [row.alike for row in ordered] == [True, True, False, False, False]
    assert ordered[0].found.hardest(1) == [("9", pytest.approx(1 / 6))]


def test_too_few_subjects_for_alpha_are_told_and_how_many_it_takes(people):
    images, subjects = people
    with pytest.raises(CalibrationError, match=r"at least 39 training subjects for p ≤ 0.05 .*; 22 came"):
        rank(["pixels"], images, subjects=subjects)
    with pytest.raises(CalibrationError, match=r"at least 19 held-out subjects .*; 4 came.*alpha of at least 0.2"):
        rank(["pixels"], images[:36], images[36:], subjects[:36], subjects[36:])
    with pytest.raises(CalibrationError, match="train_halves is not calibrated"):
        rank(["pixels"], images, subjects=subjects, null="train_halves")


def test_held_out_subjects_lost_to_a_leak_are_missed_by_every_encoder(people):
    images, subjects = people
    held, ids = torch.cat([images[:4], images[24:]]), [f"other {s}" for s in subjects[:4] + subjects[24:]]
    with pytest.warns(UserWarning, match="are in the training set too"):
        (row,) = rank(["pixels"], images[:24], held, subjects[:24], ids, alpha=1 / 12, verify=False)
    assert "at least 11 held-out subjects" in row.error
    assert "10 came" in row.error
    assert ranking_table([row]).startswith("not ranked")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"power": 0}, "power of at least 1"),
        ({"images": 0}, "images of at least 1"),
        ({"subjects": ["one"]}, "one subject per training image"),
        ({"encoders": []}, "at least one encoder"),
    ],
)
def test_wrong_settings_are_refused(people, options, match):
    images, subjects = people
    arguments = {"encoders": ["pixels"], "train": images, "subjects": subjects, **ALONE, **options}
    with pytest.raises((DataError, EncoderError, OptionError), match=match):
        rank(**arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        *(({name: None}, f"not a ranking, for {name}") for name in NOT_FOR_RANKING),
        ({"null": "cross_fit", "held_out": "of other people"}, "for held_out"),
        ({"held_out_subjects": ["one"]}, "for held_out_subjects"),
        ({"size": 32}, "needed folders for size"),
        ({"axis": 1}, "needed folders for axis"),
        ({"volumes": "whole"}, "needed folders for volumes"),
        ({"colour": True}, "needed folders for colour"),
    ],
)
def test_an_option_without_effect_is_refused(people, options, said):
    with pytest.raises(OptionError, match=said):
        rank(**{"encoders": ["pixels"], "train": people[0], "verify": False, **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"subjects": ["one"]}, "needed images that are no folder for subjects"),
        ({"volumes": "slices"}, "not a ranking, for volumes='slices'"),
        ({"axis": 1}, "needed volumes to slice for axis"),
    ],
)
def test_an_option_without_effect_on_a_folder_is_refused(folders, options, said):
    with pytest.raises(OptionError, match=said):
        rank(["pixels"], folders / "train", verify=False, **options)


def test_the_same_images_of_every_subject_are_used_up_to_a_number(people):
    (row,) = rank(["pixels"], people[0], subjects=people[1], images=22, power=2, **ALONE)
    assert row.found.against == ("cross-fit", 22, 22)


def test_an_image_without_an_id_is_its_own_subject(people):
    images, subjects = people
    assert load_images(images, subjects, None, 0, "training").people == 22
    assert load_images(images, [None, None, *subjects[2:]], None, 0, "training").people == 23
    assert load_images(images, [None] * 44, None, 0, "training").people == 44


def test_volumes_are_ranked_by_encoders_of_volumes():
    generator = torch.Generator().manual_seed(0)
    volumes = torch.rand(20, 1, 6, 6, 6, generator=generator)
    pixels = {"name": "slices", "encoder": "pixels", "size": 16, "slices": 4}
    rows = rank([pixels, "bundled"], volumes, power=2, **ALONE)
    assert rows[0].found.power.share("exact") == 1
    assert "needed an encoder of volumes; 'bundled' encodes images" in rows[1].error


def test_labels_name_options_and_no_folders():
    assert label("pixels") == "pixels"
    assert label({"name": "mri_core", "checkpoint": "a/b/f.pth", "pooling": "gem"}) == (
        "mri_core(checkpoint=f.pth, pooling=gem)"
    )
    assert label({"_target_": "my.encoders.mine"}) == "mine"
    assert label(blind()) == "blind"


def test_long_cells_are_wrapped():
    table = text_table(("a", "b"), [("one two", "3"), ("x", "10")], (4, 5), right=(1,))
    assert table.splitlines() == ["a     b", "---  --", "one   3", "two", "x    10"]


# The command -----------------------------------------------------------------------------------------------------


def test_the_command_lists_and_shows_one_in_full(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert COMMAND.execute([]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in available())
    assert COMMAND.execute(["name=dinov3"]) == 0
    assert entry("dinov3").card.citation in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_command_ranks_and_names_nobody(folders, monkeypatch, capsys):
    monkeypatch.chdir(folders)
    encoders = "encoders=[bundled,{name: mri_core, checkpoint: f.pth},pixels]"
    settings = ["detector.verify=false", "detector.alpha=0.1", "power=4"]
    assert COMMAND.execute(["train=train", "held_out=held", encoders, *settings]) == 0
    said = capsys.readouterr()
    for expected in ("held-out null of 12", "mri_core(checkpoint=f.pth):", "bundled", "Apache-2.0"):
        assert expected in said.out
    assert "sub-" not in said.out + said.err
    assert "scan" not in said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train=nowhere"], "is not a folder"),
        (["held_out=held"], "needed train=DIR for held_out"),
        (["images=3", "detector.verify=false"], "needed train=DIR for images and detector.verify"),
        (["train=train"], "at least 39 training subjects"),
        (["train=train", "detector.alpha=0.1", "encoders=[nothing]"], "'nothing' came"),
        (["train=train", "detector.tail=gpd"], "'detector.tail' came"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_errors_exit_with_1(folders, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(folders)
    assert COMMAND.execute(arguments) == 1
    shown = capsys.readouterr()
    assert said in shown.out + shown.err
    assert "Traceback" not in shown.err
