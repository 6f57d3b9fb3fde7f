"""A fitted state comes back bit for bit, or is refused with what differs."""

import json
import os
import stat
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.encoders import HookedEncoder
from mi_callback.encoders.descriptor import AS_IT_IS, LOOKS
from mi_callback.errors import CalibrationError, StateError
from mi_callback.private_files import replaced
from mi_callback.retrieval import descriptor_index, reference, window_index
from mi_callback.retrieval.engines import choosing, faiss_lists
from mi_callback.retrieval.extraction import extract
from mi_callback.retrieval.features import Features
from mi_callback.scores import ImageScores
from mi_callback.state import fingerprint
from mi_callback.statistics.flagging import Flagging
from mi_callback.statistics.null import Null


def images(n: int, seed: int) -> Tensor:
    noise = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (16, 16), mode="bilinear")


TRAIN, HELD_OUT, GENERATED = images(24, 1), images(20, 2), torch.cat([images(6, 3), images(24, 1)[:2]])
TRAIN_SUBJECTS = [f"sub-{i // 2:02d}" for i in range(24)]
HELD_OUT_SUBJECTS = [f"sub-h{i // 2:02d}" for i in range(20)]


def unfitted(**options) -> MemorizationDetector:
    options = {"encoder": build_encoder("pixels", sides=(4, 8), size=32), "verify": False, "alpha": 0.1} | options
    return MemorizationDetector(**options)


def fitted(**options) -> MemorizationDetector:
    detector = unfitted(**options)
    held_out = None if options.get("null") in ("cross_fit", "train_halves") else HELD_OUT
    subjects = {"held_out": held_out, "held_out_subjects": HELD_OUT_SUBJECTS} if held_out is not None else {}
    return detector.fit(TRAIN, subjects=TRAIN_SUBJECTS, **subjects)


def assert_equal(first: Any, second: Any) -> None:
    """Two scores, or parts of them, bit for bit."""
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, Tensor):
            assert one.dtype == other.dtype, field.name
            assert torch.equal(one.nan_to_num(-9), other.nan_to_num(-9)), field.name
        elif isinstance(one, (ImageScores, Flagging, Null)):
            assert_equal(one, other)
        else:
            assert one == other, field.name


def network(seed: int) -> HookedEncoder:
    torch.manual_seed(seed)
    return HookedEncoder(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), {"1": "BCHW"}, size=16)


# Round trip ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"null": "cross_fit"},
        {"null": "train_halves", "whitening": "standard"},
        {"aggregation": "minimum"},
        {"aggregation": {"levels.0": 1.0, "levels.1": 2.0}},
        {"poses": "dihedral"},
        {"whitening": "none"},
    ],
    ids=["held-out", "cross-fit", "halves", "minimum", "weighted", "dihedral", "plain"],
)
def test_scores_after_save_and_load_are_bit_equal(tmp_path: Path, options: dict):
    saved = fitted(**options)
    saved.save(tmp_path / "state.safetensors")
    assert_equal(saved.score(GENERATED), unfitted(**options).load(tmp_path / "state.safetensors").score(GENERATED))


def test_scores_with_verification_are_bit_equal_after_save_and_load(tmp_path: Path):
    options = {"verify": True, "candidates": 2, "encoder": network(0)}
    saved = fitted(**options)
    saved.save(tmp_path / "state")
    restored = unfitted(**options).load(tmp_path / "state").score(GENERATED)
    assert restored.verified.isfinite().all()
    assert_equal(saved.score(GENERATED), restored)


