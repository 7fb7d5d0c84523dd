"""Small stories and reviews, sentence by sentence in three languages.

A story is a chain of scenes; every scene is a few interchangeable sentences, and every sentence exists in all three
languages, so the same story can be told in each and one sentence is the translation of another. A review is a thing,
a judgement and the feeling that goes with it. Nothing here is a fact that is measured: this is what gives the model
fluent sentences, languages that persist through a text, and feelings.
"""

import random
from dataclasses import dataclass

from core.demo.languages import Language, Word, words
from core.demo.world import ANIMALS, FOODS, MEN, PEOPLE, WORKPLACES, Person

Triple = tuple[str, str, str]
_COLUMN: dict[Language, int] = {"en": 0, "fr": 1, "es": 2}

FURNITURE = words("""
bed | lit m | cama f
table | table f | mesa f
chair | chaise f | silla f
sofa | canapé m | sofá m
carpet | tapis m | alfombra f
roof | toit m | tejado m
wall | mur m | muro m
box | boîte f | caja f
""")
PLACES = words("""
park | parc m | parque m
beach | plage f | playa f
village | village m | pueblo m
market | marché m | mercado m
river | rivière f | río m
street | rue f | calle f
square | place f | plaza f
bridge | pont m | puente m
""")
PRESENTS = words("""
book | livre m | libro m
letter | lettre f | carta f
hat | chapeau m | sombrero m
flower | fleur f | flor f
watch | montre f | reloj m
map | carte f | mapa m
lamp | lampe f | lámpara f
ring | bague f | anillo m
""")

