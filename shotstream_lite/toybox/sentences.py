"""Sixty sentences that people are likely to type: questions of wording, not of content. No template of `captions` is
one of them. Each has a twin in a template's words; who follows the twin should follow the sentence.

A story goes before each: "A story about a red ball and a blue box, in a meadow."
"""

from dataclasses import dataclass

GLOBAL = "A story about a red ball and a blue box, in a meadow."


@dataclass(frozen=True)
class Sentence:
    """What somebody typed and what it means; None where it does not say."""

    text: str
    who: tuple[str, ...]  # shapes, the left one first where that is said or usual
    action: str
    camera: str | None = None
    setting: str = "meadow"
    event: str = "none"

    @property
    def twin(self) -> str:
        """The same in the words of a template."""
        camera = {"wide": "Wide shot: ", "medium": "Medium shot: ", "close": "Close-up: ", "pan": "Panning shot: "}
        names = {"ball": "the red ball", "box": "the blue box"}
        does = "stand still" if self.action == "stand" else self.action.replace("_", " ")
        if len(self.who) == 1:
            verb, _, rest = does.partition(" ")
            does = f"{verb}s{' ' * bool(rest)}{rest}"
        place = {"meadow": "", "seaside": " on the beach", "snow": " in the snow"}
        place |= {"city": " in the city", "desert": " in the desert"}
        event = {"none": "", "wind": " The wind blows.", "bell": " A bell rings."}[self.event]
        who = " and ".join(names[shape] for shape in self.who)
        text = f"{camera.get(self.camera, '')}{who} {does}{place[self.setting]}.{event}"
        return text[0].upper() + text[1:]


BALL, BOX, BOTH, OTHERS = ("ball",), ("box",), ("ball", "box"), ("box", "ball")

SENTENCES = (
    Sentence("the ball hops on the beach", BALL, "jump", setting="seaside"),
    Sentence("close up of the box, waving", BOX, "wave", "close"),
    Sentence("they meet", BOTH, "meet"),
    Sentence("Close-up. The box is waving at us.", BOX, "wave", "close"),
    Sentence("Wide shot of the red ball walking to the left", BALL, "walk_left", "wide"),
    Sentence("A wide shot of the ball and the box jumping together", BOTH, "jump", "wide"),
    Sentence("The red ball jumps up and down.", BALL, "jump"),
    Sentence("red ball jumping", BALL, "jump"),
    Sentence("blue box, close-up", BOX, "stand", "close"),
    Sentence("the blue box spins around and around", BOX, "spin"),
    Sentence("Medium shot. The ball spins.", BALL, "spin", "medium"),
    Sentence("Now the ball is spinning in the snow", BALL, "spin", setting="snow"),
    Sentence("The camera pans while the red ball stands still.", BALL, "stand", "pan"),
    Sentence("the camera pans as the box walks right", BOX, "walk_right", "pan"),
    Sentence("Pan shot of the box waving", BOX, "wave", "pan"),
    Sentence("Cut to the blue box waving.", BOX, "wave"),
    Sentence("cut to: the red ball, waiting", BALL, "stand"),
    Sentence("We see the red ball jump in the city.", BALL, "jump", setting="city"),
    Sentence("the ball goes left", BALL, "walk_left"),
    Sentence("The box goes to the right, medium shot", BOX, "walk_right", "medium"),
    Sentence("The blue box walks off to the left.", BOX, "walk_left"),
    Sentence("a red ball walks to the right on the beach, long shot", BALL, "walk_right", "wide", "seaside"),
    Sentence("Both of them wave.", BOTH, "wave"),
    Sentence("They are waving.", BOTH, "wave"),
    Sentence("The two friends meet in the snow.", BOTH, "meet", setting="snow"),
    Sentence("they walk towards each other", BOTH, "meet"),
    Sentence("The ball and the box meet again, wide shot", BOTH, "meet", "wide"),
    Sentence("the box and the ball jump for joy", OTHERS, "jump"),
    Sentence("The red ball and the blue box stand together.", BOTH, "stand"),
    Sentence("wide: they both jump", BOTH, "jump", "wide"),
    Sentence("Close shot of the red ball as it turns around", BALL, "spin", "close"),
    Sentence("closeup of the ball", BALL, "stand", "close"),
    Sentence("A close-up of the red one jumping", BALL, "jump", "close"),
    Sentence("The blue one waves goodbye.", BOX, "wave"),
    Sentence("The blue one is standing there", BOX, "stand"),
    Sentence("the ball does nothing", BALL, "stand"),
    Sentence("The red ball just stands there, medium shot.", BALL, "stand", "medium"),
    Sentence("In the desert, the box jumps.", BOX, "jump", setting="desert"),
    Sentence("In the city at night the box waves", BOX, "wave", setting="city"),
    Sentence("On a beach, wide shot, the red ball walks left", BALL, "walk_left", "wide", "seaside"),
    Sentence("seaside, the ball waves", BALL, "wave", setting="seaside"),
    Sentence("desert. the blue box is walking left.", BOX, "walk_left", setting="desert"),
    Sentence("Winter. The red ball is hopping.", BALL, "jump", setting="snow"),
    Sentence("From far away we see the box spin.", BOX, "spin", "wide"),
    Sentence("Seen from very close, the ball waves hello", BALL, "wave", "close"),
    Sentence("zoom in on the blue box waving", BOX, "wave", "close"),
    Sentence("the red ball says hello", BALL, "wave"),
    Sentence("The ball greets us from the beach.", BALL, "wave", setting="seaside"),
    Sentence("The ball dances around in circles", BALL, "spin"),
    Sentence("the box leaps into the air", BOX, "jump"),
    Sentence("The ball moves to the left in the snow, panning shot", BALL, "walk_left", "pan", "snow"),
    Sentence("The box runs to the right.", BOX, "walk_right"),
    Sentence("Then the ball strolls to the right", BALL, "walk_right"),
    Sentence("The box waves and the wind blows.", BOX, "wave", event="wind"),
    Sentence("A gust of wind! The ball stands still.", BALL, "stand", event="wind"),
    Sentence("The wind blows while the red ball waits, close-up", BALL, "stand", "close", event="wind"),
    Sentence("A bell rings, the ball jumps, wide shot", BALL, "jump", "wide", event="bell"),
    Sentence("wide shot: the bell rings and the box waves", BOX, "wave", "wide", event="bell"),
    Sentence("the box turns round, in a close-up", BOX, "spin", "close"),
    Sentence("Back to the meadow: the red ball jumps.", BALL, "jump"),
)
