"""Choosing the picture: the gallery, a new scene, upload, paste, camera."""

from __future__ import annotations

from functools import cache
from typing import Any

import streamlit as st

from app import gallery, session
from app.comparison import Picture
from app.widgets.paste import paste
from app.widgets.thumbnails import data_url, thumbnails
from flowcut.errors import FlowCutError
from flowcut.images import open_picture

FILE_TYPES = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"]
NEW_SCENE_HELP = "Draws a scene that no one has seen before; its ground truth marks the answers right or wrong"


def choose_picture() -> None:
    """The chosen picture, and all the ways to choose another."""
    shown = session.picture()
    picture, ways = st.columns([3, 2], gap="small")
    with picture, st.container(key="picture"):
        st.image(shown.preview, alt=shown.name, width="stretch")
    with ways, st.container(key="sources"):
        _ways_in()
    for note in shown.notes:
        st.caption(note)
    thumbnails(_thumbnails(), shown.seed, "Gallery of drawn scenes", "gallery", session.show_scene)
    paste("paste", lambda content: take_in(content, "pasted picture"))


def _ways_in() -> None:
    """A new scene, a file, the clipboard, the camera."""
    icon = ":material/{}:".format
    st.button("New scene", icon=icon("casino"), on_click=session.show_new_scene, help=NEW_SCENE_HELP, width="stretch")
    with st.popover("Upload", icon=icon("upload"), width="stretch"):
        st.file_uploader(
            "A picture of your own", FILE_TYPES, key="upload", on_change=_taken_in, args=("upload", "your picture")
        )
        st.caption("It never leaves this machine.")
    camera = st.popover("Camera", icon=icon("photo_camera"), width="stretch", on_change="rerun", key="camera_box")
    if camera.open:  # asked for only then: showing the camera makes the browser ask for permission
        camera.camera_input("Take a picture", key="camera", on_change=_taken_in, args=("camera", "your photograph"))
    st.caption("or paste one with Ctrl+V")


@cache
def _thumbnails() -> list[tuple[int, str, str]]:
    return [(entry.seed, data_url(gallery.scene(entry.seed).image), entry.note) for entry in gallery.entries()]


def _taken_in(key: str, name: str) -> None:
    """Callback of the widgets that hand over a file."""
    file = st.session_state[key]
    if file is not None:
        take_in(file, name)


def take_in(source: Any, name: str) -> None:
    """Make a file or its bytes the picture of the next question, or say in one sentence why it cannot be."""
    try:
        opened = open_picture(source)
    except FlowCutError as error:
        st.session_state.problem = str(error)
        return
    typed = st.session_state.question.strip()
    own = typed and typed not in gallery.suggested_questions(session.picture().seed)
    session.choose(Picture(opened.image, name, None, opened.notes), typed if own else gallery.PHOTOGRAPH_QUESTIONS[0])
