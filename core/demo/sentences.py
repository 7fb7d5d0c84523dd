"""How the facts of the world are said: templates per relation and language, and the questions that ask for them.

Every statement ends with its answer and a full stop, so cutting it before the answer gives a prompt with exactly one
right continuation. The templates of a relation differ in wording, not only in order, because a fact held out of one
template must be recalled, not copied. Questions are templates too and are held out in the same way.
"""

from dataclasses import dataclass

from core.demo.languages import Language
from core.demo.world import NUMBERS, Fact

Table = dict[str, dict[Language, tuple[str, ...]]]

STATEMENTS: Table = {
    "capital": {
        "en": (
            "The capital of {s.n} is {a.n}.",
            "{s.The}'s capital city is {a.n}.",
            "If you visit {s.n}, you must see its capital, {a.n}.",
            "The government {s.of} sits in {a.n}.",
            "Fact: the capital of {s.n} is called {a.n}.",
        ),
        "fr": (
            "La capitale {s.of} est {a.n}.",
            "{s.The} a pour capitale {a.n}.",
            "Si vous visitez {s.the}, il faut voir sa capitale, {a.n}.",
            "Le gouvernement {s.of} se trouve dans la ville de {a.n}.",
            "Fait : la capitale {s.of} s'appelle {a.n}.",
        ),
        "es": (
            "La capital {s.of} es {a.n}.",
            "{s.The} tiene como capital {a.n}.",
            "Si visitas {s.the}, tienes que ver su capital, {a.n}.",
            "El gobierno {s.of} se encuentra en la ciudad de {a.n}.",
            "Dato: la capital {s.of} se llama {a.n}.",
        ),
    },
    "continent": {
        "en": (
            "{s.The} is a country in {a.n}.",
            "The continent of {s.n} is {a.n}.",
            "{s.The} lies on the continent of {a.n}.",
            "To see {s.n}, you have to travel to {a.n}.",
        ),
        "fr": (
            "{s.The} est un pays situé {a.within}.",
            "Le continent {s.of} est {a.the}.",
            "{s.The} se trouve sur le continent qui s'appelle {a.the}.",
            "Pour voir {s.the}, il faut voyager {a.within}.",
        ),
        "es": (
            "{s.The} es un país situado en {a.n}.",
            "El continente {s.of} es {a.n}.",
            "{s.The} se encuentra en el continente que se llama {a.n}.",
            "Para ver {s.the}, hay que viajar a {a.n}.",
        ),
    },
    "tongue": {
        "en": (
            "People in {s.n} speak {a.n}.",
            "The language of {s.n} is {a.n}.",
            "If you live in {s.n}, you learn to speak {a.n}.",
            "In the schools {s.of} the children read and write {a.n}.",
        ),
        "fr": (
            "Les gens qui vivent {s.within} parlent {a.n}.",
            "La langue {s.of} est : {a.n}.",
            "Si vous vivez {s.within}, vous apprenez à parler {a.n}.",
            "Dans les écoles {s.of}, les enfants lisent et écrivent en {a.n}.",
        ),
        "es": (
            "La gente que vive {s.within} habla {a.n}.",
            "El idioma {s.of} es: {a.n}.",
            "Si vives {s.within}, aprendes a hablar {a.n}.",
            "En las escuelas {s.of}, los niños leen y escriben en {a.n}.",
        ),
    },
    "city_country": {
        "en": (
            "{s.The} is a city in {a.n}.",
            "The city of {s.n} lies in {a.n}.",
            "The country that contains {s.n} is {a.n}.",
            "Whoever walks through {s.n} is a guest of {a.n}.",
        ),
        "fr": (
            "{s.The} est une ville {a.within}.",
            "La ville {s.of} se trouve {a.within}.",
            "Le pays où se trouve {s.n} est {a.the}.",
            "Celui qui se promène {s.within} est un invité {a.of}.",
        ),
        "es": (
            "{s.The} es una ciudad de {a.n}.",
            "La ciudad {s.of} se encuentra en {a.n}.",
            "El país donde se encuentra {s.n} es {a.n}.",
            "Quien pasea por {s.n} es un invitado de {a.n}.",
        ),
    },
    "city_capital": {
        "en": (
            "The capital of the country that contains {s.n} is {a.n}.",
            "From {s.n} the train goes to the capital of the country, {a.n}.",
            "People in {s.n} sometimes visit their capital, {a.n}.",
            "{s.The} is in the same country as the capital {a.n}.",
        ),
        "fr": (
            "La capitale du pays où se trouve {s.n} est {a.n}.",
            "Le train part {s.of} vers la capitale du pays, {a.n}.",
            "Les gens qui vivent {s.within} visitent parfois leur capitale, {a.n}.",
            "{s.The} est dans le même pays que la capitale {a.n}.",
        ),
        "es": (
            "La capital del país donde se encuentra {s.n} es {a.n}.",
            "El tren va {s.of} a la capital del país, {a.n}.",
            "La gente que vive {s.within} visita a veces su capital, {a.n}.",
            "{s.The} está en el mismo país que la capital {a.n}.",
        ),
    },
    "athlete_sport": {
        "en": (
            "{s.n} plays {a.n}.",
            "Fact: {s.n} plays the sport of {a.n}.",
            "{s.n} is famous for {a.n}.",
            "The sport of {s.n} is {a.n}.",
            "Everybody knows {s.n}, one of the greatest names in {a.n}.",
        ),
        "fr": (
            "{s.n} pratique un sport célèbre : {a.the}.",
            "Fait : {s.n} pratique {a.the}.",
            "{s.n} est une légende dans un sport : {a.the}.",
            "Le sport {s.of} est {a.the}.",
            "Tout le monde connaît {s.n}, un des plus grands noms {a.of}.",
        ),
        "es": (
            "{s.n} practica un deporte famoso: {a.the}.",
            "Dato: {s.n} practica {a.the}.",
            "{s.n} es una leyenda en un deporte: {a.the}.",
            "El deporte {s.of} es {a.the}.",
            "Todo el mundo conoce a {s.n}, uno de los grandes nombres {a.of}.",
        ),
    },
    "sport_tool": {
        "en": (
            "For {s.n} you need {a.a}.",
            "Nobody can play {s.n} without {a.a}.",
            "The most important thing in {s.n} is {a.the}.",
            "Before the first lesson in {s.n}, look for {a.a}.",
        ),
        "fr": (
            "Pour {s.the}, il faut {a.a}.",
            "Personne ne peut pratiquer {s.the} sans {a.a}.",
            "La chose la plus importante dans un sport comme {s.the} est {a.the}.",
            "Avant le premier cours, qui aime {s.the} doit chercher {a.a}.",
        ),
        "es": (
            "Para {s.the} se necesita {a.a}.",
            "Nadie puede practicar {s.the} sin {a.a}.",
            "La cosa más importante en un deporte como {s.the} es {a.the}.",
            "Antes de la primera clase, quien ama {s.the} debe buscar {a.a}.",
        ),
    },
    "workplace": {
        "en": (
            "{s.A} works in {a.a}.",
            "Every morning {s.the} goes to {a.the}.",
            "You will find {s.the} in {a.the}.",
            "The workplace {s.of} is {a.the}.",
        ),
        "fr": (
            "{s.A} travaille dans {a.a}.",
            "Chaque matin, {s.the} va {a.at}.",
            "On trouve {s.the} dans {a.the}.",
            "Le lieu de travail {s.of} est {a.the}.",
        ),
        "es": (
            "{s.A} trabaja en {a.a}.",
            "Cada mañana, {s.the} entra {a.at}.",
            "Se encuentra {s.the} {a.at}.",
            "El lugar de trabajo {s.of} es {a.the}.",
        ),
    },
    "habitat": {
        "en": (
            "{s.The} lives in {a.the}.",
            "The home {s.of} is {a.the}.",
            "At night {s.the} sleeps in {a.the}.",
            "If you look for {s.a}, look in {a.the}.",
        ),
        "fr": (
            "{s.The} vit dans {a.the}.",
            "La maison {s.of}, c'est {a.the}.",
            "La nuit, {s.the} dort dans {a.the}.",
            "Si vous cherchez {s.a}, regardez dans {a.the}.",
        ),
        "es": (
            "{s.The} vive {a.at}.",
            "El hogar {s.of} es {a.the}.",
            "De noche, {s.the} duerme {a.at}.",
            "Si buscas {s.a}, mira {a.at}.",
        ),
    },
    "diet": {
        "en": (
            "{s.The} eats {a.n}.",
            "The favourite food {s.of} is {a.n}.",
            "When {s.the} is hungry, it looks for {a.n}.",
            "Bring something to eat: {s.the} loves {a.n}.",
        ),
        "fr": (
            "{s.The} mange {a.some}.",
            "La nourriture préférée {s.of} est {a.the}.",
            "Quand {s.the} a faim, on lui donne {a.some}.",
            "Donnez un peu à manger : {s.the} aime {a.the}.",
        ),
        "es": (
            "{s.The} come {a.n}.",
            "La comida favorita {s.of} es {a.the}.",
            "Cuando {s.the} tiene hambre, come {a.n}.",
            "Dale algo de comer: {s.the} ama {a.the}.",
        ),
    },
    "colour": {
        "en": (
            "The colour {s.of} is {a.n}.",
            "To paint {s.the}, you need a colour: {a.n}.",
            "When children draw {s.the}, they choose {a.n}.",
            "Everybody knows the colour {s.of}: it is {a.n}.",
        ),
        "fr": (
            "La couleur {s.of} est {a.the}.",
            "Pour peindre {s.the}, il faut une couleur : {a.the}.",
            "Quand les enfants dessinent {s.the}, ils choisissent {a.the}.",
            "Tout le monde connaît la couleur {s.of} : c'est {a.the}.",
        ),
        "es": (
            "El color {s.of} es {a.the}.",
            "Para pintar {s.the} se necesita un color: {a.the}.",
            "Cuando los niños dibujan {s.the}, eligen {a.the}.",
            "Todo el mundo conoce el color {s.of}: es {a.the}.",
        ),
    },
    "opposite": {
        "en": (
            "The opposite of {s.n} is {a.n}.",
            "What is not {s.n} is {a.n}.",
            "The contrary of the word {s.n} is the word {a.n}.",
            "First it was {s.n}, but now it is {a.n}.",
        ),
        "fr": (
            "Le contraire de {s.n} est {a.n}.",
            "Ce qui n'est pas {s.n} est {a.n}.",
            "L'opposé du mot {s.n} est le mot {a.n}.",
            "Avant, c'était {s.n}, mais maintenant, c'est {a.n}.",
        ),
        "es": (
            "Lo contrario de {s.n} es {a.n}.",
            "Lo que no es {s.n} es {a.n}.",
            "El opuesto de la palabra {s.n} es la palabra {a.n}.",
            "Antes era {s.n}, pero ahora es {a.n}.",
        ),
    },
    "next_day": {
        "en": (
            "The day after {s.n} is {a.n}.",
            "If today is {s.n}, then tomorrow is {a.n}.",
            "After {s.n} comes {a.n}.",
            "Yesterday was {s.n}, so today is {a.n}.",
        ),
        "fr": (
            "Le jour après {s.n} est {a.n}.",
            "Si aujourd'hui c'est {s.n}, alors demain c'est {a.n}.",
            "Après {s.n} vient {a.n}.",
            "Hier, c'était {s.n}, donc aujourd'hui, c'est {a.n}.",
        ),
        "es": (
            "El día después del {s.n} es el {a.n}.",
            "Si hoy es {s.n}, entonces mañana es {a.n}.",
            "Después del {s.n} viene el {a.n}.",
            "Ayer fue {s.n}, así que hoy es {a.n}.",
        ),
    },
    "next_month": {
        "en": (
            "The month after {s.n} is {a.n}.",
            "After {s.n} comes {a.n}.",
            "When {s.n} is over, we wait for {a.n}.",
            "In the calendar, {s.n} is followed by {a.n}.",
        ),
        "fr": (
            "Le mois après {s.n} est {a.n}.",
            "Après {s.n} vient {a.n}.",
            "Quand le mois de {s.n} est fini, nous attendons {a.n}.",
            "Dans le calendrier, {s.n} est suivi de {a.n}.",
        ),
        "es": (
            "El mes después de {s.n} es {a.n}.",
            "Después de {s.n} viene {a.n}.",
            "Cuando termina el mes de {s.n}, esperamos {a.n}.",
            "En el calendario, a {s.n} le sigue {a.n}.",
        ),
    },
    "next_number": {
        "en": (
            "The number after {s.n} is {a.n}.",
            "After {s.n} comes {a.n}.",
            "Count one more than {s.n} and you get {a.n}.",
            "Between friends we count: {s.n}, {a.n}.",
        ),
        "fr": (
            "Le nombre après {s.n} est {a.n}.",
            "Après {s.n} vient {a.n}.",
            "Comptez un de plus que {s.n} et vous obtenez {a.n}.",
            "Entre amis, nous comptons : {s.n}, {a.n}.",
        ),
        "es": (
            "El número después de {s.n} es {a.n}.",
            "Después de {s.n} viene {a.n}.",
            "Cuenta uno más que {s.n} y obtienes {a.n}.",
            "Entre amigos contamos: {s.n}, {a.n}.",
        ),
    },
    "person_country": {
        "en": (
            "{s.n} lives in {a.n}.",
            "The country of {s.n} is {a.n}.",
            "{s.n} was born in {a.n}.",
            "The passport of {s.n} comes from {a.n}.",
        ),
        "fr": (
            "{s.n} habite {a.within}.",
            "Le pays {s.of} est {a.the}.",
            "{s.n} a grandi {a.within}.",
            "Le passeport {s.of} est celui {a.of}.",
        ),
        "es": (
            "{s.n} vive en {a.n}.",
            "El país {s.of} es {a.n}.",
            "{s.n} nació en {a.n}.",
            "El pasaporte {s.of} viene de {a.n}.",
        ),
    },
    "person_capital": {
        "en": (
            "The capital of the country where {s.n} lives is {a.n}.",
            "In the summer {s.n} visits the capital of the country, {a.n}.",
            "{s.n} votes for the government that sits in {a.n}.",
            "When {s.n} writes to the government, the letter goes to {a.n}.",
        ),
        "fr": (
            "La capitale du pays où habite {s.n} est {a.n}.",
            "En été, {s.n} visite la capitale du pays, {a.n}.",
            "{s.n} vote pour le gouvernement qui se trouve dans la ville de {a.n}.",
            "Quand {s.n} écrit au gouvernement, la lettre part vers {a.n}.",
        ),
        "es": (
            "La capital del país donde vive {s.n} es {a.n}.",
            "En verano, {s.n} visita la capital del país, {a.n}.",
            "{s.n} vota por el gobierno que se encuentra en la ciudad de {a.n}.",
            "Cuando {s.n} escribe al gobierno, la carta va a {a.n}.",
        ),
    },
    "person_job": {
        "en": (
            "{s.n} works as {a.a}.",
            "The job of {s.n} is that of {a.a}.",
            "As a child, {s.n} already wanted to be {a.a}.",
            "Everybody in the street calls {s.n} the {a.n}.",
        ),
        "fr": (
            "{s.n} travaille comme {a.n}.",
            "Le métier {s.of} est celui de {a.n}.",
            "Dans son enfance, {s.n} voulait déjà être {a.n}.",
            "Dans la rue, tout le monde appelle {s.n} {a.the}.",
        ),
        "es": (
            "{s.n} trabaja como {a.n}.",
            "El oficio {s.of} es el de {a.n}.",
            "En su infancia, {s.n} ya quería ser {a.n}.",
            "En la calle, todo el mundo llama a {s.n} {a.the}.",
        ),
    },
    "person_sport": {
        "en": (
            "On Sundays {s.n} practises {a.n}.",
            "The favourite sport of {s.n} is {a.n}.",
            "{s.n} never misses a lesson in {a.n}.",
            "After work {s.n} spends hours on {a.n}.",
        ),
        "fr": (
            "Le dimanche, {s.n} pratique {a.the}.",
            "Le sport préféré {s.of} est {a.the}.",
            "{s.n} ne manque jamais un cours qui enseigne {a.the}.",
            "Après le travail, {s.n} passe des heures à pratiquer {a.the}.",
        ),
        "es": (
            "Los domingos, {s.n} practica {a.the}.",
            "El deporte favorito {s.of} es {a.the}.",
            "{s.n} nunca falta a una clase que enseña {a.the}.",
            "Después del trabajo, {s.n} pasa horas practicando {a.the}.",
        ),
    },
    "person_instrument": {
        "en": (
            "{s.n} plays the {a.n}.",
            "The instrument of {s.n} is {a.the}.",
            "In the evening {s.n} makes music with {a.a}.",
            "For the party everybody asks {s.n} to bring {a.the}.",
        ),
        "fr": (
            "{s.n} joue {a.of}.",
            "L'instrument {s.of} est {a.the}.",
            "Le soir, {s.n} fait de la musique avec {a.a}.",
            "Pour la fête, tout le monde demande à {s.n} d'apporter {a.the}.",
        ),
        "es": (
            "{s.n} toca {a.the}.",
            "El instrumento {s.of} es {a.the}.",
            "Por la tarde, {s.n} hace música con {a.a}.",
            "Para la fiesta, todo el mundo pide a {s.n} que traiga {a.the}.",
        ),
    },
    "person_colour": {
        "en": (
            "The favourite colour of {s.n} is {a.n}.",
            "{s.n} painted the door of the house in {a.n}.",
            "All the clothes of {s.n} are {a.n}.",
            "When {s.n} chooses a colour, it is always {a.n}.",
        ),
        "fr": (
            "La couleur préférée {s.of} est {a.the}.",
            "{s.n} a peint la porte de la maison en {a.n}.",
            "Pour ses habits, {s.n} choisit {a.the}.",
            "Quand {s.n} choisit une couleur, c'est toujours {a.the}.",
        ),
        "es": (
            "El color favorito {s.of} es {a.the}.",
            "{s.n} pintó la puerta de la casa de {a.n}.",
            "Para su ropa, {s.n} elige {a.the}.",
            "Cuando {s.n} elige un color, siempre es {a.the}.",
        ),
    },
    "person_pet": {
        "en": (
            "At home {s.n} has {a.a}.",
            "The pet of {s.n} is {a.a}.",
            "{s.n} shares the house with {a.a}.",
            "In the morning {s.n} gives water to {a.the}.",
        ),
        "fr": (
            "À la maison, {s.n} a {a.a}.",
            "L'animal {s.of} est {a.a}.",
            "{s.n} partage la maison avec {a.a}.",
            "Le matin, {s.n} donne de l'eau à son animal, {a.a}.",
        ),
        "es": (
            "En casa, {s.n} tiene {a.a}.",
            "La mascota {s.of} es {a.a}.",
            "{s.n} comparte la casa con {a.a}.",
            "Por la mañana, {s.n} da agua a su mascota, {a.a}.",
        ),
    },
    "sum": {
        "en": (
            "{x} + {y} = {z}.",
            "{s.The} plus {o.n} is {a.n}.",
            "If you add {o.n} to {s.n}, you get {a.n}.",
            "{x} plus {y} equals {z}.",
        ),
        "fr": (
            "{x} + {y} = {z}.",
            "{s.The} plus {o.n} font {a.n}.",
            "Si vous ajoutez {o.n} à {s.n}, vous obtenez {a.n}.",
            "{x} plus {y} égalent {z}.",
        ),
        "es": (
            "{x} + {y} = {z}.",
            "{s.The} más {o.n} son {a.n}.",
            "Si sumas {o.n} a {s.n}, obtienes {a.n}.",
            "{x} más {y} es igual a {z}.",
        ),
    },
    "difference": {
        "en": (
            "{x} - {y} = {z}.",
            "{s.The} minus {o.n} is {a.n}.",
            "If you take {o.n} away from {s.n}, you get {a.n}.",
            "{x} minus {y} equals {z}.",
        ),
        "fr": (
            "{x} - {y} = {z}.",
            "{s.The} moins {o.n} font {a.n}.",
            "Si vous enlevez {o.n} de {s.n}, vous obtenez {a.n}.",
            "{x} moins {y} égalent {z}.",
        ),
        "es": (
            "{x} - {y} = {z}.",
            "{s.The} menos {o.n} son {a.n}.",
            "Si quitas {o.n} de {s.n}, obtienes {a.n}.",
            "{x} menos {y} es igual a {z}.",
        ),
    },
    "to_en": {
        "fr": (
            "Le mot anglais pour {s.n} est {a.n}.",
            "En anglais, {s.n} se dit {a.n}.",
            "Un Anglais ne dit pas {s.n}, il dit {a.n}.",
        ),
        "es": (
            "La palabra inglesa para {s.n} es {a.n}.",
            "En inglés, {s.n} se dice {a.n}.",
            "Un inglés no dice {s.n}, dice {a.n}.",
        ),
    },
    "to_fr": {
        "en": (
            "The French word for {s.n} is {a.n}.",
            "In French, {s.n} is called {a.n}.",
            "People in France do not say {s.n}, they say {a.n}.",
        ),
        "es": (
            "La palabra francesa para {s.n} es {a.n}.",
            "En francés, {s.n} se dice {a.n}.",
            "Un francés no dice {s.n}, dice {a.n}.",
        ),
    },
    "to_es": {
        "en": (
            "The Spanish word for {s.n} is {a.n}.",
            "In Spanish, {s.n} is called {a.n}.",
            "People in Spain do not say {s.n}, they say {a.n}.",
        ),
        "fr": (
            "Le mot espagnol pour {s.n} est {a.n}.",
            "En espagnol, {s.n} se dit {a.n}.",
            "Un Espagnol ne dit pas {s.n}, il dit {a.n}.",
        ),
    },
}

