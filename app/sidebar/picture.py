"""Choosing the picture or video: the gallery, a new scene, upload, paste, camera."""

from __future__ import annotations

from functools import cache

import streamlit as st

from flowcut.errors import FlowCutError, UnknownFormat
from flowcut.media.containers import FORMATS as VIDEO_FORMATS
from flowcut.media.video import is_video
from flowcut_lens.app.components.thumbnails import data_url, thumbnails
from flowcut_lens.app.jobs.explain import explain
from flowcut_lens.app.jobs.visitors import give_back, tidy
from flowcut_lens.app.media import gallery, videos
from flowcut_lens.app.media.chosen import ChosenPicture
from flowcut_lens.app.media.uploads import Upload
from flowcut_lens.app.media.videos import VideoFile
from flowcut_lens.app.sidebar.film_strip import strip
from flowcut_lens.app.sidebar.paste import paste
from flowcut_lens.app.state import session

NEW_SCENE_HELP = "Draws a scene that no one has seen before; its ground truth marks the answers right or wrong"


def choose_picture() -> None:
    """The chosen picture, and all the ways to choose another."""
    _open_waiting()
    shown = session.picture()
    picture, ways = st.columns([3, 2], gap="small")
    with picture, st.container(key="picture"):
        if shown.video is None:
            st.image(shown.preview, alt=shown.name, width="stretch")
        else:
            strip(shown.video)
    with ways, st.container(key="sources"):
        _ways_in()
    if shown.file is not None:
        _frames_box(shown.file)
    for note in shown.notes:
        st.caption(note)
    thumbnails(_thumbnails(), shown.seed, "Gallery of drawn scenes", "gallery", session.show_scene)
    st.caption(gallery.CHOSEN)
    paste("paste", lambda content: take_in(content, "pasted picture"))


def _ways_in() -> None:
    """A new scene, a file, the clipboard, the camera."""
    icon = ":material/{}:".format
    st.button("New scene", icon=icon("casino"), on_click=session.show_new_scene, help=NEW_SCENE_HELP, width="stretch")
    _upload_box()
    camera = st.popover("Camera", icon=icon("photo_camera"), width="stretch", on_change="rerun", key="camera_box")
    if camera.open:  # asked for only then: showing the camera makes the browser ask for permission
        camera.camera_input("Take a picture", key="camera", on_change=_taken_in, args=("camera", "your photograph"))
    st.caption("or paste one with Ctrl+V. It never leaves this machine.")


def _upload_box() -> None:
    """A button that takes files, dropped ones too: always on screen, as its upload ends when it is taken away.

    A new box takes the place of one that has handed its file over, so that the next click chooses a file again.
    """
    key = f"upload-{st.session_state.setdefault('uploads', 0)}"
    st.file_uploader(
        "A picture or video of your own", key=key, on_change=_uploaded, args=(key,), label_visibility="collapsed"
    )  # of any type: what cannot be used is then told in our own sentence


def _uploaded(key: str) -> None:
    """Callback of the upload box."""
    st.session_state.uploads += 1
    _taken_in(key, "your picture")
    if (file := st.session_state[key]) is not None:
        give_back(file)


@cache
def _thumbnails() -> list[tuple[int, str, str]]:
    return [(entry.seed, data_url(gallery.scene(entry.seed).image), entry.note) for entry in gallery.entries()]


def _taken_in(key: str, name: str) -> None:
    """Callback of the widgets that hand over a file."""
    file = st.session_state[key]
    if file is None:
        return
    if is_video(file):
        st.session_state.waiting_video = VideoFile(file.name, file.getvalue())
    else:
        take_in(file.getvalue(), name)


def _frames_box(file: VideoFile) -> None:
    """How many frames are taken of the video; another number takes them anew."""
    known = videos.limits(st.session_state.model)
    allowed = f" ({videos.LEAST_FRAMES} to {known.most})" if known is not None and known.most else ""
    if "frames" not in st.session_state:  # the box was not on screen in the last run
        st.session_state.frames = st.session_state.asked_frames
    st.number_input(
        f"Frames to take{allowed}", 1, key="frames", step=1, on_change=_frames_changed, args=(file,),
        help="At even distances of time from the start of the video; the model sees these and no others.",
    )  # fmt: skip


def _frames_changed(file: VideoFile) -> None:
    st.session_state.waiting_video = file


def _open_waiting() -> None:
    """Open the video that was just uploaded, or take other frames of it: decoding takes a while, so not in a callback.

    What cannot be used is told in one sentence, and the picture or video before it stays. The file waits until it is
    opened: a click meanwhile ends this run of the page, and the next one opens it.
    """
    state = st.session_state
    file: VideoFile | None = state.get("waiting_video")
    if file is None:
        return
    again = file is session.picture().file
    try:
        with st.spinner("Taking frames of the video …"):
            frames = state.frames if again else session.usual_frames()
            if again:
                videos.check_frames(state.model, frames)
            video = file.open(frames)
    except Exception as error:  # whatever it was: were it left waiting, every run of the page would end here
        state.problem = explain(error)
        del state.waiting_video
        state.pop("frames", None)
        return
    state.asked_frames = state.frames = frames
    _choose_own(ChosenPicture(video, "your video", file=file))


def take_in(content: bytes, name: str) -> None:
    """Make the bytes of a file the picture of the next question, or say in one sentence why it cannot be."""
    upload = Upload(content)
    try:
        upload.open()
    except UnknownFormat as error:
        st.session_state.problem = f"{str(error).removesuffix('.')}, or a video ({VIDEO_FORMATS})."
        return
    except FlowCutError as error:
        st.session_state.problem = str(error)
        return
    _choose_own(ChosenPicture(upload, name))


def _choose_own(chosen: ChosenPicture) -> None:
    """A picture or video of one's own; a question that was typed stays, a suggested one gives way to one that fits."""
    typed = st.session_state.question.strip()
    own = typed and typed not in gallery.suggested_for(session.picture())
    session.choose(chosen, typed if own else gallery.suggested_for(chosen)[0])
    tidy()
