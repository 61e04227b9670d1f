"""``report.html``: the experiment as a single self-contained page that opens offline."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tinynn.messages import printable

Report = Mapping[str, Any]


class Picture(NamedTuple):
    """A PNG file and its caption."""

    png: bytes
    caption: str


Pictures = dict[str, list[Picture]]
"""By section: "detection", "identification", "explanation" and "mistakes"."""


def page(report: Report, pictures: Pictures) -> str:
    """The whole page as HTML, with the sections that ``report`` contains."""
    parts = [_HEAD, "<h1>Face detection and identification</h1>", _summary(report)]
    if "detect" in report:
        parts.append(_detection(report["detect"], pictures["detection"]))
    if "identify" in report:
        parts.append(_identification(report["identify"], pictures))
    parts += [_LIMITS, _environment(report), "</main></body></html>"]
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Text for HTML; a name may contain markup, control characters and undecodable bytes."""
    return html.escape(printable(text))


def _summary(report: Report) -> str:
    cards: list[tuple[str, str]] = []
    if "detect" in report:
        montage, astronaut = report["detect"]["montage"], report["detect"]["astronaut"]
        cards += [
            (f"{montage['recall']:.0%}", f"recall on {montage['faces']} faces in montages"),
            (f"{montage['false_positives_per_photo']:.2f}", "false positives per photo"),
            ("found" if astronaut["found"] else "missed", "face of the astronaut"),
        ]
    if "identify" in report:
        identify = report["identify"]
        cards.append((f"{identify['error']:.1%}", f"test error, {identify['classes']} people"))
    tiles = (
        f"<div><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in cards
    )
    return (
        "<p class=lead>Convolutional networks, trained from scratch in minutes on this machine "
        "with tinynn, a neural-network library on NumPy and CuPy arrays.</p>"
        f"<div class=cards>{''.join(tiles)}</div>" + (_QUICK if report["quick"] else "")
    )


def _detection(detect: Report, pictures: Sequence[Picture]) -> str:
    montage = detect["montage"]
    return (
        "<h2>Face detection</h2>"
        "<p>A small CNN classifies windows as face or background. It is fully convolutional, so a "
        "single forward pass scores all windows of an image, and an image pyramid covers faces of "
        "all sizes. It is trained with hard-negative mining: in each round its false positives in "
        "photos without faces are added to the training set.</p>"
        f"<p>The test set consists of {montage['photos']} montages: {montage['faces']} faces of "
        "people held out from training, pasted into held-out photos, so that the ground truth is "
        f"exact. Recall: <b>{montage['recall']:.1%}</b>, with "
        f"<b>{montage['false_positives_per_photo']:.2f}</b> false positives per photo.</p>"
        + _figures(pictures)
    )


def _identification(identify: Report, pictures: Pictures) -> str:
    wrong = identify["test_images"] - round(identify["accuracy"] * identify["test_images"])
    text = (
        "<h2>Face identification</h2>"
        f"<p>{escape(identify['source'])}: {identify['classes']} people. The network "
        f"<code>{escape(identify['model'])}</code> ({identify['parameters']:,} parameters) was "
        f"trained on {identify['train_images']} images for {identify['epochs']} epochs and tested "
        f"on {identify['test_images']} others. The random split is stratified by person and "
        "precedes all processing; no image is in both sets. The test set was not used for model "
        "selection: the results are from the last epoch.</p>"
        f"<p>Test accuracy: <b>{identify['accuracy']:.1%}</b>; "
        f"{wrong} of {identify['test_images']} images are misclassified.</p>"
    )
    return (
        text
        + _figures(pictures["identification"])
        + _explanation(identify, pictures["explanation"])
        + _mistakes(pictures["mistakes"])
    )


