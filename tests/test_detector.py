"""The whole line on synthetic images with smooth structure: definition, promises, refusals."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from mi_callback import MemorizationDetector, build_encoder
from mi_callback.errors import CalibrationError, DataError, EncoderError, StateError
from mi_callback.images.preprocessing import preprocess
from mi_callback.reporting import closest_pairs, collect_evidence
from mi_callback.retrieval.extraction import VOLUMES_AT_ONCE, extract
from mi_callback.statistics.flagging import FlagRule
from mi_callback.statistics.multiplicity import reject
from mi_callback.statistics.set_scores import set_scores


def people(n: int, seed: int, side: int = 32) -> torch.Tensor:
    """n smooth random images `(n, 1, side, side)`: as different as people, with an outline all share."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 7, 7, generator=generator)
    fine = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)
    axis = torch.linspace(-1, 1, side)
    outline = ((axis[:, None] / 0.9) ** 2 + (axis / 0.7) ** 2 < 1).float()
    return (0.2 + fine) * outline + 0.01 * torch.rand(n, 1, side, side, generator=generator)


def ids(prefix: str, n: int, slices: int = 1) -> list[str]:
    return [f"{prefix}{i // slices}" for i in range(n)]


def make(**options) -> MemorizationDetector:
    settings = {"encoder": build_encoder("pixels", sides=(4, 8), size=32), "verify": False, "poses": "none"}
    return MemorizationDetector(**(settings | options))


TRAIN, HELD_OUT, NOVEL = people(60, 1), people(40, 2), people(50, 3)


# Definition


def test_mi_is_what_the_formulas_say():
    detector = make(whitening="none", aggregation="geometric").fit(TRAIN, held_out=HELD_OUT)
    encoder = detector.encoder

    def similarity(images):
        out = []
        for image in images:
            product = 1.0
            for layer in encoder.layers:
                reference = encoder(preprocess(TRAIN, (32, 32)))[layer].double()
                mean = reference.mean(dim=0)
                query = encoder(preprocess(image[None], (32, 32)))[layer][0].double() - mean
                best = max(float(query @ (row - mean) / (query.norm() * (row - mean).norm())) for row in reference)
                product *= max(best, 0) + 1e-6
            out.append(product ** (1 / len(encoder.layers)))
        return torch.tensor(out, dtype=torch.float64)

    null, found = similarity(HELD_OUT), similarity(NOVEL[:5])
    scores = detector.score(NOVEL[:5])
    torch.testing.assert_close(scores.similarity, found, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores.mi, (found - null.mean()) / null.std(unbiased=False), atol=1e-3, rtol=0)
    for p, s in zip(scores.p_value, found, strict=True):
        assert float(p) == pytest.approx((1 + int((null >= s).sum())) / (len(null) + 1), abs=0.03)
    assert torch.equal(scores.flagged, scores.p_value <= 0.05)
    torch.testing.assert_close(scores.oni, scores.mi.tanh().clamp_min(0))


# Promises


@pytest.mark.parametrize(
    ("whitening", "verify"), [("shrunk", False), ("standard", False), ("none", False), ("shrunk", True)]
)
def test_copies_are_flagged_and_named(whitening, verify):
    detector = make(whitening=whitening, verify=verify)
    detector.fit(TRAIN, subjects=ids("a", 60, 2), held_out=HELD_OUT, held_out_subjects=ids("b", 40))
    scores = detector.score(torch.cat([TRAIN[10:20], NOVEL]))
    assert scores.flagged[:10].all()
    assert scores.match[:10].tolist() == list(range(10, 20))
    assert scores.match_subject[:2] == ["a5", "a5"]
    assert scores.flagged[10:].double().mean() < 0.2
    assert scores.verdict == "memorized"
    assert scores.mi[:10].min() > scores.mi[10:].max()


def test_a_flipped_copy_is_found_by_the_orbit_and_missed_without_it():
    flipped = TRAIN[:10].flip(-1)
    with_orbit = make(poses="flips").fit(TRAIN, held_out=HELD_OUT).score(flipped)
    without = make(poses="none").fit(TRAIN, held_out=HELD_OUT).score(flipped)
    assert with_orbit.flagged.all()
    assert set(with_orbit.pose) == {"flip_horizontal"}
    assert with_orbit.match.tolist() == list(range(10))
    assert without.flagged.sum() < 5


