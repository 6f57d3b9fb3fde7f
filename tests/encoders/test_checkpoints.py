"""Weights from files: all of them or an error that says what is wrong, and nothing in a file is executed."""

import hashlib
import os
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mi_callback.encoders.checkpoints import (
    checked_file,
    file_digest,
    initialised,
    load_weights,
    read_checkpoint,
    strip_prefix,
)
from mi_callback.errors import EncoderError


class Net(nn.Module):
    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3)
        self.norm = nn.BatchNorm2d(channels)


def weights(value: float = 0.5) -> dict[str, torch.Tensor]:
    return {key: torch.full_like(tensor, value) for key, tensor in Net().state_dict().items()}


@pytest.fixture
def network():
    return initialised(Net)


# Promise: tensors by name come back, from whatever training scripts wrote


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "legacy.pth"])
def test_tensors_come_back_by_name(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=suffix == "pt")
    found = read_checkpoint(str(path))
    assert found.keys() == weights().keys()
    assert all(torch.equal(found[key], value) for key, value in weights().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3},
        lambda w: {"model_state_dict": w, "loss": torch.tensor(0.1)},
        lambda w: {"teacher": w, "student": {"other": torch.ones(1)}},
        lambda w: {"model": {"state_dict": w, "lr": 0.1}, "epoch": torch.tensor(3)},
        lambda w: {**w, "epoch": 3, "name": "net"},
    ],
    ids=["lightning", "model_state_dict", "teacher", "two levels", "beside numbers"],
)
def test_weights_are_found_inside_containers(tmp_path, wrap):
    torch.save(wrap(weights()), tmp_path / "w.pt")
    assert read_checkpoint(tmp_path / "w.pt").keys() == weights().keys()


@pytest.mark.parametrize(
    "content", [{"epoch": 3}, {}, [torch.ones(2)], torch.ones(2), {"state_dict": {}}, {"state_dict": {"a": 1}}]
)
def test_a_file_without_tensors_by_name_is_refused_with_what_it_holds(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    held = "list|Tensor" if not isinstance(content, dict) else r"\[.*\]"
    with pytest.raises(EncoderError, match=rf"needed tensors by name in .*w\.pt.*it holds ({held})"):
        read_checkpoint(tmp_path / "w.pt")


def test_the_digest_is_that_of_the_file_in_any_case(tmp_path):
    save_file(weights(), tmp_path / "w.safetensors")
    digest = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert file_digest(tmp_path / "w.safetensors") == digest
    assert read_checkpoint(tmp_path / "w.safetensors", digest.upper() + "\n")
    assert checked_file(str(tmp_path / "w.safetensors"), digest) == tmp_path / "w.safetensors"


# Refusal: files that are not what they should be


class Payload:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("written", ["zip", "legacy", "pickle"])
def test_pickled_objects_are_refused_with_the_way_out_and_never_executed(tmp_path, written):
    trace, path = tmp_path / "trace", tmp_path / "w.pt"
    content = {"state_dict": weights(), "hyper_parameters": Payload(trace)}
    if written == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=written == "zip")
    with pytest.raises(EncoderError, match=r"nothing but tensors.*weights_only=False.*safetensors\.torch\.save_file"):
        read_checkpoint(path)
    assert not trace.exists()
    if written == "zip":  # the payload is one: the test could fail
        torch.load(path, weights_only=False)
        assert trace.exists()


def test_converting_as_the_error_says_makes_a_file_that_loads(tmp_path, network):
    torch.save({"state_dict": weights(), "hyper_parameters": Payload(tmp_path / "trace")}, tmp_path / "w.pt")
    save_file(torch.load(tmp_path / "w.pt", weights_only=False)["state_dict"], tmp_path / "w.safetensors")
    load_weights(network, read_checkpoint(tmp_path / "w.safetensors"), "w")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_truncated_file_is_an_error_wherever_it_ends(tmp_path, kind):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    content = {**weights(), "large": torch.rand(3000)}
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for end in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:end])
        with pytest.raises(EncoderError, match=r"not all of one.*Fetch it again"):
            read_checkpoint(path)


