"""Any path works as it is, and what is no option is refused with the right name."""

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore

from mi_callback.cli.arguments import Grammar, quoted
from mi_callback.errors import OptionError

KEYS = ("train", "generated", "size", "power", "detector.alpha", "detector.encoder", "detector.null")
GRAMMAR = Grammar("mi-audit", KEYS, paths=("train", "generated"), free=("detector.encoder",))

PATHS = ["gen", "50000", "1e3", "true", "Müller", "scan (2023)", "a,b", "x=1", "v#2", "cohort {A}", "a b", "[1]", "a:b",
         "$HOME", "${x}", "${x", "a\\${x}", "it's", 'say "a"', "back\\slash", "end\\", "\\\\host\\share", "~user", "*?",
         "tab\there", " led", "trail ", "'", "a/ü/日本", "%20", "@at", "!x", "&", "|", "<a>", ";", "`a`"]  # fmt: skip


@pytest.fixture(scope="module")
def read_by_hydra():
    """Overrides → the value of `train` that Hydra makes of them."""
    ConfigStore.instance().store(name="of_paths", node={"train": None, "size": None})
    with initialize_config_module(config_module="mi_callback.conf", version_base="1.3"):
        yield lambda *overrides: compose("of_paths", list(overrides))


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_read_as_it_was_typed(read_by_hydra, path):
    assert read_by_hydra(*GRAMMAR.overrides([f"train={path}"])).train == path


@pytest.mark.parametrize("typed", ["'a b'", '"a b"'])
def test_a_path_that_the_user_quoted_for_hydra_is_read_without_quotes(read_by_hydra, typed):
    assert read_by_hydra(*GRAMMAR.overrides([f"train={typed}"])).train == "a b"


def test_a_folder_whose_name_has_quotes_keeps_them(read_by_hydra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "'a b'").mkdir()
    assert read_by_hydra(f"train={quoted(chr(39) + 'a b' + chr(39))}").train == "'a b'"


def test_no_path_is_none(read_by_hydra):
    assert read_by_hydra(*GRAMMAR.overrides(["train=null"])).train is None


@pytest.mark.parametrize(
    ("typed", "size"), [("48", 48), ("48x32", [48, 32]), ("48×32×16", [48, 32, 16]), ("[48,32]", [48, 32])]
)
def test_sizes_are_numbers_products_or_lists(read_by_hydra, typed, size):
    assert read_by_hydra(*GRAMMAR.overrides([f"size={typed}"])).size == size


def test_of_a_sweep_every_path_is_one(tmp_path):
    (tmp_path / "c,d").mkdir()
    assert GRAMMAR.overrides(["-m", "train=a,b"]) == ["-m", "train='a','b'"]
    assert GRAMMAR.overrides(["-m", f"train={tmp_path}/c,d"]) == ["-m", f"train='{tmp_path}/c,d'"]


def test_what_hydra_knows_is_passed_on():
    typed = ["--cfg", "job", "--config-dir=conf", "hydra.verbose=true", "hydra/launcher=basic",
             "+mi_callback/encoder@detector.encoder=mri_core", "detector.encoder.checkpoint=f.pth",
             "+detector.encoder.size=3", "detector.alpha=0.1"]  # fmt: skip
    assert GRAMMAR.overrides(typed) == typed


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("alpha=0.2", r"'alpha' came\. The right name is detector\.alpha: detector\.alpha=0\.2\."),
        ("+alpha=0.2", r"'\+alpha' came\. The right name is detector\.alpha: detector\.alpha=0\.2\."),
        ("++null=cross_fit", r"The right name is detector\.null"),
        ("detector.alhpa=0.2", r"The right name is detector\.alpha"),
        ("generate=x", r"The right name is generated"),
        ("+detector.foo=1", r"needed an option of mi-audit; '\+detector.foo' came\. See mi-audit --help"),
        ("detector.train=x", r"The right name is train"),
        ("+detector.alpha=0.2", r"Write detector\.alpha=0\.2\."),
        ("~power", r"Write power=null"),
        ("/data/train", r"needed options as key=value; '/data/train' came"),
        ("/data/x=1", r"needed an option of mi-audit; '/data/x' came"),
        ("--train", r"'--train' came\. Write train=…"),
        ("--train=x", r"'--train' came\. Write train=…"),
        ("--alpha", r"Write detector\.alpha=…"),
        ("-x", r"'-x' came\. See mi-audit --help"),
        ("--cfg", r"needed a value after --cfg"),
    ],
)
def test_what_is_no_option_is_refused_with_the_right_name(typed, said):
    with pytest.raises(OptionError, match=said):
        GRAMMAR.overrides([typed])