def test_verification_finds_a_moved_copy_and_says_how_much_is_copied():
    from mi_callback.images.perturbations import affine

    moved = affine(TRAIN[:8], rotation=8.0, scale_x=1.05, scale_y=1.05)
    detector = make(verify=True, candidates=16).fit(TRAIN, held_out=HELD_OUT)
    scores = detector.score(moved)
    assert scores.match.tolist() == list(range(8))
    assert (scores.verified > 0.9).all()
    # What the move took out of the picture is not copied, nor as sharp as novel images may agree.
    assert scores.copied_fraction.median() > 0.3
    assert (scores.copied_fraction > 0.2).all()
    assert (detector.score(TRAIN[:8]).copied_fraction > 0.7).all()  # of flat places none can be sure
    assert (detector.score(people(60, 99)).copied_fraction == 0).double().mean() > 0.6


def test_novel_images_are_flagged_at_the_nominal_rate():
    flags = []
    for seed in range(12):
        train, held_out, novel = people(40, 3 * seed), people(60, 3 * seed + 1), people(60, 3 * seed + 2)
        flags.append(make(alpha=0.1).fit(train, held_out=held_out).score(novel).flagged.double().mean())
    # Flags of one run share their null: its share is Beta(k, 61 - k) with k = 6.
    error = ((0.1 * 0.9 / 62 + 0.1 * 0.9 / 60) / len(flags)) ** 0.5
    assert abs(torch.stack(flags).mean() - 6 / 61) <= 4 * error


def test_fewer_training_images_than_features_are_no_problem():
    scores = make().fit(TRAIN[:12], held_out=HELD_OUT).score(torch.cat([TRAIN[:4], NOVEL[:4]]))
    assert scores.flagged[:4].all()
    assert scores.mi.isfinite().all()


@pytest.mark.parametrize("known", [True, False], ids=["subjects", "no-subjects"])
def test_copies_of_training_images_within_the_training_set_change_no_score(known):
    rows = torch.tensor(sorted([*range(60), *(9 * list(range(0, 60, 3)))]))
    subjects = ids("s", 60, 2) if known else None
    repeated = [subjects[row] for row in rows] if known else None
    samples = torch.cat([NOVEL[:10], TRAIN[:20].roll(2, dims=3)])
    options = {"verify": True, "candidates": 2, "contrast": True}
    once = make(**options).fit(TRAIN, subjects, HELD_OUT, ids("h", 40, 2)).score(samples)
    often = make(**options).fit(TRAIN[rows], repeated, HELD_OUT, ids("h", 40, 2)).score(samples)
    for name in ("similarity", "verified", "mi", "p_value"):
        assert torch.equal(getattr(once, name), getattr(often, name)), name
    assert rows[often.match].tolist() == once.match.tolist()
    assert often.target_decoy.p_value == once.target_decoy.p_value < 0.05
    assert often.verdict == once.verdict == "memorized"
    assert often.flagging.null == once.flagging.null


@pytest.mark.parametrize("verify", [False, True])
def test_a_batch_equals_one_by_one_and_twice_is_the_same(verify):
    detector = make(verify=verify, poses="flips").fit(TRAIN, held_out=HELD_OUT[:20])
    together, again = detector.score(NOVEL[:3]), detector.score(NOVEL[:3])
    alone = torch.cat([detector.score(NOVEL[i : i + 1]).mi for i in range(3)])
    torch.testing.assert_close(together.mi, alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(together.mi, again.mi)


def test_intensity_range_and_container_do_not_matter():
    detector = make().fit(TRAIN, held_out=HELD_OUT)
    plain = detector.score(NOVEL[:8])
    scaled = detector.score((NOVEL[:8] * 4000 - 1000).numpy())
    batches = detector.score([NOVEL[:3], {"image": NOVEL[3:8]}])
    torch.testing.assert_close(plain.mi, scaled.mi, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(plain.mi, batches.mi, atol=1e-4, rtol=1e-4)


def test_faiss_gives_the_same_scores_as_torch():
    pytest.importorskip("faiss", reason="FAISS is not installed")
    by = {name: make(backend=name).fit(TRAIN, held_out=HELD_OUT).score(NOVEL) for name in ("torch", "faiss")}
    torch.testing.assert_close(by["torch"].mi, by["faiss"].mi, atol=1e-3, rtol=1e-4)
    assert torch.equal(by["torch"].match, by["faiss"].match)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: compares its scores with those of the CPU")
def test_the_gpu_gives_the_scores_of_the_cpu():
    by = {
        device: make(verify=True, device=device).fit(TRAIN, held_out=HELD_OUT).score(NOVEL)
        for device in ("cpu", "cuda")
    }
    torch.testing.assert_close(by["cpu"].mi, by["cuda"].mi, atol=1e-2, rtol=1e-2)
    assert torch.equal(by["cpu"].match, by["cuda"].match)


def test_without_held_out_images_training_subjects_make_the_null():
    detector = make(null="auto").fit(TRAIN, subjects=ids("a", 60, 2))
    assert detector.state.null.kind == "cross_fit"
    assert detector.state.null.n_subjects == 30
    # p is at least 2 / (30 + 1) here: one of the 31 closest to its neighbour has a partner that is as close.
    assert detector.score(TRAIN[:10]).verdict == "inconclusive"
    detector.rule = FlagRule(0.1)
    scores = detector.score(torch.cat([TRAIN[:10], NOVEL]))
    assert scores.flagged[:10].all()
    assert scores.flagged[10:].double().mean() < 0.25


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.1), (39, 0.05)])
def test_the_cross_fitted_null_flags_novel_images_at_most_at_the_nominal_rate(n, alpha):
    # With offset 1 instead of 2 this flagged .10 at a nominal .05 with 19 subjects.
    shares = []
    for seed in range(40):
        detector = make(null="cross_fit", alpha=alpha).fit(people(n, 100 + 2 * seed))
        shares.append(detector.score(people(25, 101 + 2 * seed)).flagged.double().mean())
    shares = torch.stack(shares)
    assert shares.mean() <= alpha + 4 * shares.std() / len(shares) ** 0.5