SCENES: tuple[tuple[Triple, ...], ...] = (
    (
        (
            "{p.n} wakes up early in the morning.",
            "{p.n} se réveille tôt le matin.",
            "{p.n} se despierta temprano por la mañana.",
        ),
        ("It is {day}, and the sun is shining.", "C'est {day}, et le soleil brille.", "Es {day} y brilla el sol."),
        ("It is raining in the village.", "Il pleut sur le village.", "Llueve en el pueblo."),
        (
            "It is cold and the wind is strong.",
            "Il fait froid et le vent est fort.",
            "Hace frío y el viento es fuerte.",
        ),
        (
            "Once upon a time there was somebody whose name was {p.n}.",
            "Il était une fois quelqu'un qui s'appelait {p.n}.",
            "Érase una vez alguien que se llamaba {p.n}.",
        ),
        ("Today {p.n} is at home.", "Aujourd'hui, {p.n} est à la maison.", "Hoy {p.n} está en casa."),
        ("The sky is clear this evening.", "Le ciel est clair ce soir.", "El cielo está claro esta noche."),
        ("My name is {p.n}.", "Je m'appelle {p.n}.", "Me llamo {p.n}."),
    ),
    (
        ("{x.The} sleeps on {y.the}.", "{x.The} dort sur {y.the}.", "{x.The} duerme sobre {y.the}."),
        (
            "{x.The} hides under {y.the}.",
            "{x.The} se cache sous {y.the}.",
            "{x.The} se esconde debajo de {y.the}.",
        ),
        (
            "{x.The} jumps over {y.the} and runs into the garden.",
            "{x.The} saute par-dessus {y.the} et court dans le jardin.",
            "{x.The} salta por encima de {y.the} y corre por el jardín.",
        ),
        ("{x.The} looks at {z.the}.", "{x.The} regarde {z.the}.", "{x.The} mira {z.the}."),
        ("{x.The} drinks a little water.", "{x.The} boit un peu d'eau.", "{x.The} bebe un poco de agua."),
        (
            "On {y.the} there is {g.a}.",
            "Sur {y.the}, il y a {g.a}.",
            "Sobre {y.the} hay {g.a}.",
        ),
    ),
    (
        (
            "{p.He} drinks a cup of coffee and looks out of the window.",
            "{p.He} boit une tasse de café et regarde par la fenêtre.",
            "{p.He} bebe una taza de café y mira por la ventana.",
        ),
        ("{p.He} eats {f.some} with {h.some}.", "{p.He} mange {f.some} avec {h.some}.", "{p.He} come {f.n} con {h.n}."),
        (
            "{p.n} opens the door and walks to {l.the}.",
            "{p.n} ouvre la porte et marche vers {l.the}.",
            "{p.n} abre la puerta y camina hacia {l.the}.",
        ),
        (
            "{p.n} buys {f.some} and {h.some} at the market.",
            "{p.n} achète {f.some} et {h.some} au marché.",
            "{p.n} compra {f.n} y {h.n} en el mercado.",
        ),
        (
            "{p.He} takes {g.a} and goes out.",
            "{p.He} prend {g.a} et sort.",
            "{p.He} toma {g.a} y sale.",
        ),
        (
            "I would like {f.some}, please.",
            "Je voudrais {f.some}, s'il vous plaît.",
            "Quisiera {f.n}, por favor.",
        ),
    ),
    (
        (
            "Near {l.the} {p.n} meets {q.n}.",
            "Près {l.of}, {p.n} rencontre {q.n}.",
            "Cerca {l.of}, {p.n} encuentra a {q.n}.",
        ),
        (
            "{q.n} is a good friend and always smiles.",
            "{q.n} est une bonne personne et sourit toujours.",
            "{q.n} es una buena persona y siempre sonríe.",
        ),
        (
            '"Good morning, how are you?" says {q.n}.',
            "« Bonjour, comment vas-tu ? » dit {q.n}.",
            "—Buenos días, ¿cómo estás? —dice {q.n}.",
        ),
        (
            '"Very well, thank you!" says {p.n}.',
            "« Très bien, merci ! » dit {p.n}.",
            "—¡Muy bien, gracias! —dice {p.n}.",
        ),
        (
            "{q.n} gives {p.n} {g.a}.",
            "{q.n} donne {g.a} à {p.n}.",
            "{q.n} le da {g.a} a {p.n}.",
        ),
        (
            "They talk for a long time about {l.the}.",
            "Ils parlent longtemps {l.of}.",
            "Hablan mucho tiempo {l.of}.",
        ),
        (
            "Suddenly they see {x.a} behind {y.the}.",
            "Soudain, ils voient {x.a} derrière {y.the}.",
            "De repente ven {x.a} detrás de {y.the}.",
        ),
    ),
    (
        (
            "They play together until the evening.",
            "Ils jouent ensemble jusqu'au soir.",
            "Juegan juntos hasta la noche.",
        ),
        (
            "{x.The} and {z.the} are friends.",
            "{x.The} et {z.the} sont amis.",
            "{x.The} y {z.the} son amigos.",
        ),
        (
            "Then they go to {l.the} and look for {g.the}.",
            "Puis ils vont vers {l.the} et cherchent {g.the}.",
            "Luego van hacia {l.the} y buscan {g.the}.",
        ),
        (
            "{p.n} has lost {g.the} and cannot find it.",
            "{p.n} a perdu {g.the} et cherche partout.",
            "{p.n} ha perdido {g.the} y busca por todas partes.",
        ),
        (
            "The children sing a song and everybody laughs.",
            "Les enfants chantent une chanson et tout le monde rit.",
            "Los niños cantan una canción y todo el mundo ríe.",
        ),
        (
            "After lunch {p.n} reads a book in {w.the}.",
            "Après le déjeuner, {p.n} lit un livre dans {w.the}.",
            "Después de comer, {p.n} lee un libro {w.at}.",
        ),
        (
            "{q.n} works in {w.the} and comes back late.",
            "{q.n} travaille dans {w.the} et rentre tard.",
            "{q.n} trabaja {w.at} y vuelve tarde.",
        ),
    ),
    (
        (
            "In the evening {p.n} goes home and sleeps well.",
            "Le soir, {p.n} rentre à la maison et dort bien.",
            "Por la noche, {p.n} vuelve a casa y duerme bien.",
        ),
        ("It was a beautiful day.", "C'était une belle journée.", "Fue un día hermoso."),
        (
            "The stars shine and the night is quiet.",
            "Les étoiles brillent et la nuit est calme.",
            "Las estrellas brillan y la noche es tranquila.",
        ),
        ("The whole family is happy.", "Toute la famille est heureuse.", "Toda la familia está feliz."),
        (
            "Tomorrow they will meet again near {l.the}.",
            "Demain, ils se retrouveront près {l.of}.",
            "Mañana se encontrarán otra vez cerca {l.of}.",
        ),
        (
            "Good night, {p.n}, and see you tomorrow!",
            "Bonne nuit, {p.n}, et à demain !",
            "¡Buenas noches, {p.n}, y hasta mañana!",
        ),
    ),
)

REVIEWED = words("""
film | film m | película f
book | livre m | libro m
concert | concert m | concierto m
restaurant | restaurant m | restaurante m
hotel | hôtel m | hotel m
soup | soupe f | sopa f
party | fête f | fiesta f
song | chanson f | canción f
game | match m | partido m
journey | voyage m | viaje m
""")
GOOD: tuple[tuple[str, str, str, str, str], ...] = (
    ("wonderful", "merveilleux", "merveilleuse", "maravilloso", "maravillosa"),
    ("excellent", "excellent", "excellente", "excelente", "excelente"),
    ("superb", "superbe", "superbe", "magnífico", "magnífica"),
    ("perfect", "parfait", "parfaite", "perfecto", "perfecta"),
    ("fantastic", "fantastique", "fantastique", "fantástico", "fantástica"),
)
BAD: tuple[tuple[str, str, str, str, str], ...] = (
    ("terrible", "terrible", "terrible", "terrible", "terrible"),
    ("awful", "affreux", "affreuse", "horrible", "horrible"),
    ("boring", "ennuyeux", "ennuyeuse", "aburrido", "aburrida"),
    ("mediocre", "médiocre", "médiocre", "mediocre", "mediocre"),
    ("disappointing", "décevant", "décevante", "decepcionante", "decepcionante"),
)
"""English, French masculine and feminine, Spanish masculine and feminine."""