def test_damaged_bytes_are_an_error_of_ours_or_still_tensors(tmp_path, generator):
    torch.save(weights(), tmp_path / "whole.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole.pt").read_bytes()
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        places, values = torch.randint(256, (2, 2), generator=generator).tolist()
        for place, value in zip(places, values, strict=True):
            damaged[place] = value
        (tmp_path / "w.pt").write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_checkpoint(tmp_path / "w.pt")
        except EncoderError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_git_lfs_pointer_is_told_from_weights(tmp_path, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 132735251\n"
    (tmp_path / name).write_text(pointer)
    with pytest.raises(EncoderError, match=rf"{name} is the git-lfs pointer.*git lfs pull"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(("name", "kind"), [("none.pt", "nothing"), ("", "a folder")])
def test_a_file_that_is_not_there_is_refused(tmp_path, name, kind):
    with pytest.raises(EncoderError, match=rf"needed a checkpoint file; there is no .*{kind}.*Nothing is downloaded"):
        read_checkpoint(tmp_path / name)


def test_another_digest_is_refused_with_both(tmp_path):
    save_file(weights(), tmp_path / "w.safetensors")
    found = file_digest(tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=rf"with the SHA-256 {'ab' * 32}; it has {found}"):
        read_checkpoint(tmp_path / "w.safetensors", "AB" * 32)


# Promise: all the weights, or none


def test_weights_are_put_into_the_network(network):
    load_weights(network, weights(), "w")
    assert all(torch.equal(value, weights()[key]) for key, value in network.state_dict().items())
    assert isinstance(network.conv.weight, nn.Parameter)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_what_does_not_fit_is_listed_and_the_network_left_as_it_was(network, fault):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    given = weights()
    if fault == "missing":
        del given["conv.bias"]
        told = r"missing \['conv\.bias'\]"
    elif fault == "unknown":
        given["head.weight"] = torch.zeros(1)
        told = r"unknown \['head\.weight'\]"
    else:
        given["conv.weight"] = torch.zeros(2, 1, 5, 5)
        told = r"of another shape \['conv\.weight \(2, 1, 5, 5\) for \(2, 1, 3, 3\)'\]"
    with pytest.raises(EncoderError, match=rf"needed the weights of Net; in w\.pt are {told}\."):
        load_weights(network, given, "w.pt")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_all_faults_are_told_at_once_and_long_lists_are_cut(network):
    given = {f"other.{i:02}": torch.zeros(1) for i in range(20)}
    with pytest.raises(EncoderError, match=r"missing \[.*\]; unknown \['other\.00', .*'other\.11'\] and 8 more"):
        load_weights(network, given, "w")


def test_optional_weights_may_be_absent_and_unused_ones_present(network):
    given = {**weights(), "decoder.weight": torch.zeros(1)}
    del given["conv.bias"]
    before = network.conv.bias.detach().clone()
    load_weights(network, given, "w", optional=["conv.bias"], unused=lambda key: key.startswith("decoder."))
    assert torch.equal(network.conv.bias, before)
    assert torch.equal(network.conv.weight, given["conv.weight"])


def test_counters_of_training_steps_may_be_absent(network):
    given = weights()
    del given["norm.num_batches_tracked"]
    load_weights(network, given, "w")
    with torch.device("meta"):
        empty = Net()
    load_weights(empty, given, "w")
    assert empty.norm.num_batches_tracked == 0


def test_half_precision_weights_take_the_type_of_the_network(network):
    load_weights(network, {key: value.half() for key, value in weights().items()}, "w")
    assert network.conv.weight.dtype == torch.float32
    assert network.norm.num_batches_tracked.dtype == torch.int64


def test_two_networks_of_the_same_weights_do_not_share_them():
    given, first, second = weights(), initialised(Net), initialised(Net)
    load_weights(first, given, "w")
    load_weights(second, given, "w")
    with torch.no_grad():
        first.conv.weight += 1
    assert torch.equal(second.conv.weight, given["conv.weight"])
    assert torch.equal(given["conv.weight"], weights()["conv.weight"])


def test_the_first_prefix_that_any_key_has_is_stripped():
    given = {"module.a": torch.ones(1), "module.b.c": torch.ones(2), "head": torch.ones(3)}
    assert strip_prefix(given, "backbone.", "module.").keys() == {"a", "b.c"}
    assert strip_prefix(given, "backbone.").keys() == given.keys()
    assert strip_prefix(given).keys() == given.keys()


# Promise: random weights are those of their seed, and nobody else's random numbers change


def test_initial_weights_are_those_of_the_seed_and_the_global_state_stays():
    state = torch.get_rng_state()
    first, again, other = initialised(Net, 1), initialised(Net, 1), initialised(Net, 2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(initialised(Net, 1).conv.weight, first.conv.weight)
    assert torch.equal(first.conv.weight, again.conv.weight)
    assert not torch.equal(first.conv.weight, other.conv.weight)