def test_a_cross_fitted_null_that_was_asked_for_needs_nothing_of_held_out_images():
    shared = make(null="cross_fit").fit(TRAIN, ids("a", 60), held_out=TRAIN[:20], held_out_subjects=ids("a", 20))
    alone = make(null="cross_fit").fit(TRAIN, ids("a", 60))
    assert torch.equal(shared.null.similarity, alone.null.similarity)


def test_one_person_under_two_ids_does_not_disable_the_cross_fitted_null():
    doubled = torch.cat([TRAIN, TRAIN[:3]])
    with pytest.warns(UserWarning, match="3 training subjects hold an image that is"):
        detector = make(null="cross_fit").fit(doubled, subjects=ids("a", 63))
    assert detector.score(TRAIN[20:30]).flagged.all()
    assert detector.state.null.n_subjects == 60


def test_cross_fit_never_compares_a_subject_with_itself():
    # Twin slices: were a twin left in the reference, every null image would look like a copy.
    twins = TRAIN[:30].repeat_interleave(2, dim=0)
    detector = make(null="cross_fit", alpha=0.1).fit(twins, subjects=ids("a", 60, 2))
    assert detector.state.null.similarity.max() < 0.99
    assert detector.score(TRAIN[:10]).flagged.all()


def test_the_null_is_thinned_evenly_within_subjects():
    detector = make(null_size=20).fit(TRAIN, held_out=HELD_OUT, held_out_subjects=ids("b", 40, 4))
    assert len(detector.state.null.similarity) == 20
    assert sorted(Counter(detector.state.null.subjects).values()) == [2] * 10


def test_false_discovery_rate_control_flags_the_copies():
    detector = make(fdr=0.1).fit(TRAIN, held_out=people(200, 9))
    scores = detector.score(torch.cat([TRAIN[:20], NOVEL]))
    assert scores.flagged[:20].all()
    assert scores.flagging.expected == pytest.approx(0.1 * scores.flagging.count)


# Promises: power, contrast, tail, near-duplicates


EASY = ["exact", "noise_0.01", "intensity_0.9", "gamma_1.4", "blur_1", "flip_horizontal"]


def test_planted_copies_are_found_and_what_was_found_goes_into_later_scores():
    detector = make(poses="flips").fit(TRAIN, subjects=ids("a", 60, 2), held_out=HELD_OUT)
    assert detector.score(NOVEL[:2]).power is None
    power = detector.power(n=20, changes=EASY)
    assert (power.n, power.alpha) == (20, 0.05)
    assert list(power.flagged) == EASY
    assert all(power.share(change) > 0.9 for change in EASY)
    assert all(traced.double().mean() > 0.9 for traced in power.traced.values())
    assert detector.score(NOVEL).power is power
    detector.fit(TRAIN, held_out=HELD_OUT)
    assert detector.score(NOVEL[:2]).power is None  # another fit, another power