def test_features_of_regions_come_back_and_find_the_same(tmp_path: Path):
    options = {"verify": True, "candidates": 2, "encoder": network(0)}
    saved = fitted(**options)
    saved.save(tmp_path / "state")
    restored = unfitted(**options).load(tmp_path / "state")
    for one, other in ((saved.state.train, restored.state.train), (saved.state.held_out, restored.state.held_out)):
        assert list(one.windows) == list(other.windows) == ["1"]
        for layer, windows in one.windows.items():
            assert other.windows[layer].dtype == torch.float16
            assert torch.equal(windows.nan_to_num(-9), other.windows[layer].nan_to_num(-9))
    first, second = (d.state.reference.windows for d in (saved, restored))
    assert torch.equal(first.rows, second.rows)
    assert torch.equal(first.index.bank, second.index.bank)
    # A quarter of a training image in the middle of another: what regions are for.
    pasted = GENERATED.clone()
    pasted[:, :, 4:12, 4:12] = TRAIN[:8, :, 4:12, 4:12]
    one, other = saved.score(pasted), restored.score(pasted)
    assert (one.images.window >= 0).any()
    assert_equal(one, other)


def test_descriptors_come_back(tmp_path: Path):
    options = {"verify": True, "candidates": 2}
    saved = fitted(**options)
    saved.save(tmp_path / "state")
    restored = unfitted(**options).load(tmp_path / "state")
    for one, other in ((saved.state.train, restored.state.train), (saved.state.held_out, restored.state.held_out)):
        assert list(one.descriptors) == list(other.descriptors)
        for contrast, described in one.descriptors.items():
            assert torch.equal(described[:1], other.descriptors[contrast])
    assert list(restored.state.train.descriptors) == list(LOOKS)
    assert list(restored.state.held_out.descriptors) == [AS_IT_IS]
    for contrast, ours in saved.state.reference.descriptors.indexes.items():
        theirs = restored.state.reference.descriptors.indexes[contrast]
        assert torch.equal(*(index.vectors(torch.arange(len(index))) for index in (ours, theirs)))


