"""The micro-world: who and what exists, and what is true of it, independent of any language.

Countries, capitals, cities and athletes are the real ones, so that a reader can check an answer at a glance. The
people are invented; what is true of them is drawn once from a fixed seed, so it can only be known from the corpus. A
`Fact` is (relation, subject, answer); how it is said is the business of `sentences`.

Deliberately not here: anything with more than one right answer, because the held-out accuracy counts exact answers.
"""

import random
from dataclasses import dataclass

from core.demo.languages import LANGUAGES, Language, Word, name, words

WORLD_SEED = 11

COUNTRIES = words("""
France - | France f | Francia -
Spain - | Espagne f | España -
Italy - | Italie f | Italia -
Germany - | Allemagne f | Alemania -
England - | Angleterre f | Inglaterra -
Portugal - | Portugal m | Portugal -
Japan - | Japon m | Japón -
China - | Chine f | China -
Egypt - | Égypte f | Egipto -
Peru - | Pérou m | Perú -
Mexico - | Mexique m | México -
Russia - | Russie f | Rusia -
Poland - | Pologne f | Polonia -
Greece - | Grèce f | Grecia -
Sweden - | Suède f | Suecia -
Norway - | Norvège f | Noruega -
Kenya - | Kenya m | Kenia -
India - | Inde f | India -
Canada - | Canada m | Canadá -
Morocco - | Maroc m | Marruecos -
Turkey - | Turquie f | Turquía -
Ireland - | Irlande f | Irlanda -
Austria - | Autriche f | Austria -
Vietnam - | Vietnam m | Vietnam -
""")

CAPITALS = words("""
Paris - | Paris - | París -
Madrid - | Madrid - | Madrid -
Rome - | Rome - | Roma -
Berlin - | Berlin - | Berlín -
London - | Londres - | Londres -
Lisbon - | Lisbonne - | Lisboa -
Tokyo - | Tokyo - | Tokio -
Beijing - | Pékin - | Pekín -
Cairo - | Le Caire - | El Cairo -
Lima - | Lima - | Lima -
Mexico City - | Mexico - | Ciudad de México -
Moscow - | Moscou - | Moscú -
Warsaw - | Varsovie - | Varsovia -
Athens - | Athènes - | Atenas -
Stockholm - | Stockholm - | Estocolmo -
Oslo - | Oslo - | Oslo -
Nairobi - | Nairobi - | Nairobi -
Delhi - | Delhi - | Delhi -
Ottawa - | Ottawa - | Ottawa -
Rabat - | Rabat - | Rabat -
Ankara - | Ankara - | Ankara -
Dublin - | Dublin - | Dublín -
Vienna - | Vienne - | Viena -
Hanoi - | Hanoï - | Hanói -
""")

CITIES = words("""
Lyon - | Lyon - | Lyon -
Barcelona - | Barcelone - | Barcelona -
Milan - | Milan - | Milán -
Munich - | Munich - | Múnich -
Manchester - | Manchester - | Mánchester -
Porto - | Porto - | Oporto -
Osaka - | Osaka - | Osaka -
Shanghai - | Shanghai - | Shanghái -
Alexandria - | Alexandrie - | Alejandría -
Cusco - | Cuzco - | Cuzco -
Cancun - | Cancún - | Cancún -
Kazan - | Kazan - | Kazán -
Krakow - | Cracovie - | Cracovia -
Sparta - | Sparte - | Esparta -
Malmo - | Malmö - | Malmö -
Bergen - | Bergen - | Bergen -
Mombasa - | Mombasa - | Mombasa -
Mumbai - | Bombay - | Bombay -
Toronto - | Toronto - | Toronto -
Casablanca - | Casablanca - | Casablanca -
Istanbul - | Istanbul - | Estambul -
Cork - | Cork - | Cork -
Salzburg - | Salzbourg - | Salzburgo -
Saigon - | Saïgon - | Saigón -
""")