def test_planted_copies_are_verified_as_samples_are():
    # With a texture, as tissue has: among images this smooth a warped stranger comes as close as a resampled copy.
    train, held_out = (
        (images + 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)
        for seed, images in ((1, TRAIN), (2, HELD_OUT[:20]))
    )
    detector = make(verify=True, candidates=8).fit(train, held_out=held_out)
    moved = detector.power(n=6, changes=["exact", "rotation_5"])
    assert moved.share("exact") == 1
    assert moved.traced["exact"].all()
    assert moved.share("rotation_5") > 0.8


def test_any_training_image_may_be_planted():
    rows = set()
    for seed in range(8):
        rows.update(make(seed=seed).fit(TRAIN[:20], held_out=HELD_OUT).power(n=10, changes=["exact"]).rows)
    assert max(rows) > 9


def test_a_detector_that_is_blind_to_a_change_says_so_and_never_clean():
    detector = make(poses="none").fit(TRAIN, held_out=HELD_OUT)
    detector.power(n=30, changes=["exact", "flip_horizontal"])
    assert detector.measured_power.missed == ["flip_horizontal"]
    scores = detector.score(NOVEL)
    assert "copies changed by flip_horizontal would be missed" in str(scores)
    assert scores.verdict == "clean"  # half of the copies would do
    detector.power(n=30, changes=["flip_horizontal"])
    assert detector.score(NOVEL).verdict == "inconclusive"
    assert detector.score(torch.cat([TRAIN[:20], NOVEL])).verdict == "memorized"


def test_images_to_plant_may_be_given_to_a_detector_fitted_from_features(tmp_path):
    source = make().fit(TRAIN, held_out=HELD_OUT)
    detector = make().fit_features(source.train, source.held_out)
    with pytest.raises(StateError, match=r"fitted from features keeps none. Pass images=… and rows=…"):
        detector.power()
    given = detector.power(images=list(TRAIN[:10]), rows=range(10), changes=["exact", "blur_1"])
    assert given.n == 10
    assert given.traced["exact"].all()
    assert given.table() == source.power(n=10, changes=["exact", "blur_1"]).table()
    # A restored detector has images to plant where the saved one had.
    source.save(tmp_path / "state")
    assert make().load(tmp_path / "state").power(n=10, changes=["exact", "blur_1"]).table() == given.table()


def with_contrast(**options) -> MemorizationDetector:
    detector = make(contrast=True, **options)
    return detector.fit(TRAIN, subjects=ids("a", 60, 2), held_out=HELD_OUT, held_out_subjects=ids("b", 40, 2))


def test_copies_of_many_people_are_memorization_in_the_second_opinion_too():
    detector = with_contrast()
    scores = detector.score(torch.cat([TRAIN[::3] + 0.01 * people(20, 9), NOVEL]))
    assert scores.target_decoy.p_value <= 0.005
    assert scores.target_decoy.leaked >= 15
    assert scores.target_decoy.in_train[:20].all()
    assert scores.target_decoy.flagged[:20].all()
    assert scores.target_decoy.expected_share == pytest.approx(30 / 50)
    assert scores.verdict == "memorized"
    assert "training subjects copied at a false discovery rate of 0.1" in str(scores)


def test_an_exact_replay_is_memorization_in_the_second_opinion_too():
    scores = with_contrast().score(TRAIN[:30])
    assert scores.target_decoy.leaked >= 15
    assert scores.verdict == "memorized"


def test_novel_images_look_like_either_side_in_the_second_opinion():
    detector = with_contrast()
    opinions = [detector.score(people(50, 100 + seed)).target_decoy for seed in range(20)]
    # One pool and many sets of samples: the labels are drawn once. Copies would give 1 / 2000 every time.
    assert sum(opinion.p_value <= 0.05 for opinion in opinions) <= 5
    assert sum(float(opinion.in_train.double().mean()) for opinion in opinions) / 20 == pytest.approx(0.6, abs=0.15)
    assert detector.score(NOVEL).verdict == "clean"


