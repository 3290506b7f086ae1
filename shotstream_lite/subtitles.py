"""The captions of a story in its film: a subtitle track, and a chapter a shot. Pictures are copied, not coded anew."""

import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from shotstream_lite.errors import FilmError
from shotstream_lite.files import whole_file
from shotstream_lite.film import FORMATS, pyav

if TYPE_CHECKING:
    from shotstream_lite.session import ToldShot

MILLISECOND = Fraction(1, 1000)
# FFmpeg's encoders of text subtitles want to know a style, though every player has its own.
_STYLE = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,sans-serif,16
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def lines(shots: Sequence["ToldShot"], fps: int) -> Iterator[tuple[int, int, str]]:
    """What holds when: (start, end, caption) in milliseconds, one for each caption of each shot, in order."""
    first = 0
    for told in shots:
        length, said = told.footage.length, [(0, told.shot.caption)]
        said += [(turn.frame, turn.caption) for turn in told.shot.turns if turn.frame < told.footage.length]
        ends = [frame for frame, _ in said[1:]] + [length]
        for (start, caption), end in zip(said, ends, strict=True):
            if end > start:  # a turn at frame 0 says it all
                yield (first + start) * 1000 // fps, (first + end) * 1000 // fps, " ".join(caption.split())
        first += length


def write_captions(path: Path, shots: Sequence["ToldShot"], fps: int) -> None:
    """Adds the captions to a finished film that begins with these shots. Raises FilmError; the film stays as it was."""
    kind, av = FORMATS[path.suffix.lower()], pyav()
    chapters = []
    for number, told in enumerate(shots, start=1):
        start = chapters[-1]["end"] if chapters else 0
        end = start + told.footage.length * 1000 // fps
        title = {"title": f"{number}. {told.shot.caption}"[:80]}
        chapters.append({"id": number, "start": start, "end": end, "time_base": MILLISECOND, "metadata": title})
    with whole_file(path, FilmError) as part, av.open(str(path)) as film, av.open(str(part), "w", format=kind) as out:
        pictures = out.add_stream_from_template(film.streams.video[0])
        text = out.add_stream("subrip" if kind == "matroska" else "mov_text")
        text.codec_context.subtitle_header, text.time_base = _STYLE, MILLISECOND
        out.set_chapters(chapters)
        for start, end, caption in lines(shots, fps):
            line = caption.encode()
            line = line if kind == "matroska" else struct.pack(">H", len(line)) + line
            packet = av.Packet(len(line))
            packet.update(line)  # a packet made of bytes does not keep them alive in every PyAV
            packet.stream, packet.time_base = text, MILLISECOND
            packet.pts = packet.dts = start
            packet.duration = end - start
            out.mux(packet)
        for packet in film.demux(film.streams.video[0]):
            if packet.dts is not None:
                packet.stream = pictures
                out.mux(packet)
