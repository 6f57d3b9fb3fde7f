"""Train the copy descriptor from folders of slices or volumes.

    python examples/train_descriptor.py DATA/slices DATA/volumes:0 --out mi_callback/encoders/weights --steps 6000

Each step describes slices as they are and changed as copies may be; a changed one must be closer to its original than
to any other (InfoNCE), and all originals spread out (KoLeo). Subjects are split by a hash of their id: those held out
are never trained on, and measure the descriptor at the end, together with folders that are only measured on.

The run is resumable: the same command goes on from `--state` until `--steps` are done, then measures and writes
`descriptor.safetensors` and `DESCRIPTOR_CARD.md` into `--out`.
"""

import argparse
import time
from pathlib import Path

import torch
from encoder_training.descriptor import DescriptorTraining, recall, weights_of
from encoder_training.distilling import Distillation
from encoder_training.slices import keep, load_thumbnails, short_name
from safetensors.torch import save_file

from mi_callback.encoders.descriptor import DIMENSIONS, SIDE, WEIGHTS, WIDTHS
from mi_callback.images.files import split_by_subject
from mi_callback.lightning.loggers.tables import markdown_table

CARD = """# The copy descriptor

{parameters:,} parameters; edges of {side} px thumbnails at two scales in, a unit vector of {dimensions} numbers out.
Trained by `examples/train_descriptor.py` to find images again that were changed.

## Data

{data}

Subjects for which `split_by_subject(subjects, {share})` is true were trained on, the others never; beside them made-up
anatomies and parts of slices.

{sources}

## Training

InfoNCE + KoLeo, AdamW 2e-3 with warm-up and cosine, {steps} steps in {minutes:.0f} minutes on {threads} CPU thread(s),
bfloat16, seed {seed}, torch {torch}, {date}. {note}

## Found again, on subjects that were not trained on

Half of the subjects are the training set; up to 100 of their slices are changed and looked up in eight poses among all
looks of the training images. Share whose own slice is the nearest, and among the nearest 8 and 16; whose person is
among 8.

{measured}

## Limits

Trained on the anatomies listed above, from few scanners. The training data carry attribution and share-alike licences:
name them when you pass the weights on.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="folder, or folder:axis for volumes (0 sagittal, 1 coronal, 2 axial)")
    parser.add_argument("--out", type=Path, default=Path("descriptor"))
    parser.add_argument("--state", type=Path, default=Path("descriptor/training.pt"), help="resumable training state")
    parser.add_argument("--steps", type=int, default=6000, help="in all; the learning rate follows them")
    parser.add_argument("--widths", type=int, nargs=4, default=WIDTHS, help="channels of the stages")
    parser.add_argument("--teacher", type=Path, help="weights of a wider descriptor, from which it learns")
    parser.add_argument("--share", type=float, default=0.5, help="share of subjects trained on; the rest measure")
    parser.add_argument("--unseen", nargs="*", default=[], help="folders that are only measured on")
    parser.add_argument("--source", nargs="*", default=[], help="lines on the data and their licences, for the card")
    parser.add_argument("--note", default="", help="line on the run, for the card")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    folders = [load_thumbnails(argument) for argument in options.data]
    trained = [keep(folder, split_by_subject(folder.subjects, options.share)) for folder in folders]
    options.state.parent.mkdir(parents=True, exist_ok=True)
    training = DescriptorTraining(options) if options.teacher is None else Distillation(options)
    training.run(trained)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(weights_of(training.model), options.out / WEIGHTS, metadata={"steps": str(training.step)})

    unseen = [keep(folder, ~split_by_subject(folder.subjects, options.share)) for folder in folders]
    unseen += [load_thumbnails(argument) for argument in options.unseen]
    measured = [
        row for folder in unseen if len(set(folder.subjects)) >= 4 for row in recall(options.out / WEIGHTS, folder)
    ]
    data = [[short_name(f.name), str(len(f.images)), str(len(set(f.subjects)))] for f in trained]
    card = CARD.format(
        parameters=sum(p.numel() for p in training.model.parameters()),
        side=SIDE,
        dimensions=DIMENSIONS,
        data=markdown_table(["folder", "slices", "subjects"], data),
        share=options.share,
        sources="\n".join(f"- {line}" for line in options.source),
        steps=training.step,
        minutes=training.seconds / 60,
        threads=options.threads,
        seed=options.seed,
        torch=torch.__version__,
        date=time.strftime("%Y-%m-%d"),
        note=options.note,
        measured=markdown_table(["folder", "change", "copies", "nearest", "of 8", "of 16", "person of 8"], measured),
    )
    (options.out / "DESCRIPTOR_CARD.md").write_text(card)
    print(f"{card}\nwrote {options.out / WEIGHTS} and DESCRIPTOR_CARD.md")


if __name__ == "__main__":
    main()