def test_by_default_a_second_opinion_is_asked_for_before_memorization_is_said():
    """It costs as much as the first, so not where nothing would be said, nor where it could not object."""
    images = {"train": TRAIN, "held_out": HELD_OUT}
    one_by_one = make().fit(TRAIN, held_out=HELD_OUT)
    plain = make(contrast=False).fit(**images)
    copies = TRAIN[::3] + 0.01 * people(20, 9)
    asked = one_by_one.score(torch.cat([copies, NOVEL]))
    assert asked.verdict == "memorized"
    assert asked.target_decoy.p_value == 0.0005
    assert one_by_one.score(NOVEL).target_decoy is None
    assert one_by_one.score(torch.cat([copies[:2], NOVEL])).target_decoy is None
    # As close to held-out as to training people: the null alone, which sees training people, calls them memorized.
    either = torch.cat([HELD_OUT, TRAIN[:20]])
    assert plain.score(either).verdict == "memorized"
    assert plain.score(either).target_decoy is None
    assert one_by_one.score(either).verdict == "inconclusive"
    assert make(null="cross_fit").fit(TRAIN).score(copies).target_decoy is None


def test_copies_of_held_out_people_are_no_memorization():
    scores = with_contrast().score(torch.cat([HELD_OUT[::2] + 0.01 * people(20, 9), NOVEL]))
    assert scores.target_decoy.p_value > 0.5
    assert not scores.target_decoy.in_train[:20].any()
    assert scores.target_decoy.leaked == 0


def test_the_second_opinion_is_one_per_detector_and_leaves_the_first_alone():
    detector, plain = with_contrast(), make()
    plain.fit(TRAIN, subjects=ids("a", 60, 2), held_out=HELD_OUT, held_out_subjects=ids("b", 40, 2))
    scores, alone = detector.score(NOVEL), plain.score(NOVEL)
    assert alone.target_decoy is None
    assert torch.equal(scores.p_value, alone.p_value)
    assert torch.equal(scores.match, alone.match)
    again = detector.score(NOVEL).target_decoy
    assert again.p_value == scores.target_decoy.p_value
    # Fitted anew, it is looked up among the new people.
    detector.fit(people(12, 5), held_out=HELD_OUT[:6])
    assert detector.score(NOVEL).target_decoy.expected_share == pytest.approx(12 / 18)


def test_an_extrapolated_tail_ranks_beyond_the_null_and_flags_nothing():
    held_out, samples = people(120, 7), torch.cat([TRAIN[:10] + 0.05 * people(10, 9), NOVEL])
    plain, tailed = make().fit(TRAIN, held_out=held_out), make(tail="gpd").fit(TRAIN, held_out=held_out)
    scores = tailed.score(samples)
    assert plain.score(samples).images.p_tail is None
    assert torch.equal(scores.p_value, plain.score(samples).p_value)
    assert torch.equal(scores.flagged, plain.score(samples).flagged)
    assert (scores.images.p_tail <= scores.p_value).all()
    assert (scores.images.p_tail > 0).all()
    assert scores.p_value[:10].unique().numel() < 10  # ties at 1 / (G + 1) …
    assert scores.images.p_tail[:10].unique().numel() == 10  # … which the tail breaks
    assert (scores.images.p_tail[:10] < 1 / 121).all()


def test_a_tail_needs_many_subjects():
    with pytest.raises(CalibrationError, match="at least 100 subjects in the null; 40 came"):
        make(tail="gpd").fit(TRAIN, held_out=HELD_OUT)


def test_samples_that_are_near_duplicates_of_one_another_are_one_group():
    twins = NOVEL[:1] + 0.001 * people(6, 8)
    scores = make(poses="flips").fit(TRAIN, held_out=HELD_OUT).score(torch.cat([twins, twins[:1].flip(-1), NOVEL[1:9]]))
    assert scores.flagging.group[:7].unique().numel() == 1
    assert scores.flagging.n_distinct == 9
    assert int((scores.flagging.group == scores.flagging.group[0]).sum()) == 7


@pytest.mark.parametrize("procedure", ["bh", "by"])
def test_the_false_discovery_rate_is_controlled_by_the_procedure_that_was_asked_for(procedure):
    samples = torch.cat([TRAIN[:4], NOVEL])
    scores = make(fdr=0.3, procedure=procedure).fit(TRAIN, held_out=people(99, 9)).score(samples)
    assert torch.equal(scores.flagged, reject(scores.p_value, 0.3, procedure))
    # p is at least 1 / 100: enough for four of 54 by Benjamini-Hochberg, not with the price of Benjamini-Yekutieli.
    assert bool(scores.flagged[:4].all()) == (procedure == "bh")