def _explanation(identify: Report, pictures: Sequence[Picture]) -> str:
    if "attention" not in identify:
        return ""
    inside = identify["attention"]["inside_middle_ellipse"]
    area = identify["attention"]["area_of_middle_ellipse"]
    return (
        "<h3>What did the network learn?</h3>"
        "<p>A network can identify everyone correctly by hair, collar or background. Two kinds of "
        "saliency maps show which pixels a prediction depends on. <b>HiResCAM</b>, a variant of "
        "Grad-CAM, shows the evidence for the predicted person in the last convolutional layer, at "
        "the low resolution of that layer. <b>Occlusion</b> shows how much the predicted "
        "probability drops while a gray square covers a pixel. Bright pixels matter most, dark "
        "ones do not matter.</p>"
        "<p>The central ellipse, which contains the inner face if the face is centered, covers "
        f"<b>{area:.0%}</b> of the pixels and <b>{inside:.0%}</b> of the HiResCAM. "
        + _verdict(inside, area)
        + "</p><p>Saliency maps show where, not why, and they do not show that a prediction is "
        "correct: networks with equal maps may have learned different things, and even a network "
        "trained on noise has maps. If the bright regions are hair or background, add photos with "
        "different hair and backgrounds, and check again.</p>" + _figures(pictures)
    )


def _verdict(inside: float, area: float) -> str:
    if inside > 1.2 * area:
        return "Per pixel, the inner face contributes more than the periphery (hair, background)."
    if inside < 0.8 * area:
        return "Per pixel, the periphery (hair, background) contributes more than the inner face."
    return "Per pixel, the inner face contributes as much as the periphery (hair, background)."


def _mistakes(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return "<p>No test image is misclassified.</p>"
    return (
        "<h3>Misclassified images</h3><p>Most confident first. From left to right: test image; "
        "HiResCAM; training image of the predicted person; training image of the true person.</p>"
        f"<div class=grid>{_figures(pictures)}</div>"
    )


def _figures(pictures: Sequence[Picture]) -> str:
    return "".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(png).decode()}" '
        f'alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>'
        for png, caption in pictures
    )


def _environment(report: Report) -> str:
    facts = {
        "seed": report["seed"],
        "device": report["device"],
        **{f"seconds: {stage}": f"{value:.1f}" for stage, value in report["seconds"].items()},
        **report["versions"],
    }
    rows = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return (
        "<h2>Reproducibility</h2><p>On one machine, equal seeds give equal results. All values are "
        f"in <code>report.json</code>.</p><table>{''.join(rows)}</table>"
    )


_QUICK = "<p><b>This was a quick run:</b> a smoke test with far too little training.</p>"

_LIMITS = """
<h2>Limitations</h2>
<p>The ORL faces are 40 people, mostly light-skinned men, photographed from 1992 to 1994 in one
laboratory. The results above apply to such images and may not carry over to other people, lighting
or cameras: no general accuracy is claimed. A network can also learn hair, glasses or the background
instead of the face. These networks are not fit for any decision about a person.</p>
<p>Credits: ORL database of faces, AT&amp;T Laboratories Cambridge; Labeled Faces in the Wild (a
subset of 100 faces); astronaut: Eileen Collins, photographed by NASA; photos without faces from
scikit-image and scikit-learn. All of them are part of ordinary Python packages, and no image left
this machine.</p>
"""

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Face detection and identification</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d646c; --paper: #fbfaf8;
        --card: #ffffff; --line: #dddad4; --accent: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e4e0; --soft: #a2a6ab; --paper: #17191c; --card: #22252a; --line: #3a3e44;
          --accent: #86b7f0; } }
body { margin: 0; background: var(--paper); color: var(--ink);
       font: 17px/1.6 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.2rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 .4rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
.lead { color: var(--soft); font-size: 1.1rem; margin-top: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
             padding: .8rem 1rem; }
.cards b { display: block; font-size: 1.7rem; line-height: 1.2; color: var(--accent); }
.cards span { color: var(--soft); font-size: .88rem; line-height: 1.35; display: block; }
figure { margin: 1.4rem 0; }
figure img { display: block; max-width: 100%; margin: 0 auto; border-radius: .5rem;
             background: #fff; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; text-align: center; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.grid figure { margin: 0; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; font-weight: normal; padding: .18rem 1.4rem .18rem 0;
         border-bottom: 1px solid var(--line); }
th { color: var(--soft); }
code { background: var(--card); border: 1px solid var(--line); border-radius: .3rem;
       padding: 0 .25rem; font-size: .92em; }
</style></head><body><main>"""