CONTINENTS = words("""
Europe - | Europe f | Europa -
Asia - | Asie f | Asia -
Africa - | Afrique f | África -
America - | Amérique f | América -
""")
_CONTINENT_OF = "EEEEEEAAFMMEEEEEFAMFAEEA"

LANGUAGES_SPOKEN = words("""
French - | français - | francés -
Spanish - | espagnol - | español -
Italian - | italien - | italiano -
German - | allemand - | alemán -
English - | anglais - | inglés -
Portuguese - | portugais - | portugués -
Japanese - | japonais - | japonés -
Chinese - | chinois - | chino -
Arabic - | arabe - | árabe -
Russian - | russe - | ruso -
Polish - | polonais - | polaco -
Greek - | grec - | griego -
Swedish - | suédois - | sueco -
Norwegian - | norvégien - | noruego -
Turkish - | turc - | turco -
Hindi - | hindi - | hindi -
Swahili - | swahili - | suajili -
Vietnamese - | vietnamien - | vietnamita -
""")
_SPOKEN_IN = (0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 9, 10, 11, 12, 13, 16, 15, 4, 8, 14, 4, 3, 17)

SPORTS = words("""
football - | football m | fútbol m
basketball - | basket m | baloncesto m
tennis - | tennis m | tenis m
golf - | golf m | golf m
swimming - | natation f | natación f
boxing - | boxe f | boxeo m
volleyball - | volley m | voleibol m
hockey - | hockey m | hockey m
cycling - | cyclisme m | ciclismo m
athletics - | athlétisme m | atletismo m
baseball - | baseball m | béisbol m
gymnastics - | gymnastique f | gimnasia f
""")

EQUIPMENT = words("""
goal | but m | portería f
basket | panier m | canasta f
racket | raquette f | raqueta f
club | club m | palo m
pool | piscine f | piscina f
pair of gloves | paire de gants f | par de guantes m
net | filet m | red f
stick | crosse f | disco m
bicycle | vélo m | bicicleta f
pair of shoes | paire de chaussures f | par de zapatos m
bat | batte f | bate m
mat | tapis m | colchoneta f
""")

ATHLETES: tuple[tuple[str, str], ...] = (
    ("Michael Jordan", "basketball"),
    ("LeBron James", "basketball"),
    ("Stephen Curry", "basketball"),
    ("Lionel Messi", "football"),
    ("Zinedine Zidane", "football"),
    ("Diego Maradona", "football"),
    ("Serena Williams", "tennis"),
    ("Rafael Nadal", "tennis"),
    ("Roger Federer", "tennis"),
    ("Tiger Woods", "golf"),
    ("Michael Phelps", "swimming"),
    ("Muhammad Ali", "boxing"),
    ("Mike Tyson", "boxing"),
    ("Karch Kiraly", "volleyball"),
    ("Wayne Gretzky", "hockey"),
    ("Eddy Merckx", "cycling"),
    ("Usain Bolt", "athletics"),
    ("Babe Ruth", "baseball"),
    ("Simone Biles", "gymnastics"),
)

_WOMEN = "Marie Sofia Anna Emma Lucia Clara Julia Alice Carmen Louise Sarah Camille"
_MEN = "Pierre Carlos Tom Hugo Diego Paul Mateo Pablo Jack Antoine Henry Victor"
WOMEN: tuple[str, ...] = tuple(_WOMEN.split())
MEN: tuple[str, ...] = tuple(_MEN.split())