def test_scores_of_the_whole_set_are_those_of_the_whitened_features():
    detector = make().fit(TRAIN, held_out=HELD_OUT)
    found = detector.set_scores(NOVEL)
    assert set(found) == {"ct", "authpct", "fid", "kid", "vendi", "mifid"}
    novel = extract(NOVEL, detector.encoder)
    sides = [detector.state.reference.whitened(side) for side in (detector.state.train, detector.state.held_out, novel)]
    assert found == pytest.approx(set_scores(*sides, seed=0))
    copies = detector.set_scores(TRAIN[:40])
    assert copies["ct"] < -3 < found["ct"]
    assert copies["authpct"] < 0.1 < found["authpct"]
    assert set(make(null="cross_fit").fit(TRAIN).set_scores(NOVEL)) == {"authpct", "fid", "kid", "vendi", "mifid"}


def test_the_paper_scale_runs_from_novel_to_memorized():
    scores = make(oni_scale="paper").fit(TRAIN, held_out=HELD_OUT).score(torch.cat([TRAIN[:3], NOVEL[:3]]))
    torch.testing.assert_close(scores.oni, -scores.mi.tanh())
    assert scores.oni[:3].max() < -0.9


def test_too_few_held_out_subjects_are_inconclusive_never_clean():
    detector = make(alpha=0.05).fit(TRAIN, held_out=HELD_OUT, held_out_subjects=ids("b", 40, 4))
    scores = detector.score(TRAIN[:10])
    assert scores.verdict == "inconclusive"
    assert "flagged" not in scores.summary()
    assert "rate_upper" not in scores.summary()
    assert "at least 19 held-out subjects" in str(scores)


def test_training_images_are_kept_as_thumbnails_at_registration_size():
    detector = make().fit(TRAIN, held_out=HELD_OUT)
    assert detector.state.train.thumbnails.shape == (60, 96, 96)
    assert detector.state.train.thumbnails.dtype == torch.uint8
    pairs = closest_pairs(detector, TRAIN[:5], detector.score(TRAIN[:5]), 3)
    assert pairs.shape == (3, 1, 96, 192)
    torch.testing.assert_close(pairs[..., :96], pairs[..., 96:], atol=0.02, rtol=0)


# Refusals


def test_a_training_subject_among_the_held_out_ones_is_kept_out_of_the_null():
    clean = make().fit(TRAIN, subjects=ids("a", 60), held_out=HELD_OUT[1:], held_out_subjects=ids("b", 39))
    with pytest.warns(UserWarning, match="1 held-out subjects were trained on"):
        leaked = make().fit(TRAIN, subjects=ids("a", 60), held_out=HELD_OUT, held_out_subjects=["a3", *ids("b", 39)])
    assert torch.equal(leaked.null.similarity, clean.null.similarity)


def test_a_training_image_among_the_held_out_ones_is_kept_out_of_the_null_without_ids_too():
    with pytest.warns(UserWarning, match="1 of 41 held-out images are in the training set"):
        leaked = make().fit(TRAIN, held_out=torch.cat([HELD_OUT, TRAIN[7:8]]))
    assert torch.equal(leaked.null.similarity, make().fit(TRAIN, held_out=HELD_OUT).null.similarity)


def test_a_blurred_training_image_among_the_held_out_ones_is_found_by_its_similarity():
    blurred = torch.nn.functional.avg_pool2d(TRAIN[7:8], 3, 1, 1)
    with pytest.warns(UserWarning, match="resemble a training image as only a copy"):
        leaked = make().fit(TRAIN, held_out=torch.cat([HELD_OUT, blurred]))
    assert torch.equal(leaked.null.similarity, make().fit(TRAIN, held_out=HELD_OUT).null.similarity)


def test_many_who_look_like_copies_stay_in_the_null_and_forbid_clean():
    blurred = torch.nn.functional.avg_pool2d(TRAIN[7:11], 3, 1, 1)
    with pytest.warns(UserWarning, match=r"4 held-out people .* nothing is called clean"):
        detector = make().fit(TRAIN, held_out=torch.cat([HELD_OUT, blurred]))
    assert len(detector.state.null.similarity) == 44
    scores = detector.score(NOVEL)
    assert scores.flagging.null.suspects == 4
    assert scores.verdict == "inconclusive"


def test_one_person_under_two_ids_counts_once_in_the_cross_fitted_null_though_the_image_was_changed():
    blurred = torch.nn.functional.avg_pool2d(TRAIN[7:8], 3, 1, 1)
    with pytest.warns(UserWarning, match="1 training subjects hold an image that is, or seems to be"):
        detector = make(null="cross_fit").fit(torch.cat([TRAIN, blurred]), subjects=ids("a", 61))
    assert detector.state.null.n_subjects == 60
    assert detector.state.null.similarity.max() < 0.9


