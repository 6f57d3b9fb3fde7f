"""Encoders by name, and the contract that every one of the catalogue keeps."""

import ast
from pathlib import Path

import pytest
import torch
from networks import Net
from torch import nn

from mi_callback import encoders
from mi_callback.encoders import Encoder, HookedEncoder, Layer, available, build_encoder
from mi_callback.encoders.catalogue import CATALOGUE
from mi_callback.errors import EncoderError


@pytest.fixture
def images(generator):
    return torch.rand(5, 1, 8, 8, generator=generator)


# Promise


def test_every_available_encoder_without_arguments_satisfies_the_protocol(generator):
    for name in {"bundled", "pixels"} & set(available()):
        encoder = build_encoder(name)
        assert isinstance(encoder, Encoder)
        features = encoder(torch.rand(2, encoder.channels, *encoder.size, generator=generator))
        assert list(features) == list(encoder.layers)
        assert all(f.ndim == 2 and len(f) == 2 and f.isfinite().all() for f in features.values())
    assert {"bundled", "pixels", "module"} <= set(available())


def test_any_network_becomes_an_encoder_by_name(images):
    encoder = build_encoder("module", network=Net(), layers={"second": "BCHW"}, size=8)
    assert encoder(images)["second"].shape == (5, 6)


def test_an_encoder_is_returned_as_it_is():
    encoder = HookedEncoder(Net(), {"first": "BCHW"}, size=8)
    assert build_encoder(encoder) is encoder


def test_a_registered_builder_is_called_with_its_options(monkeypatch):
    monkeypatch.setitem(CATALOGUE, "mine", None)  # takes it out again
    encoders.register("mine", lambda side: build_encoder("pixels", sides=(side,)))
    assert "mine" in available()
    assert list(build_encoder("mine", side=4).layers) == ["levels.0"]


def test_an_encoder_needs_no_base_class(images):
    class Plain:
        name, layers, size, channels, intensity = "plain", {"all": Layer("BC")}, (8, 8), 1, "none"

        def __call__(self, images):
            return {"all": images.flatten(1)}

        def fingerprint(self):
            return "plain"

    plain = Plain()
    assert build_encoder(plain) is plain


def test_every_encoder_of_the_catalogue_keeps_the_contract():
    kept, contracts = set(), {"EncoderContract"}
    for path in Path(__file__).parent.rglob("test_*.py"):
        for family in ast.parse(path.read_text()).body:
            if not isinstance(family, ast.ClassDef) or contracts.isdisjoint(map(ast.unparse, family.bases)):
                continue
            contracts.add(family.name)
            for line in family.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "names":
                    kept |= set(ast.literal_eval(line.value))
    assert kept == set(available())


# Refusal


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(EncoderError, match=r"needed an encoder out of \[.*'bundled'.*\]; 'resnet' came"):
        build_encoder("resnet")


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), 3, None])
def test_what_is_no_encoder_is_refused_with_the_way_out(thing):
    with pytest.raises(EncoderError, match=r"Wrap it: build_encoder\('module', network=net"):
        build_encoder(thing)