def test_whitenings_and_lists_of_every_index_are_read_not_made_again(tmp_path: Path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(choosing, "EXACT_MOST", 20)
    options = {"verify": True, "candidates": 2, "encoder": network(0), "backend": "faiss"}
    saved = fitted(**options)
    saved.save(tmp_path / "state")
    monkeypatch.setattr(faiss_lists, "_Lists", None)
    for place in (reference, window_index, descriptor_index):
        monkeypatch.setattr(place, "fit_whitening", None)
    restored = unfitted(**options).load(tmp_path / "state")
    ours, theirs = (detector.state.reference.parts() for detector in (saved, restored))
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    kept = {name for name in ours if "index/" in name}
    assert {"index/layers/1", "index/windows", f"index/descriptors/{AS_IT_IS}"} < kept
    monkeypatch.undo()
    assert_equal(saved.score(GENERATED), restored.score(GENERATED))


def test_a_state_without_regions_comes_back_without(tmp_path: Path):
    options = {"verify": True, "candidates": 2, "encoder": network(0), "windows": False}
    saved = fitted(**options)
    saved.save(tmp_path / "state")
    restored = unfitted(**options).load(tmp_path / "state")
    assert saved.state.train.windows == restored.state.train.windows == {}
    assert restored.state.reference.windows is None
    assert_equal(saved.score(GENERATED), restored.score(GENERATED))


def test_a_detector_without_subjects_comes_back_without_subjects(tmp_path: Path):
    saved = unfitted().fit(TRAIN, held_out=HELD_OUT)
    saved.save(tmp_path / "state")
    restored = unfitted().load(tmp_path / "state")
    assert restored.state.train.subjects is None
    assert restored.state.null.subjects is None
    assert_equal(saved.score(GENERATED), restored.score(GENERATED))


def test_subjects_sources_thumbnails_and_null_come_back(tmp_path: Path):
    saved = fitted()
    saved.save(tmp_path / "state")
    restored = unfitted().load(tmp_path / "state")
    assert restored.state.train.subjects == TRAIN_SUBJECTS
    assert torch.equal(restored.state.train.thumbnails, saved.state.train.thumbnails)
    assert list(restored.state.null.subjects) == HELD_OUT_SUBJECTS
    assert restored.state.null.kind == "held_out"
    assert torch.equal(restored.state.null.similarity, saved.state.null.similarity)


def assert_same_side(first: Features, second: Features) -> None:
    assert first.subjects == second.subjects
    assert torch.equal(first.thumbnails, second.thumbnails)
    assert list(first.layers) == list(second.layers)
    for layer, bank in first.layers.items():
        assert len(bank) == 1  # pose 0 alone is kept
        assert torch.equal(bank, second.layers[layer])


@pytest.mark.parametrize("known", [True, False])
def test_held_out_images_come_back_with_their_subjects(tmp_path: Path, known: bool):
    saved = fitted() if known else unfitted().fit(TRAIN, held_out=HELD_OUT)
    saved.save(tmp_path / "state")
    restored = unfitted().load(tmp_path / "state")
    assert restored.state.held_out.subjects == (HELD_OUT_SUBJECTS if known else None)
    assert_same_side(saved.state.held_out, restored.state.held_out)
    assert_same_side(saved.state.train, restored.state.train)
    assert saved.set_scores(GENERATED) == restored.set_scores(GENERATED)


def test_without_held_out_images_none_come_back(tmp_path: Path):
    fitted(null="cross_fit").save(tmp_path / "state")
    assert unfitted(null="cross_fit").load(tmp_path / "state").state.held_out is None


def test_images_to_plant_come_back_and_are_found_again(tmp_path: Path):
    saved = fitted()
    saved.save(tmp_path / "state")
    restored = unfitted().load(tmp_path / "state")
    assert restored.state.planted.rows == saved.state.planted.rows == list(range(24))
    for one, other in zip(restored.state.planted.images, TRAIN, strict=True):
        assert torch.equal(one, other)
    changes = ["exact", "noise_0.02", "flip_vertical"]
    first, second = saved.power(n=8, changes=changes), restored.power(n=8, changes=changes)
    assert first.table() == second.table()
    assert restored.score(GENERATED).power == second


def test_a_power_that_was_measured_before_is_measured_again_after_load(tmp_path: Path):
    saved = fitted()
    saved.power(n=4, changes=["exact"])
    saved.save(tmp_path / "state")
    assert unfitted().load(tmp_path / "state").score(GENERATED).power is None


def test_names_of_any_number_and_kind_come_back(tmp_path: Path):
    long = "/data/" + 300 * "ä" + "\n\0\udc80"
    names = [f"{long}{i}" for i in range(20)]
    saved = fitted()
    many = 100_000_000 // len(json.dumps(long))  # more than a header of safetensors may hold
    held_out = replace(saved.state.held_out, subjects=names, sources=[long] * many)
    saved._state = replace(saved.state, held_out=held_out)
    saved.save(tmp_path / "state")
    found = unfitted().load(tmp_path / "state").held_out
    assert found.subjects == names
    assert found.sources == [long] * many


class LookedUp(Exception):
    """Images were looked up."""


def look_nothing_up(*_: Any, **__: Any) -> None:
    raise LookedUp


def test_a_power_that_was_kept_is_read_by_whoever_plants_the_same_copies(tmp_path: Path):
    changes, kept = ["exact", "noise_0.02", "flip_vertical"], tmp_path / "state.power"
    saved = fitted()
    saved.save(tmp_path / "state")
    first = saved.power(n=8, changes=changes, cache=kept)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    restored = unfitted().load(tmp_path / "state")
    restored.features = look_nothing_up
    again = restored.power(n=8, changes=changes, cache=kept)
    assert again.table() == first.table()
    assert (again.alpha, again.rows, again.seconds) == (first.alpha, first.rows, first.seconds)
    assert restored.measured_power is again
    for asked in ({"n": 7}, {"changes": changes[:2]}, {"images": list(TRAIN[:8]), "rows": range(8)}):
        with pytest.raises(LookedUp):
            restored.power(**({"n": 8, "changes": changes, "cache": kept} | asked))


def test_a_power_of_another_state_level_or_file_is_measured_again(tmp_path: Path):
    kept, asked = tmp_path / "state.power", {"n": 4, "changes": ["exact"], "cache": tmp_path / "state.power"}
    saved = fitted()
    saved.save(tmp_path / "state")
    saved.power(**asked)
    strict = unfitted(alpha=0.05).load(tmp_path / "state")
    other = unfitted().fit(torch.cat([TRAIN[:20], images(4, 9)]), subjects=TRAIN_SUBJECTS, held_out=HELD_OUT)
    other.save(tmp_path / "other")
    for detector in (strict, other):
        detector.features = look_nothing_up
        with pytest.raises(LookedUp):
            detector.power(**asked)
    whole = kept.read_text()
    saved.features = look_nothing_up
    for damaged in (whole.replace("true", "false"), whole[:-9], "[]", "{}"):
        assert damaged != whole
        kept.write_text(damaged)
        with pytest.raises(LookedUp):
            saved.power(**asked)


def test_where_no_power_can_be_kept_it_is_measured_and_said(tmp_path: Path):
    detector = fitted()
    with pytest.raises(StateError, match="needed a saved state to keep the result of its power self-test"):
        detector.power(n=4, changes=["exact"], cache=tmp_path / "state.power")
    detector.save(tmp_path / "state")
    with pytest.warns(UserWarning, match="what the power self-test found is not kept: needed to write"):
        power = detector.power(n=4, changes=["exact"], cache=tmp_path / "none" / "state.power")
    assert power.table() == detector.power(n=4, changes=["exact"]).table()


def test_a_detector_fitted_from_features_comes_back_with_nothing_to_plant(tmp_path: Path):
    source = fitted()
    features = extract(HELD_OUT, source.encoder, source.poses, subjects=HELD_OUT_SUBJECTS)
    unfitted().fit_features(source.state.train, features).save(tmp_path / "state")
    restored = unfitted().load(tmp_path / "state")
    assert restored.state.planted is None
    assert_equal(restored.score(GENERATED), source.score(GENERATED))


@pytest.mark.parametrize("null", ["held_out", "cross_fit"])
def test_what_the_null_says_of_duplicates_and_of_its_smaller_reference_comes_back(tmp_path: Path, null: str):
    # 40 training subjects in 30 folds: a null image misses another subject than its own.
    train, subjects = images(80, 1), [f"sub-{i // 2:02d}" for i in range(80)]
    held_out = HELD_OUT if null == "held_out" else None
    saved = unfitted(null=null).fit(train, subjects=subjects, held_out=held_out)
    saved.save(tmp_path / "state")
    restored = unfitted(null=null).load(tmp_path / "state")
    assert saved.state.null.correction == (1.0 if null == "held_out" else pytest.approx(39 / 38))
    assert saved.state.duplicate < 1
    assert (restored.state.duplicate, restored.state.null.correction) == (
        saved.state.duplicate,
        saved.state.null.correction,
    )
    # A sample and its slightly changed twin are one group before and after.
    twins = torch.cat([GENERATED, GENERATED[:1] + 1e-3])
    first, second = saved.score(twins), restored.score(twins)
    assert first.flagging.group[0] == first.flagging.group[8]
    assert torch.equal(first.flagging.group, second.flagging.group)
    assert_equal(first, second)


def test_a_contrast_after_load_is_that_before(tmp_path: Path):
    saved = fitted(contrast=True)
    saved.save(tmp_path / "state")
    first, second = (d.score(GENERATED).target_decoy for d in (saved, unfitted(contrast=True).load(tmp_path / "state")))
    assert (first.p_value, first.least, first.leaked) == (second.p_value, second.least, second.leaked)
    assert torch.equal(first.in_train, second.in_train)


def test_a_contrast_without_held_out_images_in_the_state_is_refused(tmp_path: Path):
    fitted(null="cross_fit").save(tmp_path / "state")
    with pytest.raises((StateError, CalibrationError), match="held-out"):
        unfitted(null="cross_fit", contrast=True).load(tmp_path / "state").score(GENERATED)


def test_the_level_of_the_flags_may_change_between_save_and_load(tmp_path: Path):
    # alpha, fdr and the scale of ONI are applied to scores; nothing that was fitted depends on them.
    fitted(alpha=0.1).save(tmp_path / "state")
    restored = unfitted(alpha=0.2, fdr=0.3, oni_scale="paper").load(tmp_path / "state")
    assert_equal(restored.score(GENERATED), fitted(alpha=0.2, fdr=0.3, oni_scale="paper").score(GENERATED))


def test_saving_over_an_older_state_replaces_it(tmp_path: Path):
    fitted(null="cross_fit").save(tmp_path / "state")
    fitted().save(tmp_path / "state")
    assert unfitted().load(tmp_path / "state").state.null.kind == "held_out"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_missing_folders_are_made(tmp_path: Path):
    fitted().save(tmp_path / "a" / "b" / "state")
    assert (tmp_path / "a" / "b" / "state").is_file()


# Patient data --------------------------------------------------------------------------------------------------------


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path):
    path = tmp_path / "state.safetensors"
    path.touch(mode=0o644)
    (tmp_path / "state.safetensors.part").touch(mode=0o666)
    fitted().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"whitening": "standard"}, "whitening"),
        ({"aggregation": "mean"}, "aggregation"),
        ({"poses": "none"}, "poses"),
        ({"null": "cross_fit"}, "null"),
        ({"candidates": 3}, "candidates"),
        ({"null_size": 5}, "null_size"),
        ({"seed": 1}, "seed"),
        ({"verify": True, "windows": False, "views": False}, "verify"),
        ({"encoder": build_encoder("pixels", sides=(4, 9), size=32)}, "encoder"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_name(tmp_path: Path, other: dict, named: str):
    fitted().save(tmp_path / "state")
    with pytest.raises(StateError, match=rf"state differs in \['{named}'\]\. Fit again"):
        unfitted(**other).load(tmp_path / "state")


def test_every_difference_is_named(tmp_path: Path):
    fitted().save(tmp_path / "state")
    with pytest.raises(StateError, match=r"differs in \['candidates', 'seed', 'whitening'\]"):
        unfitted(whitening="none", seed=3, candidates=1).load(tmp_path / "state")


def test_a_state_of_other_encoder_weights_is_refused(tmp_path: Path):
    fitted(encoder=network(0)).save(tmp_path / "state")
    unfitted(encoder=network(0)).load(tmp_path / "state")
    with pytest.raises(StateError, match=r"differs in \['encoder'\]"):
        unfitted(encoder=network(1)).load(tmp_path / "state")


def test_a_state_of_other_data_is_refused(tmp_path: Path):
    fitted().save(tmp_path / "state", "these")
    unfitted().load(tmp_path / "state", "these")
    unfitted().load(tmp_path / "state")
    with pytest.raises(StateError, match=r"differs in \['data'\]"):
        unfitted().load(tmp_path / "state", "those")


def test_a_refused_state_leaves_the_detector_as_it_was(tmp_path: Path):
    fitted(seed=1).save(tmp_path / "state")
    detector = fitted()
    before = detector.score(GENERATED)
    with pytest.raises(StateError):
        detector.load(tmp_path / "state")
    assert_equal(before, detector.score(GENERATED))


def test_an_unfitted_detector_cannot_be_saved(tmp_path: Path):
    with pytest.raises(StateError, match=r"needed a fitted detector; call fit"):
        unfitted().save(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(StateError, match=r"needed the fitted state .*absent; there is no such file"):
        unfitted().load(tmp_path / "absent")


def header_of(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["mi_callback"])


@pytest.mark.parametrize("kind", ["empty", "text", "half", "other tensors", "no JSON", "JSON without settings", "list"])
def test_a_file_that_is_no_state_is_refused(tmp_path: Path, kind: str):
    path = tmp_path / "state"
    fitted().save(path)
    tensors, content = load_file(path), path.read_bytes()
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("{'not': 'a state'}" * 100)
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "other tensors":
            save_file({"weight": torch.ones(3)}, path)
        case "no JSON":
            save_file(tensors, path, metadata={"mi_callback": "{"})
        case "JSON without settings":
            save_file(tensors, path, metadata={"mi_callback": json.dumps({"format": 1})})
        case "list":
            save_file(tensors, path, metadata={"mi_callback": "[]"})
    with pytest.raises(StateError, match=r"needed a state written by MemorizationDetector\.save; .*state is none"):
        unfitted().load(path)


def test_a_state_of_another_version_is_refused(tmp_path: Path):
    path = tmp_path / "state"
    fitted().save(path)
    header = header_of(path)
    header["settings"]["version"] = "0.0.1"
    save_file(load_file(path), path, metadata={"mi_callback": json.dumps(header)})
    with pytest.raises(StateError, match=r"differs in \['version'\]"):
        unfitted().load(path)


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_state_with_one_wrong_bit_is_refused(tmp_path: Path, place: float):
    path = tmp_path / "state"
    fitted().save(path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    with pytest.raises(StateError, match="needed"):
        unfitted().load(path)


def test_a_state_in_which_only_the_null_was_changed_is_refused(tmp_path: Path):
    path = tmp_path / "state"
    fitted().save(path)
    tensors, header = load_file(path), header_of(path)
    tensors["null"] += 0.5
    save_file(tensors, path, metadata={"mi_callback": json.dumps(header)})
    with pytest.raises(StateError, match=r"is damaged\. Fit again"):
        unfitted().load(path)


def test_two_processes_write_one_state_and_stale_parts_go(tmp_path: Path):
    path = tmp_path / "state"
    stale, fresh, other = (tmp_path / name for name in ("state.1.part", "state.2.part", "another.1.part"))
    for file in (stale, fresh, other):
        file.touch()
    for file in (stale, other):
        os.utime(file, (0, 0))
    first, second = fitted(), fitted(null="cross_fit")
    with replaced(path, shared=True) as unfinished:  # one is writing while another begins and ends
        unfinished.write_bytes(b"the first")
        second.save(path)
        assert unfitted(null="cross_fit").load(path).fitted
    assert path.read_bytes() == b"the first"
    first.save(path)
    assert unfitted().load(path).fitted
    assert sorted(file.name for file in tmp_path.iterdir()) == ["another.1.part", "state", "state.2.part"]


# Fingerprint of data -------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_any_pixel_and_with_nothing_else():
    once = fingerprint([TRAIN], [HELD_OUT])
    assert fingerprint([TRAIN.clone()], [HELD_OUT.clone()]) == once
    for i in (0, 11, 23):
        changed = TRAIN.clone()
        changed[i, 0, 15, 15] += 1e-6
        assert not torch.equal(changed, TRAIN)
        assert fingerprint([changed], [HELD_OUT]) != once


def test_the_fingerprint_changes_with_subjects_order_and_side():
    once = fingerprint([{"image": TRAIN, "subject": TRAIN_SUBJECTS}], None)
    others = [
        fingerprint([{"image": TRAIN, "subject": TRAIN_SUBJECTS[::-1]}], None),
        fingerprint([{"image": TRAIN}], None),
        fingerprint([{"image": TRAIN.flip(0), "subject": TRAIN_SUBJECTS}], None),
        fingerprint(None, [{"image": TRAIN, "subject": TRAIN_SUBJECTS}]),
        fingerprint([{"image": TRAIN, "subject": TRAIN_SUBJECTS}], [HELD_OUT]),
    ]
    assert len({once, *others}) == 6


def test_the_fingerprint_tells_shapes_and_types_of_the_same_bytes_apart():
    flat = torch.arange(256, dtype=torch.int32)
    prints = {
        fingerprint([flat.view(4, 1, 8, 8)]),
        fingerprint([flat.view(4, 1, 4, 16)]),
        fingerprint([flat.view(torch.float32).view(4, 1, 8, 8)]),
    }
    assert len(prints) == 3