def broken(fill) -> torch.Tensor:
    images = NOVEL[:4].clone()
    images[2] = fill
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (NOVEL[:0], "at least one image"),
        (NOVEL[:4, 0], r"\(n, 1, h, w\)"),
        (NOVEL[:4].repeat(1, 3, 1, 1), "1 channel"),
        (broken(float("nan")), r"images \[2\] of 4 hold NaN"),
        (broken(0.5), r"images \[2\] of 4 are constant"),
        ([NOVEL[:2], "no image"], "tensor of images"),
        ([{"before": NOVEL[:2], "after": NOVEL[:2]}], "image_key"),
        (7, "Dataset or an iterable"),
    ],
)
def test_broken_images_are_refused_everywhere(images, message):
    detector = make().fit(TRAIN, held_out=HELD_OUT)
    with pytest.raises(DataError, match=message):
        detector.score(images)
    with pytest.raises(DataError, match=message):
        make().fit(images, held_out=HELD_OUT)
    with pytest.raises(DataError, match=message):
        make().fit(TRAIN, held_out=images)


def test_one_image_is_neither_a_training_set_nor_a_null():
    with pytest.raises(DataError, match="at least 2 training images; 1 came"):
        make().fit(TRAIN[:1], held_out=HELD_OUT)
    with pytest.raises(CalibrationError, match="at least 2 images for the held_out null; 1 came"):
        make().fit(TRAIN, held_out=HELD_OUT[:1])
    with pytest.raises(CalibrationError, match="at least 2 training subjects"):
        make(null="cross_fit").fit(TRAIN, subjects=["one"] * 60)


