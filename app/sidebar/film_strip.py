"""The frames that were taken of a video, small, in order, each with the time at which it is shown."""

from __future__ import annotations

import streamlit as st

from flowcut.media.video import Video
from flowcut_lens.app.components.thumbnails import data_url

MOST_SHOWN = 32
"""Frames; of more, so many at even distances."""


def strip(video: Video) -> None:
    """Draw them; what is more than fits is scrolled to."""
    count = len(video.frames)
    shown = range(count) if count <= MOST_SHOWN else [place * count // MOST_SHOWN for place in range(MOST_SHOWN)]
    figures = "".join(_figure(video, place) for place in shown)
    st.html(f'<div class="lens-strip" role="group" aria-label="Frames of the video" tabindex="0">{figures}</div>')
    if count > MOST_SHOWN:
        st.caption(f"{MOST_SHOWN} of the {count} frames")


def _figure(video: Video, place: int) -> str:
    """One frame: its number, from 1, and its time, where that is known."""
    time = "" if video.seconds is None else clock(video.seconds[place])
    spoken = f"frame {place + 1}" + (f" at {time}" if time else "")
    image = f'<img src="{data_url(video.frames[place])}" alt="{spoken}">'
    below = f"<b>{place + 1}</b> {time}".rstrip()
    return f'<figure title="{spoken}">{image}<figcaption>{below}</figcaption></figure>'


def clock(seconds: float) -> str:
    """A place in a video: `7.5 s`, from a minute on `1:07.5`."""
    minutes, rest = divmod(round(max(0.0, seconds), 1), 60)
    return f"{minutes:.0f}:{rest:04.1f}" if minutes else f"{rest:.1f} s"
