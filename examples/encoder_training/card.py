"""The model card that a training writes."""

import time

import torch
from encoder_training.learning import KOLEO_WEIGHT, TEMPERATURE, Training
from encoder_training.measuring import HARD
from encoder_training.slices import PAIRS, RUN, Slices, short_name

from mi_callback.encoders.bundled import SIZE, CopyNet
from mi_callback.lightning.loggers import markdown_table

CARD = """# The bundled encoder

CopyNet: {parameters:,} parameters, one input channel, {size} px, stages of {widths} channels. Features are the
GeM-pooled stages 2 to 4. Trained for copy detection by `examples/train_encoder.py`.

## Data

{data}

Subjects for which `split_by_subject(subjects, {share})` is true were trained on, the others never.

{sources}

## Training

InfoNCE (temperature {temperature}) + {koleo} KoLeo, {pairs} pairs a step in runs of {run} consecutive slices, AdamW
2e-3 with warm-up and cosine, {steps} steps in {minutes:.0f} minutes on {threads} CPU thread(s), bfloat16, seed {seed},
torch {torch}, {date}. InfoNCE at the end: {loss:.3f} (mean of the last five readings).

## Retrieval on subjects that were not trained on

Half of the subjects are the training set; up to 200 of their slices are changed and looked up in the flip orbit. Right
match: the most similar training slice is the copied one. Recall at 8: it is among the eight most similar ones.
AUC: similarity of copies against that of slices of the other subjects. Features alone, no registration.

{measured}

## Ablations

The same on subjects that were not trained on, mean over {hard}.
Pooling, whitening and stages may be chosen. The first row is the default.

{ablated}

{compared}

## Limits

Trained on the anatomies listed above, from few scanners. Flips and quarter turns are left to poses and to the copy
descriptor. The training data carry attribution and share-alike licences: name them when you pass the weights on.
"""


def model_card(
    training: Training,
    trained: list[Slices],
    measured: list[list[str]],
    ablated: list[list[str]],
    compared: list[list[str]],
) -> str:
    """The card in Markdown, from a run, its data and rows of what was measured."""
    options, last = training.options, [loss for _, loss in training.history[-5:]]
    data = [[short_name(f.name), str(len(f.images)), str(len(set(f.subjects)))] for f in trained]
    return CARD.format(
        parameters=sum(p.numel() for p in CopyNet(options.widths).parameters()),
        size=SIZE,
        widths=tuple(options.widths),
        data=markdown_table(["folder", "slices", "subjects"], data),
        share=options.share,
        sources="\n".join(f"- {line}" for line in options.source),
        temperature=TEMPERATURE,
        koleo=KOLEO_WEIGHT,
        pairs=PAIRS,
        run=RUN,
        minutes=training.seconds / 60,
        threads=options.threads,
        steps=training.step,
        seed=options.seed,
        torch=torch.__version__,
        date=time.strftime("%Y-%m-%d"),
        loss=sum(last) / len(last),
        measured=markdown_table(["folder", "change", "copies", "right match", "recall at 8", "AUC"], measured),
        hard=", ".join(HARD),
        ablated=markdown_table(["folder", "pooling", "whitening", "stages", "recall at 8", "AUC"], ablated),
        compared="Networks of other widths, trained the same for as many steps as the table says:\n\n"
        + markdown_table(["folder", "widths", "parameters", "steps", "recall at 8", "AUC"], compared)
        if compared
        else "Widths and depths were not compared.",
    )
