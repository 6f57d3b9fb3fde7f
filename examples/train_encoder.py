"""Train the bundled encoder for copy detection from folders of slices or volumes.

    python examples/train_encoder.py DATA/slices DATA/volumes:0 --out mi_callback/encoders/weights --steps 6000

Each step embeds two independently changed versions of the same slices; a slice must be closer to its own other
version than to any other slice of the batch (InfoNCE), and all embeddings spread out (KoLeo, Sablayrolles et al.
2019). Neighbouring slices of one subject sit in the same batch as hard negatives. Subjects are split by a hash
of their id: those held out are never trained on, and measure the encoder at the end (see the model card).

The run is resumable: the same command goes on from `--state` until `--steps` are done, then measures and writes
`bundled.safetensors` and `MODEL_CARD.md` into `--out`.
"""

import argparse
from pathlib import Path

import torch
from encoder_training.card import model_card
from encoder_training.learning import EncoderTraining
from encoder_training.measuring import ablate, compare, measure
from encoder_training.slices import keep, load
from safetensors.torch import save_file

from mi_callback.encoders.bundled import WEIGHTS, WIDTHS
from mi_callback.images.files import split_by_subject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folder, or folder:axis for volumes (0 sagittal, 1 coronal, 2 axial)")
    parser.add_argument("--out", type=Path, default=Path("encoder"))
    parser.add_argument("--state", type=Path, default=Path("encoder/training.pt"), help="resumable training state")
    parser.add_argument("--steps", type=int, default=6000, help="in all; the learning rate follows them")
    parser.add_argument("--widths", type=int, nargs=len(WIDTHS), default=WIDTHS, help="channels of the stages")
    parser.add_argument(
        "--against", type=Path, nargs="*", default=[], help="folders of other trainings, to compare in the card"
    )
    parser.add_argument("--share", type=float, default=0.5, help="share of subjects trained on; the rest measure")
    parser.add_argument("--unseen", nargs="*", default=[], help="folders that are only measured on")
    parser.add_argument("--source", nargs="*", default=[], help="lines on the data and their licences, for the card")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    folders = [load(argument) for argument in options.data]
    trained = [keep(folder, split_by_subject(folder.subjects, options.share)) for folder in folders]
    for folder, part in zip(folders, trained, strict=True):
        print(
            f"{folder.name}: {len(part.images)} of {len(folder.images)} slices, "
            f"{len(set(part.subjects))} of {len(set(folder.subjects))} subjects"
        )
    options.state.parent.mkdir(parents=True, exist_ok=True)
    training = EncoderTraining(options)
    training.run(trained)
    options.out.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in training.model.network.state_dict().items()}
    save_file(weights, options.out / WEIGHTS, metadata={"steps": str(training.step)})
    unseen = [keep(folder, ~split_by_subject(folder.subjects, options.share)) for folder in folders]
    unseen += [load(argument) for argument in options.unseen]
    measured = [row for folder in unseen if len(set(folder.subjects)) >= 4 for row in measure(options.out, folder)]
    ablated = [row for folder in unseen[-1:] for row in ablate(options.out, folder)]
    compared = [row for folder in unseen[-1:] for row in compare(options.against, folder)]
    card = model_card(training, trained, measured, ablated, compared)
    (options.out / "MODEL_CARD.md").write_text(card)
    print(f"{card}\nwrote {options.out / WEIGHTS} and MODEL_CARD.md")


if __name__ == "__main__":
    main()