VERDICTS: tuple[Triple, ...] = (
    ("{t.The} was {adj}.", "{t.The} était {adj}.", "{t.The} fue {adj}."),
    ("I found {t.the} {adj}.", "J'ai trouvé {t.the} {adj}.", "{t.The} me pareció {adj}."),
    (
        "Yesterday {t.the} in the village was really {adj}.",
        "Hier, {t.the} au village était vraiment {adj}.",
        "Ayer, {t.the} en el pueblo fue realmente {adj}.",
    ),
    (
        "{p.n} says that {t.the} was {adj}.",
        "{p.n} dit que {t.the} était {adj}.",
        "{p.n} dice que {t.the} fue {adj}.",
    ),
)
GLAD: tuple[Triple, ...] = (
    ("I felt happy.", "J'étais content.", "Me sentí feliz."),
    ("Everybody was smiling.", "Tout le monde souriait.", "Todo el mundo sonreía."),
    ("I will come back with my friends.", "Je reviendrai avec mes amis.", "Volveré con mis amigos."),
    ("I love it and I recommend it.", "Je l'adore et je le recommande.", "Me encanta y lo recomiendo."),
    ("It made me laugh with joy.", "Cela m'a fait rire de joie.", "Me hizo reír de alegría."),
    ("What a joy!", "Quelle joie !", "¡Qué alegría!"),
)
SORRY: tuple[Triple, ...] = (
    ("I felt sad.", "J'étais triste.", "Me sentí triste."),
    ("Everybody was crying.", "Tout le monde pleurait.", "Todo el mundo lloraba."),
    ("I will never come back.", "Je ne reviendrai jamais.", "No volveré nunca."),
    (
        "I hate it and I do not recommend it.",
        "Je le déteste et je ne le recommande pas.",
        "Lo odio y no lo recomiendo.",
    ),
    ("It made me cry with anger.", "Cela m'a fait pleurer de colère.", "Me hizo llorar de rabia."),
    ("What a shame!", "Quelle honte !", "¡Qué vergüenza!"),
)

WEEKDAYS: tuple[Triple, ...] = (
    ("Monday", "lundi", "lunes"),
    ("Wednesday", "mercredi", "miércoles"),
    ("Friday", "vendredi", "viernes"),
    ("Saturday", "samedi", "sábado"),
    ("Sunday", "dimanche", "domingo"),
)
_PRONOUNS: dict[bool, Triple] = {True: ("She", "Elle", "Ella"), False: ("He", "Il", "Él")}


@dataclass(frozen=True, slots=True)
class Character:
    """A person as story templates see one: a name and a pronoun."""

    n: str
    He: str


Cast = dict[str, Person | Word | Triple]


def cast(rng: random.Random) -> Cast:
    """Who and what one story is about, drawn once and the same in every language."""
    p, q = rng.sample(PEOPLE, 2)
    x, z = rng.sample(ANIMALS, 2)
    f, h = rng.sample(FOODS, 2)
    return {
        "p": p,
        "q": q,
        "x": x,
        "z": z,
        "f": f,
        "h": h,
        "y": rng.choice(FURNITURE),
        "l": rng.choice(PLACES),
        "g": rng.choice(PRESENTS),
        "w": rng.choice(WORKPLACES),
        "day": rng.choice(WEEKDAYS),
    }


def tell(sentence: Triple, who: Cast, language: Language) -> str:
    """One sentence of a story in one language."""
    column = _COLUMN[language]
    fields: dict[str, object] = {}
    for slot, thing in who.items():
        if isinstance(thing, Person):
            fields[slot] = Character(thing.who.bare(language), _PRONOUNS[thing.woman][column])
        elif isinstance(thing, Word):
            fields[slot] = thing.forms(language)
        else:
            fields[slot] = thing[column]
    return sentence[column].format(**fields)


def plot(rng: random.Random) -> list[Triple]:
    """The sentences of a story, in order and without a language yet."""
    sentences: list[Triple] = []
    for scene in SCENES:
        sentences.extend(rng.sample(scene, rng.choice((0, 1, 1, 2))))
    return sentences or [rng.choice(SCENES[1])]


def story(rng: random.Random, language: Language) -> str:
    """A short story in one language."""
    who = cast(rng)
    return " ".join(tell(sentence, who, language) for sentence in plot(rng))


def review(rng: random.Random, language: Language) -> str:
    """A judgement and the feelings that follow from it, all good or all bad."""
    good = rng.random() < 0.5
    thing, words_for_it = rng.choice(REVIEWED), rng.choice(GOOD if good else BAD)
    column = _COLUMN[language]
    gender = thing.marks[column]
    adjective = words_for_it[0 if column == 0 else 2 * column - 1 + (gender == "f")]
    fields = {
        "t": thing.forms(language),
        "adj": adjective,
        "p": Character(rng.choice(MEN), ""),
    }
    verdict = rng.choice(VERDICTS)[column].format(**fields)
    feelings = rng.sample(GLAD if good else SORRY, rng.choice((1, 2, 3)))
    return " ".join([verdict, *(feeling[column] for feeling in feelings)])
