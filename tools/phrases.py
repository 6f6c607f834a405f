"""Makes a file of a model's own answers, in which its drafts are looked up (headrace/engine/phrases.py).

    python -m tools.phrases [MODEL] [--questions 4000] [--output FILE]

The model answers plain questions greedily, many at once: about half an hour for the default model on two idle
cores. Ctrl-C ends it earlier, with the answers that are complete. By default the file is written into the
model's folder, where it is found. Ours, of the default model, is made from 4,000 of the questions below; none
is about what bench/tasks.py asks.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from headrace.backends.engine.prompt import Prompts, Room
from headrace.config import PathsConfig
from headrace.engine.load import load_engine
from headrace.engine.phrases import write
from headrace.engine.sequence import SamplingParams, Sequence
from headrace.models.catalog import DEFAULT_MODEL, Cache, prepare
from headrace.models.model import PHRASES
from headrace.text.tokenizer import Tokenizer
from headrace.types import Conversation, Message

AT_ONCE, LONGEST, BEFORE = 64, 256, 3  # tokens of an answer, and of what stands before it

THINGS = (
    "a volcano; a bridge; a compass; a battery; a refrigerator; a microscope; an umbrella; a candle; a "
    "clock; a guitar; a violin; a piano; a drum; a telescope; a ship; a submarine; an airplane; a "
    "helicopter; a rocket; a satellite; a train; a tractor; a windmill; a dam; a mirror; a lens; a magnet; "
    "a thermometer; a barometer; a printer; a keyboard; a telephone; a radio; a television; a camera; a "
    "computer; a robot; a laser; a microphone; a loudspeaker; an elevator; a pump; a turbine; an engine; a "
    "transistor; a solar panel; a nuclear reactor; a sewing machine; a loom; a pencil; a fountain pen; a "
    "book; a newspaper; a map; a globe; a coin; a chair; a carpet; a roof; a chimney; a window; a lock; a "
    "knife; a spoon; a kettle; an oven; a washing machine; a vacuum cleaner; a light bulb; a fire "
    "extinguisher; a smoke detector; a parachute; a kite; a balloon; a tent; a boat; a canoe; a tyre; a "
    "traffic light; a tunnel; an airport; a greenhouse; a beehive; a spider web; a bird's nest; a coral "
    "reef"
)
NATURE = (
    "rain; snow; thunder; lightning; the ocean; the moon; the sun; the wind; fog; a rainbow; an earthquake; "
    "a tornado; a hurricane; a glacier; a desert; a rainforest; a river; a lake; an island; a mountain; "
    "tides; seasons; photosynthesis; evolution; gravity; electricity; magnetism; sound; heat; light; water; "
    "air; fire; soil; salt; iron; gold; glass; plastic; wood; paper; concrete; DNA; bacteria; viruses; "
    "vaccines; the heart; the brain; the lungs; the liver; the skin; the eyes; blood; bones; muscles; "
    "sleep; dreams; memory; hunger; pain; the immune system; digestion; elephants; whales; dolphins; "
    "sharks; penguins; owls; eagles; bees; ants; butterflies; spiders; snakes; frogs; horses; cows; cats; "
    "wolves; bears; lions; bats; mushrooms; oak trees; cacti; roses; grass"
)
IDEAS = (
    "democracy; money; inflation; taxes; insurance; the stock market; trade; globalization; capitalism; "
    "socialism; human rights; freedom of speech; the rule of law; a constitution; a contract; copyright; a "
    "patent; education; universities; kindergarten; philosophy; ethics; logic; mathematics; algebra; "
    "geometry; statistics; probability; calculus; prime numbers; chess; football; basketball; tennis; "
    "swimming; running; yoga; meditation; friendship; marriage; parenting; loneliness; stress; happiness; "
    "courage; honesty; patience; leadership; teamwork; creativity; curiosity; poetry; novels; theatre; "
    "cinema; opera; jazz; classical music; painting; sculpture; photography; architecture; fashion; "
    "cooking; baking; gardening; recycling; climate change; renewable energy; nuclear power; public "
    "transport; electric cars; artificial intelligence; machine learning; the internet; social media; "
    "privacy; encryption; passwords; databases; operating systems; programming; open source software; video "
    "games; the printing press; the Roman Empire; ancient Egypt; ancient Greece; the Middle Ages; the "
    "Renaissance; the French Revolution; the Industrial Revolution; World War I; World War II; the Cold "
    "War; the space race; vegetarianism; fasting; tourism; migration; agriculture; fishing; mining; "
    "journalism; advertising; charity; religion; mythology; superstition; humor; language; grammar; "
    "translation; handwriting"
)
TASKS = (
    "bake bread; learn a language; write a letter of complaint; write a resume; prepare for a job "
    "interview; save money; lose weight; build muscle; fall asleep faster; wake up early; stop "
    "procrastinating; study for an exam; take good notes; give a speech; make new friends; apologize to a "
    "friend; care for a cat; grow tomatoes; plant a tree; clean a carpet; remove a stain; fix a leaking "
    "tap; paint a room; hang a picture; change a tyre; buy a used car; rent an apartment; move to another "
    "city; plan a wedding; plan a birthday party; pack a suitcase; travel with children; survive in the "
    "wilderness; build a campfire; pitch a tent; read a map; learn to swim; run a marathon; ride a horse; "
    "play the guitar; learn to draw; take better photos; write a poem; write a novel; edit a video; start a "
    "blog; build a website; learn to program; debug a program; back up my computer; choose a password; "
    "protect my privacy online; start a business; write a business plan; hire an employee; manage a team; "
    "run a meeting; negotiate a salary; ask for a raise; quit a job; invest in stocks; pay off debt; make a "
    "budget; cook rice; make soup; make pancakes; bake a cake; make a salad; cook pasta; make pizza dough; "
    "brew tea; keep bees; raise chickens; sharpen a knife; sew a button; knit a scarf; iron a shirt; polish "
    "shoes; wash a wool sweater; treat a burn; treat a cold; lower blood pressure; deal with stress; quit "
    "smoking; eat healthier; meditate; improve my memory; read faster; improve my handwriting; teach a "
    "child to read; talk to a teenager; care for an elderly parent; organize a kitchen; clean out a garage; "
    "save electricity; save water; reduce waste; recycle plastic; compost at home"
)
PEOPLE = (
    "Albert Einstein; Isaac Newton; Marie Curie; Charles Darwin; Leonardo da Vinci; Napoleon; Julius "
    "Caesar; Cleopatra; Abraham Lincoln; George Washington; Gandhi; Nelson Mandela; Martin Luther King; "
    "Shakespeare; Mozart; Beethoven; Bach; Picasso; Van Gogh; Galileo; Copernicus; Columbus; Marco Polo; "
    "Ada Lovelace; Alan Turing; Nikola Tesla; Thomas Edison; Florence Nightingale; Joan of Arc; Socrates; "
    "Plato; Aristotle; Confucius; Buddha"
)
PLACES = (
    "Paris; London; Rome; Berlin; Madrid; Vienna; Istanbul; Cairo; Nairobi; Tokyo; Beijing; Delhi; Sydney; "
    "New York; Mexico City; Rio de Janeiro; Canada; Brazil; Japan; India; Norway; Iceland; Switzerland; "
    "Italy; Greece; Egypt; Kenya; Australia; New Zealand; Peru; the Sahara; the Amazon; the Alps; "
    "Antarctica; the Mediterranean Sea; the Moon"
)
OTHERS = (
    "Write a Python function that reverses a string.; Write a Python function that checks whether a number "
    "is prime.; Write a Python program that counts the words in a file.; Write a JavaScript function that "
    "sorts an array.; Write an SQL query that finds the ten most recent orders.; Explain what this code "
    "does: for i in range(10): print(i * i); What is a linked list?; What is a hash table?; What is "
    "recursion?; Explain object-oriented programming.; What is the difference between a list and a tuple in "
    "Python?; Write a regular expression for email addresses.; Write a bash script that renames files.; "
    "What is HTTP?; How does a compiler work?; Write HTML for a simple web page.; Write a thank-you note to "
    "a teacher.; Write an email asking my boss for a day off.; Write an email to a customer whose order is "
    "late.; Write a product description for a wooden chair.; Write a slogan for a bakery.; Write a dialogue "
    "between a teacher and a student.; Write a fairy tale about a dragon.; Write a story about a robot who "
    "learns to dance.; Write a story about two brothers lost in a forest.; Write a story about an old "
    "sailor.; Write a story about a girl who finds a key.; Write a poem about autumn.; Write a haiku about "
    "winter.; Write a song about going home.; Tell me a joke.; Tell me a riddle.; Suggest names for a cat.; "
    "Suggest five books to read.; Suggest a dinner for two.; Suggest a weekly workout plan.; What should I "
    "cook with eggs and potatoes?; What is 12 times 14?; Solve the equation 2x + 3 = 11.; What is the "
    "square root of 144?; A train travels 60 miles in 1.5 hours. How fast is it?; If I have 20 dollars and "
    "spend 7, how much is left?; Convert 100 degrees Fahrenheit to Celsius.; What is the capital of "
    "France?; How many planets are there?; Who wrote Hamlet?; When did World War II end?; Translate 'good "
    "morning' into Spanish, French and German.; Correct this sentence: He go to school every days.; Rewrite "
    "this more politely: Send me the report now.; Hello!; Hi, how are you?; Who are you?; What can you do?; "
    "Thank you!; Can you help me with my homework?; I feel sad today.; I am bored. What can I do?; Should I "
    "get a pet?; Give me advice for my first day at work.; What is the meaning of life?; Are there aliens?; "
    "What will the future look like?; What should I wear in the rain?; Is it better to live in a city or in "
    "the country?; Make a list of groceries for a week.; Make a table of the planets and their sizes.; "
    "Explain the water cycle.; Explain the greenhouse effect.; Explain how airplanes fly.; Why do leaves "
    "change color in autumn?; Why do we yawn?; Why do cats purr?; Why is the sea salty?; Why do we have "
    "leap years?; How do vaccines work?; How do plants grow?; How do birds migrate?; How do fish breathe?; "
    "How far away is the moon?; How old is the universe?"
)
FORMS = (  # {0}: a subject, {1}: another one
    (
        THINGS,
        "What is {0}?; How does {0} work?; Who invented {0}, and when?; Explain {0} to a child.; Describe "
        "{0} in detail.; What are the parts of {0}?; Write a short poem about {0}.; Why do people need "
        "{0}?; How is {0} made?",
    ),
    (
        NATURE,
        "What is {0}?; Explain {0} in simple words.; Why is {0} important?; Tell me something interesting "
        "about {0}.; List five facts about {0}.; How does {0} come about?; What do scientists know about "
        "{0}?; Write an essay about {0}.; What is the difference between {0} and {1}?; Write a short "
        "story about {0}.",
    ),
    (
        IDEAS,
        "What is {0}?; What are the advantages and disadvantages of {0}?; Give me a short history of "
        "{0}.; Why is {0} important?; Explain {0} in simple terms.; Summarize the main ideas of {0}.; How "
        "has {0} changed over time?; What are some common misconceptions about {0}?; Write an essay about "
        "{0}.; List ten things to know about {0}.; How do {0} and {1} relate?; Give three arguments for "
        "and against {0}.",
    ),
    (
        TASKS,
        "How do I {0}?; What is the best way to {0}?; Give me tips on how to {0}.; Explain step by step "
        "how to {0}.; I want to {0}. What should I know?; What mistakes do people make when they try to "
        "{0}?; How long does it take to {0}?; What do I need to {0}?",
    ),
    (
        PEOPLE,
        "Who was {0}?; What is {0} famous for?; Tell me about the life of {0}.; Write a short biography "
        "of {0}.; What can we learn from {0}?",
    ),
    (
        PLACES,
        "What should I see in {0}?; Tell me about {0}.; Describe the climate of {0}.; Plan a three day "
        "trip to {0}.; What is {0} known for?; Describe an evening in {0}.; Write a story that takes "
        "place in {0}.",
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="A file of a model's answers, for drafts.")
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL", help="%(default)s")
    parser.add_argument("--questions", type=int, default=4000, metavar="N", help="%(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="in the model's folder")
    options = parser.parse_args()
    model = prepare(options.model, Cache(PathsConfig().cache))
    tokenizer = Tokenizer(model.folder, bos=model.bos_token_id, add_bos=model.add_bos)
    prompts = Prompts(model, tokenizer, 2 * LONGEST)
    engine = load_engine(model.folder, max_model_len=2 * LONGEST, max_num_seqs=AT_ONCE, speculates=False)
    params = SamplingParams(LONGEST, temperature=0, stop_token_ids=frozenset(model.eos_token_ids))
    for question in questions(options.questions):
        conversation = Conversation((Message("user", question),))
        prompt = prompts.of_conversation(conversation, Room(LONGEST))
        engine.add(Sequence(list(prompt.tokens), params))
    text: list[int] = []
    with contextlib.suppress(KeyboardInterrupt):  # what there is, is written
        while engine.has_work:
            for output in engine.step():
                if output.finish_reason is not None:
                    text += output.sequence.tokens[output.sequence.num_prompt - BEFORE :]
                    print(f"{len(text)} tokens", end="\r", flush=True)
    path = options.output or model.folder / PHRASES
    write(path, text)
    print(f"{len(text)} tokens, {path.stat().st_size} bytes: {path}")
    return 0


def questions(count: int) -> list[str]:
    """As many different questions, the same ones each time."""
    found = list(dict.fromkeys(_questions(random.Random(1))))
    random.Random(2).shuffle(found)
    return [*OTHERS.split("; "), *found][:count]


def _questions(rng: random.Random) -> Iterator[str]:
    for subjects, forms in FORMS:
        several = subjects.split("; ")
        for subject in several:
            for form in forms.split("; "):
                yield form.format(subject, rng.choice(several))


if __name__ == "__main__":
    sys.exit(main())