def test_the_published_null_is_refused_where_it_is_undefined():
    with pytest.raises(CalibrationError, match=r"more training images than features \(64\).*60 came"):
        make(null="train_halves", whitening="zca").fit(TRAIN)
    assert make(null="train_halves").fit(TRAIN).null.kind == "train_halves"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 0.0}, CalibrationError, "alpha between 0 and 1"),
        ({"fdr": 1.5}, CalibrationError, "fdr between 0 and 1"),
        ({"null": "guess"}, CalibrationError, r"'held_out', 'cross_fit'"),
        ({"poses": "all"}, DataError, "flips"),
        ({"procedure": "bonferroni"}, CalibrationError, r"procedure out of \['bh', 'by'\]; 'bonferroni' came"),
        ({"tail": "weibull"}, CalibrationError, r"tail out of \['gpd'\]; 'weibull' came"),
        ({"candidates": 0}, DataError, "candidates of at least 1"),
        ({"encoder": "nothing"}, EncoderError, "bundled"),
        ({"encoder": torch.nn.Identity()}, EncoderError, "declared layers"),
    ],
)
def test_wrong_options_are_refused_at_once(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


def test_options_that_need_data_are_refused_with_the_fix():
    with pytest.raises(CalibrationError, match="cross_fit"):
        make(null="held_out").fit(TRAIN)
    for ask in (make().score, make().set_scores, lambda _: make().power()):
        with pytest.raises(StateError, match=r"fit\(train"):
            ask(NOVEL)
    with pytest.raises(CalibrationError, match=r"held-out images for contrast=True; none came. Pass held_out=…"):
        make(contrast=True).fit(TRAIN)
    with pytest.raises(EncoderError, match="aggregation"):
        make(aggregation="median").fit(TRAIN, held_out=HELD_OUT)
    with pytest.raises(DataError, match="one subject per image"):
        make().fit(TRAIN, subjects=["a"], held_out=HELD_OUT)


# Volumes


def heads(n: int, seed: int, shape: tuple[int, ...] = (20, 26, 22)) -> torch.Tensor:
    """n smooth random volumes `(n, 1, *shape)` with an outline all share."""
    generator = torch.Generator().manual_seed(seed)
    fine = F.interpolate(torch.rand(n, 1, 6, 6, 6, generator=generator), shape, mode="trilinear", align_corners=True)
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    return (0.1 + fine) * torch.exp(-2 * (z**4 + y**4 + x**4))


@pytest.fixture(scope="module")
def of_volumes():
    encoder = build_encoder("slices", encoder="pixels", sides=(4, 8), size=32, slices=4)
    options = {"encoder": encoder, "alpha": 0.1, "candidates": 2, "contrast": True, "null_size": 12}
    detector = MemorizationDetector(**options)
    train, held_out = heads(16, 1), heads(14, 2)
    return options, detector.fit(train, subjects=ids("a", 16), held_out=held_out), train


@pytest.mark.volumes
def test_volumes_go_the_whole_way(of_volumes, tmp_path):
    options, detector, train = of_volumes
    assert detector.dims == 3
    assert detector.state.train.thumbnails.shape == (16, 48, 48, 48)
    assert len(detector.state.planted.rows) == 16
    assert detector.batch_size == VOLUMES_AT_ONCE
    copies = torch.cat([train[:1], train[1:2].flip(-3), train[2:3].flip(-1, -2, -3), heads(3, 3)])
    scores = detector.score(copies)
    assert scores.flagged[:3].all()
    assert scores.match[:3].tolist() == [0, 1, 2]
    assert scores.pose[:3] == ["identity", "flip_depth", "flip_all"]
    assert scores.verified[:3].min() > 0.99
    assert scores.verified[3:].max() < scores.verified[:3].min()
    assert scores.target_decoy is not None
    assert detector.set_scores(copies)["fid"] > 0
    pairs = closest_pairs(detector, copies, scores, 2)
    assert pairs.shape == (2, 1, 96, 192)
    assert (pairs[..., :96] - pairs[..., 96:]).abs().mean() < 0.03
    assert [one.row for one in collect_evidence(detector, copies, scores, 1)] == scores.closest(1)
    detector.save(tmp_path / "state")
    loaded = MemorizationDetector(**options).load(tmp_path / "state")
    again = loaded.score(copies)
    assert torch.equal(again.verified, scores.verified)
    assert torch.equal(again.p_value, scores.p_value)
    assert all(
        torch.equal(*both) for both in zip(loaded.state.planted.images, detector.state.planted.images, strict=True)
    )


@pytest.mark.volumes
def test_copies_of_volumes_are_planted_and_found(of_volumes):
    _, detector, _ = of_volumes
    power = detector.power(2, ["exact", "flip_depth", "noise_0.02", "rotation_5", "quarter_pasted"])
    assert power.n == 2
    assert power.share("exact") == power.share("flip_depth") == power.share("noise_0.02") == 1
    assert power.traced["rotation_5"].all()
    with pytest.raises(DataError, match="'rotation_30'"):
        detector.power(2, ["rotation_30"])


@pytest.mark.volumes
def test_a_flipped_training_volume_among_the_held_out_ones_is_kept_out_of_the_null(of_volumes):
    options, _, train = of_volumes
    options = options | {"verify": False, "contrast": False}
    with pytest.warns(UserWarning, match="1 of 13 held-out images are in the training set"):
        leaked = MemorizationDetector(**options).fit(train, held_out=torch.cat([heads(12, 2), train[3:4].flip(-3, -1)]))
    clean = MemorizationDetector(**options).fit(train, held_out=heads(12, 2))
    assert torch.equal(leaked.null.similarity, clean.null.similarity)


@pytest.mark.volumes
def test_volumes_of_several_sizes_and_without_held_out_ones_are_scored(of_volumes):
    options, _, train = of_volumes
    options = options | {"contrast": False, "windows": False, "views": False, "null": "cross_fit", "alpha": 0.2}
    batches = [train[:10], F.pad(train[10:], (2, 3, 0, 0, 4, 1))]
    detector = MemorizationDetector(**options).fit(batches)
    scores = detector.score(train[:2].flip(-2))
    assert scores.match.tolist() == [0, 1]
    assert scores.pose == ["flip_vertical"] * 2
    assert scores.flagged.all()


def test_quarter_turns_are_refused_for_an_encoder_of_volumes():
    with pytest.raises(DataError, match=r"needed poses for 3 dimensions out of \['none', 'flips'\]"):
        MemorizationDetector(build_encoder("slices", encoder="pixels"), poses="dihedral")


def test_windows_are_refused_for_an_encoder_that_cannot_look_at_them():
    pixels = build_encoder("pixels")

    class WithoutWindows(torch.nn.Module):
        name, layers, size, channels, intensity = "plain", pixels.layers, pixels.size, pixels.channels, pixels.intensity
        forward, fingerprint = pixels.forward, pixels.fingerprint

    with pytest.raises(EncoderError, match="needed an encoder with with_windows"):
        MemorizationDetector(encoder=WithoutWindows(), verify=True, windows=True)