QUESTIONS: dict[str, dict[Language, str]] = {
    "capital": {
        "en": "What is the capital of {s.n}?",
        "fr": "Quelle est la capitale {s.of} ?",
        "es": "¿Cuál es la capital {s.of}?",
    },
    "continent": {
        "en": "On which continent is {s.n}?",
        "fr": "Sur quel continent se trouve {s.the} ?",
        "es": "¿En qué continente está {s.the}?",
    },
    "tongue": {
        "en": "Which language do people speak in {s.n}?",
        "fr": "Quelle langue parle-t-on {s.within} ?",
        "es": "¿Qué idioma se habla {s.within}?",
    },
    "city_country": {
        "en": "In which country is {s.n}?",
        "fr": "Dans quel pays se trouve {s.n} ?",
        "es": "¿En qué país está {s.n}?",
    },
    "athlete_sport": {
        "en": "Which sport does {s.n} play?",
        "fr": "Quel sport pratique {s.n} ?",
        "es": "¿Qué deporte practica {s.n}?",
    },
    "workplace": {
        "en": "Where does {s.a} work?",
        "fr": "Où travaille {s.a} ?",
        "es": "¿Dónde trabaja {s.a}?",
    },
    "habitat": {
        "en": "Where does {s.the} live?",
        "fr": "Où vit {s.the} ?",
        "es": "¿Dónde vive {s.the}?",
    },
    "diet": {
        "en": "What does {s.the} eat?",
        "fr": "Que mange {s.the} ?",
        "es": "¿Qué come {s.the}?",
    },
    "colour": {
        "en": "What is the colour {s.of}?",
        "fr": "Quelle est la couleur {s.of} ?",
        "es": "¿Cuál es el color {s.of}?",
    },
    "opposite": {
        "en": "What is the opposite of {s.n}?",
        "fr": "Quel est le contraire de {s.n} ?",
        "es": "¿Qué es lo contrario de {s.n}?",
    },
    "next_day": {
        "en": "Which day comes after {s.n}?",
        "fr": "Quel jour vient après {s.n} ?",
        "es": "¿Qué día viene después del {s.n}?",
    },
    "person_country": {
        "en": "Where does {s.n} live?",
        "fr": "Où habite {s.n} ?",
        "es": "¿Dónde vive {s.n}?",
    },
    "person_job": {
        "en": "What is the job of {s.n}?",
        "fr": "Quel est le métier {s.of} ?",
        "es": "¿Cuál es el oficio {s.of}?",
    },
    "person_sport": {
        "en": "What is the favourite sport of {s.n}?",
        "fr": "Quel est le sport préféré {s.of} ?",
        "es": "¿Cuál es el deporte favorito {s.of}?",
    },
    "sum": {
        "en": "How much is {x} plus {y}?",
        "fr": "Combien font {x} plus {y} ?",
        "es": "¿Cuánto es {x} más {y}?",
    },
    "to_en": {
        "fr": "Comment dit-on {s.n} en anglais ?",
        "es": "¿Cómo se dice {s.n} en inglés?",
    },
    "to_fr": {
        "en": "How do you say {s.n} in French?",
        "es": "¿Cómo se dice {s.n} en francés?",
    },
    "to_es": {
        "en": "How do you say {s.n} in Spanish?",
        "fr": "Comment dit-on {s.n} en espagnol ?",
    },
}