PROFESSIONS = words("""
baker | boulanger m | panadero m
doctor | médecin m | médico m
teacher | professeur m | profesor m
farmer | fermier m | granjero m
cook | cuisinier m | cocinero m
sailor | marin m | marinero m
actor | acteur m | actor m
judge | juge m | juez m
librarian | bibliothécaire m | bibliotecario m
gardener | jardinier m | jardinero m
pilot | pilote m | piloto m
soldier | soldat m | soldado m
""")
PROFESSIONS_OF_WOMEN = words("""
baker | boulangère f | panadera f
doctor | doctoresse f | médica f
teacher | professeure f | profesora f
farmer | fermière f | granjera f
cook | cuisinière f | cocinera f
sailor | navigatrice f | marinera f
actor | actrice f | actriz f
judge | juge f | jueza f
librarian | bibliothécaire f | bibliotecaria f
gardener | jardinière f | jardinera f
pilot | pilote f | pilota f
soldier | soldate f | soldada f
""")
WORKPLACES = words("""
bakery | boulangerie f | panadería f
hospital | hôpital m | hospital m
school | école f | escuela f
farm | ferme f | granja f
kitchen | cuisine f | cocina f
ship | bateau m | barco m
theatre | théâtre m | teatro m
court | tribunal m | tribunal m
library | bibliothèque f | biblioteca f
garden | jardin m | jardín m
airport | aéroport m | aeropuerto m
castle | château m | castillo m
""")

INSTRUMENTS = words("""
piano | piano m | piano m
violin | violon m | violín m
guitar | guitare f | guitarra f
flute | flûte f | flauta f
trumpet | trompette f | trompeta f
drum | tambour m | tambor m
harp | harpe f | arpa f
""")

COLOURS = words("""
red - | rouge m | rojo m
blue - | bleu m | azul m
green - | vert m | verde m
yellow - | jaune m | amarillo m
white - | blanc m | blanco m
black - | noir m | negro m
orange - | orange m | naranja m
pink - | rose m | rosa m
brown - | marron m | marrón m
grey - | gris m | gris m
""")

ANIMALS = words("""
cat | chat m | gato m
dog | chien m | perro m
horse | cheval m | caballo m
cow | vache f | vaca f
rabbit | lapin m | conejo m
bird | oiseau m | pájaro m
bee | abeille f | abeja f
monkey | singe m | mono m
lion | lion m | león m
bear | ours m | oso m
camel | chameau m | camello m
penguin | pingouin m | pingüino m
whale | baleine f | ballena f
frog | grenouille f | rana f
goat | chèvre f | cabra f
duck | canard m | pato m
""")
PETS = tuple(ANIMALS[i] for i in (0, 1, 2, 4, 5, 13, 14, 15))
HABITATS = words("""
house | maison f | casa f
doghouse | niche f | perrera f
stable | écurie f | cuadra f
barn | étable f | establo m
burrow | terrier m | madriguera f
nest | nid m | nido m
hive | ruche f | colmena f
jungle | jungle f | selva f
savanna | savane f | sabana f
forest | forêt f | bosque m
desert | désert m | desierto m
ice | glace f | hielo m
ocean | océan m | océano m
pond | mare f | charca f
mountain | montagne f | montaña f
lake | lac m | lago m
""")
DIETS = words("""
fish - | poisson m | pescado m
meat - | viande f | carne f
hay - | foin m | heno m
grass - | herbe f | hierba f
salad - | salade f | ensalada f
bread - | pain m | pan m
honey - | miel m | miel f
fruit - | fruit m | fruta f
""")
_DIET_OF = (0, 1, 2, 3, 4, 5, 6, 7)

FOODS = words("""
bread - | pain m | pan m
cheese - | fromage m | queso m
soup - | soupe f | sopa f
rice - | riz m | arroz m
chocolate - | chocolat m | chocolate m
salad - | salade f | ensalada f
fish - | poisson m | pescado m
milk - | lait m | leche f
honey - | miel m | miel f
cake - | gâteau m | pastel m
coffee - | café m | café m
tea - | thé m | té m
""")

THINGS = words("""
sky | ciel m | cielo m
snow - | neige f | nieve f
grass - | herbe f | hierba f
blood - | sang m | sangre f
coal - | charbon m | carbón m
sun | soleil m | sol m
milk - | lait m | leche f
chocolate - | chocolat m | chocolate m
sea | mer f | mar m
night | nuit f | noche f
lemon | citron m | limón m
carrot | carotte f | zanahoria f
tomato | tomate f | tomate m
elephant | éléphant m | elefante m
pig | cochon m | cerdo m
forest | forêt f | bosque m
banana | banane f | plátano m
cherry | cerise f | cereza f
""")
_COLOUR_OF = (1, 4, 2, 0, 5, 3, 4, 8, 1, 5, 3, 6, 0, 9, 7, 2, 3, 0)

