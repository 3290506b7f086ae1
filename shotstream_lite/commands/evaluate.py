"""`shotstream evaluate`: films in the paper's five dimensions."""

from dataclasses import dataclass
from pathlib import Path

from shotstream_lite.commands.common import check_count, check_installed, check_unused
from shotstream_lite.errors import StoryError
from shotstream_lite.report import check_report_path, write_report

OF_STORIES = ("stories", "shots", "seed", "seen", "given", "keep", "pictures")
MAX_SEED = 2**40  # times a million, and the number of a story: a seed


@dataclass
class Evaluate:
    """Measure films in the paper's five dimensions: held-out stories told by models, or full-size films in a folder.

    To split the work over processes: accelerate launch --multi_gpu -m shotstream_lite.cli evaluate ..., or torchrun.
    """

    preset: str = "toybox"
    """Model: a preset, or a folder that holds one."""
    weights: tuple[str, ...] = ("student",)
    """Whose films to compare: [FOLDER:]WEIGHTS[@SETTING=VALUE,...], such as student teacher student@policy=none
    student@rival=longlive (a rule that streams, see `compare`); codec is real film through the codec and back."""
    stories: int = 20
    """Held-out stories."""
    shots: int = 5
    """Shots of each."""
    seed: int = 0
    """Draws the words of the captions and the noise of the films."""
    seen: bool = False
    """Tell stories of training instead; what is better there was learnt by heart."""
    given: int = 0
    """The first so many shots are real film, so that what follows is held against the truth."""
    keep: Path | None = None
    """Folder for told films and their scores; an evaluation that was stopped goes on from there."""
    pictures: Path | None = None
    """Folder for contact sheets, a story each: real film beside what the models made of it."""
    sentences: int = 0
    """Tell, instead of stories, sixty sentences as people type them, and each one's twin in the words of training, from
    so many seeds."""
    films: Path | None = None
    """Folder of full-size films (NAME.mp4 beside its story NAME.json) to measure instead, with real encoders."""
    dino: str | None = None
    """DINOv2 for --films: a folder, or a name on the hub, best NAME@COMMIT."""
    clip: str | None = None
    """CLIP or X-CLIP for --films: a folder, or a name on the hub, best NAME@COMMIT."""
    json: Path | None = None
    """File for the figures."""

    def run(self) -> int:
        """Prints the table and writes the figures if asked."""
        for name in ("stories", "shots"):
            check_count(getattr(self, name), f"--{name}")
        if self.films:
            check_unused(self, "with --films", "preset", "weights", "sentences", *OF_STORIES)
        else:
            check_unused(self, "without --films", "dino", "clip")
        if self.sentences:
            check_count(self.sentences, "--sentences")
            check_unused(self, "with --sentences", *OF_STORIES)
        if not 0 <= self.given < self.shots:
            raise StoryError(f"--given is {self.given}: write a number from 0 to {self.shots - 1}, less than --shots")
        if not 0 <= self.seed <= MAX_SEED:
            raise StoryError(f"--seed is {self.seed}: write a whole number from 0 to {MAX_SEED}")
        if not self.weights:
            raise StoryError("--weights names nothing: name whose films to measure, such as student")
        if self.sentences and len(self.weights) > 1:
            raise StoryError(f"--sentences measures one model, --weights names {len(self.weights)}: name one")
        if self.json:
            check_report_path(self.json)
        check_installed("to evaluate", "scenedetect")
        if self.films:
            from shotstream_lite.evaluation.folder import run_on_films

            result = run_on_films(self.films, self.dino, self.clip)
        elif self.sentences:
            from shotstream_lite.evaluation.films import CODEC, check_films
            from shotstream_lite.evaluation.run import model_specs
            from shotstream_lite.evaluation.sentences import evaluate_sentences
            from shotstream_lite.toybox.probe import PROBE_FILE, load_probe

            spec = model_specs(self.weights, self.preset)[0]
            if spec.weights == CODEC:
                raise StoryError(f"--weights {CODEC}: tells nothing, and --sentences are told: name a model")
            pipeline = spec.pipeline("cpu")
            check_films({spec.name: pipeline.settings})
            result = evaluate_sentences(pipeline, load_probe(PROBE_FILE), self.sentences)
        else:
            from shotstream_lite.evaluation.run import Evaluation, evaluate, model_specs

            who = model_specs(self.weights, self.preset)
            result = evaluate(Evaluation(who, **{name: getattr(self, name) for name in OF_STORIES}))
        if result is None:  # one of several processes; the first one reports
            return 0
        figures, table = result
        print(table)
        if self.json:
            write_report(figures, self.json)
        return 0