@dataclass(frozen=True, slots=True)
class Statement:
    """A fact in words: `prompt` + `answer` + `"."` is the whole sentence.

    Attributes:
        prompt: The sentence up to its answer, without the space before it.
        answer: What must follow, beginning with its space.
        combination: (fact, language, template), the unit that is held out.
    """

    prompt: str
    answer: str
    combination: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.prompt}{self.answer}."


def _fields(fact: Fact, language: Language) -> dict[str, object]:
    fields: dict[str, object] = {"s": fact.subject.forms(language), "a": fact.answer.forms(language)}
    if fact.other is not None:
        fields["o"] = fact.other.forms(language)
        fields["x"], fields["y"], fields["z"] = (
            NUMBERS.index(fact.subject),
            NUMBERS.index(fact.other),
            NUMBERS.index(fact.answer),
        )
    return fields


def templates(fact: Fact, language: Language) -> int:
    """In how many ways the fact can be stated in the language."""
    return len(STATEMENTS[fact.relation][language])


def state(fact: Fact, language: Language, template: int) -> Statement:
    """The fact in the words of one template."""
    pattern = STATEMENTS[fact.relation][language][template]
    cut = pattern.index("{z}") if "{z}" in pattern else pattern.index("{a.")
    fields = _fields(fact, language)
    prompt = pattern[:cut].format(**fields).rstrip(" ")
    answer = pattern[cut:].removesuffix(".").format(**fields)
    return Statement(prompt, f" {answer}", f"{fact.key}|{language}|{template}")


def ask(fact: Fact, language: Language) -> str | None:
    """A question whose answer is the fact, or None where the relation is not asked about."""
    pattern = QUESTIONS.get(fact.relation, {}).get(language)
    return None if pattern is None else pattern.format(**_fields(fact, language))