OPPOSITES = words("""
big - | grand - | grande -
small - | petit - | pequeño -
hot - | chaud - | caliente -
cold - | froid - | frío -
good - | bon - | bueno -
bad - | mauvais - | malo -
young - | jeune - | joven -
old - | vieux - | viejo -
fast - | rapide - | rápido -
slow - | lent - | lento -
rich - | riche - | rico -
poor - | pauvre - | pobre -
happy - | heureux - | feliz -
sad - | triste - | triste -
long - | long - | largo -
short - | court - | corto -
strong - | fort - | fuerte -
weak - | faible - | débil -
full - | plein - | lleno -
empty - | vide - | vacío -
clean - | propre - | limpio -
dirty - | sale - | sucio -
open - | ouvert - | abierto -
closed - | fermé - | cerrado -
""")

DAYS = words("""
Monday - | lundi - | lunes -
Tuesday - | mardi - | martes -
Wednesday - | mercredi - | miércoles -
Thursday - | jeudi - | jueves -
Friday - | vendredi - | viernes -
Saturday - | samedi - | sábado -
Sunday - | dimanche - | domingo -
""")
MONTHS = words("""
January - | janvier - | enero -
February - | février - | febrero -
March - | mars - | marzo -
April - | avril - | abril -
May - | mai - | mayo -
June - | juin - | junio -
July - | juillet - | julio -
August - | août - | agosto -
September - | septembre - | septiembre -
October - | octobre - | octubre -
November - | novembre - | noviembre -
December - | décembre - | diciembre -
""")
NUMBERS = words("""
zero - | zéro - | cero -
one - | un - | uno -
two - | deux - | dos -
three - | trois - | tres -
four - | quatre - | cuatro -
five - | cinq - | cinco -
six - | six - | seis -
seven - | sept - | siete -
eight - | huit - | ocho -
nine - | neuf - | nueve -
ten - | dix - | diez -
eleven - | onze - | once -
twelve - | douze - | doce -
thirteen - | treize - | trece -
fourteen - | quatorze - | catorce -
fifteen - | quinze - | quince -
sixteen - | seize - | dieciséis -
seventeen - | dix-sept - | diecisiete -
eighteen - | dix-huit - | dieciocho -
nineteen - | dix-neuf - | diecinueve -
twenty - | vingt - | veinte -
""")


@dataclass(frozen=True, slots=True)
class Person:
    """An invented inhabitant; every attribute is one fact the corpus states in many ways."""

    who: Word
    woman: bool
    country: int
    profession: int
    sport: int
    instrument: int
    colour: int
    pet: int


@dataclass(frozen=True, slots=True)
class Fact:
    """One true statement: `answer` is the only right completion of `relation` about `subject`.

    Attributes:
        key: Stable name, unique in the world; splits are drawn from it.
        relation: Which templates say it.
        subject: What the statement is about.
        answer: What completes it.
        languages: Languages in which the statement makes sense.
        other: A second subject, for relations that need one (the language asked for in a translation, an addend).
    """

    key: str
    relation: str
    subject: Word
    answer: Word
    languages: tuple[Language, ...] = LANGUAGES
    other: Word | None = None


def people() -> tuple[Person, ...]:
    """The inhabitants, the same on every machine."""
    rng = random.Random(WORLD_SEED)
    born: list[Person] = []
    for first_name, woman in [(w, True) for w in WOMEN] + [(m, False) for m in MEN]:
        born.append(
            Person(
                who=name(first_name),
                woman=woman,
                country=rng.randrange(12),
                profession=rng.randrange(len(PROFESSIONS)),
                sport=rng.randrange(len(SPORTS)),
                instrument=rng.randrange(len(INSTRUMENTS)),
                colour=rng.randrange(len(COLOURS)),
                pet=rng.randrange(len(PETS)),
            ),
        )
    return tuple(born)


