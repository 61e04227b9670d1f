"""``report.html``: the run as one page with its pictures inside; it opens without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

Report = Mapping[str, Any]


class Picture(NamedTuple):
    """A PNG file, and the words below it."""

    png: bytes
    caption: str


Pictures = dict[str, list[Picture]]
"""Of each section: "detection", "identification", "explanation" and "mistakes"."""


def page(report: Report, pictures: Pictures) -> str:
    """The whole page as HTML; sections that were not run are left out."""
    parts = [_HEAD, "<h1>Finding faces, and telling them apart</h1>", _summary(report)]
    if "detect" in report:
        parts.append(_detection(report["detect"], pictures["detection"]))
    if "identify" in report:
        parts.append(_identification(report["identify"], pictures))
    parts += [_LIMITS, _run(report), "</main></body></html>"]
    return "\n".join(parts) + "\n"


def _summary(report: Report) -> str:
    cards: list[tuple[str, str]] = []
    if "detect" in report:
        montage, astronaut = report["detect"]["montage"], report["detect"]["astronaut"]
        cards += [
            (f"{montage['recall']:.0%}", f"of {montage['faces']} faces found in the montage"),
            (f"{montage['false_positives_per_photo']:.2f}", "false alarms per photo"),
            ("found" if astronaut["found"] else "missed", "the astronaut's face"),
        ]
    if "identify" in report:
        identify = report["identify"]
        cards.append((f"{identify['error']:.1%}", f"error in naming {identify['classes']} people"))
    tiles = (
        f"<div><b>{escape(value)}</b><span>{escape(text)}</span></div>" for value, text in cards
    )
    return (
        "<p class=lead>Convolutional networks, trained from nothing within minutes on this machine "
        "by tinynn, a neural-network library written from scratch on arrays.</p>"
        f"<div class=cards>{''.join(tiles)}</div>" + (_QUICK if report["quick"] else "")
    )


def _detection(detect: Report, pictures: Sequence[Picture]) -> str:
    montage = detect["montage"]
    return (
        "<h2>Where are faces?</h2>"
        "<p>A small CNN learns to tell a face from anything else. It is fully convolutional, so "
        "it looks at every place of a photo at once, and at the photo in many sizes. What it takes "
        "for a face in photos without one is shown to it again as a counterexample: its own false "
        "alarms teach it most.</p>"
        f"<p>{montage['photos']} montages test it: {montage['faces']} faces of people that no "
        "training saw, pasted into photos without faces that no training saw either, so that every "
        f"true box is known exactly. Found: <b>{montage['recall']:.1%}</b>, with "
        f"<b>{montage['false_positives_per_photo']:.2f}</b> false alarms per photo.</p>"
        + _figures(pictures)
    )


def _identification(identify: Report, pictures: Pictures) -> str:
    wrong = identify["test_images"] - round(identify["accuracy"] * identify["test_images"])
    text = (
        "<h2>Whose face is it?</h2>"
        f"<p>{escape(identify['source'])}: {identify['classes']} people. The network "
        f"<code>{escape(identify['model'])}</code> ({identify['parameters']:,} parameters) learnt "
        f"from {identify['train_images']} pictures in {identify['epochs']} epochs and was tested "
        f"on {identify['test_images']} others. They were divided at random, for each person "
        "alike, before anything was done to them; no picture is on both sides, and the test chose "
        "nothing: what counts is the state after the last epoch.</p>"
        f"<p><b>{identify['accuracy']:.1%}</b> of the test pictures are named rightly; "
        f"{wrong} of {identify['test_images']} are not.</p>"
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
        "<h3>What did it learn?</h3>"
        "<p>A network can name everybody rightly by their hair, their collar or the wall behind "
        "them. Two maps show what a decision hung on. <b>HiResCAM</b>, a form of Grad-CAM: places "
        "where the last layer with an image in it saw something that speaks for the person; "
        "coarse, because that layer is small. <b>Occlusion</b>: how much less sure the network is "
        "while a gray square covers the place. Light is much, dark is nothing.</p>"
        f"<p>The ellipse in the middle, where the inner face is if the face is in the middle, has "
        f"<b>{area:.0%}</b> of the pixels and <b>{inside:.0%}</b> of the attention (HiResCAM). "
        + _verdict(inside, area)
        + "</p><p>The maps say where, not why, and not that it is right: two networks with the "
        "same maps may have learnt different things, and maps of the same kind can be drawn for a "
        "network that learnt noise. If the light is on hair or background, take photos with other "
        "hair and another background, and look again.</p>" + _figures(pictures)
    )


def _verdict(inside: float, area: float) -> str:
    if inside > 1.2 * area:
        return "It looks at the inner face more than elsewhere."
    if inside < 0.8 * area:
        return "It looks at the rim, hair and background among it, more than at the inner face."
    return "It looks at the rim, hair and background among it, as much as at the inner face."


def _mistakes(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return "<p>There are no mistakes to show.</p>"
    return (
        "<h3>The mistakes</h3><p>The most confident first. From left to right: the test picture; "
        "where the network looked; a training picture of the person it was taken for; a training "
        "picture of who it is.</p>"
        f"<div class=grid>{''.join(_figure(picture) for picture in pictures)}</div>"
    )


def _figures(pictures: Sequence[Picture]) -> str:
    return "".join(_figure(picture) for picture in pictures)


def _figure(picture: Picture) -> str:
    data, caption = base64.b64encode(picture.png).decode(), escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _run(report: Report) -> str:
    facts = {
        "seed": report["seed"],
        "device": report["device"],
        **{f"seconds: {stage}": f"{value:.1f}" for stage, value in report["seconds"].items()},
        **report["versions"],
    }
    rows = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return (
        "<h2>The run</h2><p>The same seed gives the same figures on one machine; all of them are "
        f"in <code>report.json</code>.</p><table>{''.join(rows)}</table>"
    )


_QUICK = "<p><b>This was a quick run:</b> a check that all works, trained far too little.</p>"

_LIMITS = """
<h2>What this does not show</h2>
<p>The ORL faces are 40 people, mostly light-skinned men, photographed from 1992 to 1994 in one
laboratory. The figures above hold for such pictures and say nothing about how well these networks
do with other people, other light or other cameras: no general accuracy is claimed. A network can
also learn hair, glasses or the background instead of the face. Nothing here is fit to decide
anything about a person.</p>
<p>Credits: ORL database of faces, AT&amp;T Laboratories Cambridge; Labeled Faces in the Wild (a
subset of 100 faces); the astronaut is Eileen Collins, photographed by NASA; photos without faces
from scikit-image and scikit-learn. All of them come with ordinary Python packages, and no picture
left this machine.</p>
"""

_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Finding faces, and telling them apart</title>
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