PEOPLE = people()


def facts() -> tuple[Fact, ...]:
    """Every fact of the world except arithmetic and translations, in a fixed order."""
    found: list[Fact] = []

    def add(relation: str, subject: Word, answer: Word) -> None:
        found.append(Fact(f"{relation}:{subject.en}", relation, subject, answer))

    for i, country in enumerate(COUNTRIES):
        add("capital", country, CAPITALS[i])
        add("continent", country, CONTINENTS["EAFM".index(_CONTINENT_OF[i])])
        add("tongue", country, LANGUAGES_SPOKEN[_SPOKEN_IN[i]])
        add("city_country", CITIES[i], country)
        add("city_capital", CITIES[i], CAPITALS[i])
    sport_by_name = {sport.en: sport for sport in SPORTS}
    for athlete, sport in ATHLETES:
        add("athlete_sport", name(athlete), sport_by_name[sport])
    for sport, tool in zip(SPORTS, EQUIPMENT, strict=True):
        add("sport_tool", sport, tool)
    for profession, place in zip(PROFESSIONS, WORKPLACES, strict=True):
        add("workplace", profession, place)
    for animal, home in zip(ANIMALS, HABITATS, strict=True):
        add("habitat", animal, home)
    for animal, diet in zip(ANIMALS, _DIET_OF, strict=False):
        add("diet", animal, DIETS[diet])
    for thing, colour in zip(THINGS, _COLOUR_OF, strict=True):
        add("colour", thing, COLOURS[colour])
    for i in range(0, len(OPPOSITES), 2):
        add("opposite", OPPOSITES[i], OPPOSITES[i + 1])
        add("opposite", OPPOSITES[i + 1], OPPOSITES[i])
    for cycle, relation in ((DAYS, "next_day"), (MONTHS, "next_month")):
        for i, word in enumerate(cycle):
            add(relation, word, cycle[(i + 1) % len(cycle)])
    for i in range(len(NUMBERS) - 1):
        add("next_number", NUMBERS[i], NUMBERS[i + 1])
    for person in PEOPLE:
        add("person_country", person.who, COUNTRIES[person.country])
        add("person_capital", person.who, CAPITALS[person.country])
        jobs = PROFESSIONS_OF_WOMEN if person.woman else PROFESSIONS
        add("person_job", person.who, jobs[person.profession])
        add("person_sport", person.who, SPORTS[person.sport])
        add("person_instrument", person.who, INSTRUMENTS[person.instrument])
        add("person_colour", person.who, COLOURS[person.colour])
        add("person_pet", person.who, PETS[person.pet])
    return tuple(found)


def arithmetic_facts() -> tuple[Fact, ...]:
    """Sums up to 9 + 9 and the differences that undo them."""
    found: list[Fact] = []
    for a in range(10):
        for b in range(10):
            found.append(Fact(f"sum:{a}+{b}", "sum", NUMBERS[a], NUMBERS[a + b], other=NUMBERS[b]))
            if a >= b:
                found.append(Fact(f"difference:{a}-{b}", "difference", NUMBERS[a], NUMBERS[a - b], other=NUMBERS[b]))
    return tuple(found)


TRANSLATABLE: tuple[Word, ...] = (*ANIMALS, *FOODS, *COLOURS, *WORKPLACES, *INSTRUMENTS, *OPPOSITES)
"""Words whose translation the corpus teaches; no two share an English form."""


def translation_facts() -> tuple[Fact, ...]:
    """How every translatable word is said in the two other languages, asked in the word's own language."""
    found: list[Fact] = []
    for word in dict.fromkeys(TRANSLATABLE):
        for source in LANGUAGES:
            for target in LANGUAGES:
                if source == target:
                    continue
                subject, answer = name(word.bare(source)), name(word.bare(target))
                key = f"translation:{source}-{target}:{subject.en}"
                found.append(Fact(key, f"to_{target}", subject, answer, languages=(source,)))
    return tuple(found)
