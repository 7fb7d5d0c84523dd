"""Which reader answers which question."""

from core.questions import (
    ActiveFeaturesQuestion,
    AttentionQuestion,
    DirectionQuestion,
    FeatureQuestion,
    MessageMeansQuestion,
    PredictionSimilarityQuestion,
    Question,
    ResidualQuestion,
    TopFeaturesQuestion,
    TopPerTokenQuestion,
    VectorQuestion,
)
from core.readings.features import FeatureReader, VectorReader
from core.readings.internals import AttentionReader, ResidualReader
from core.readings.messages import DirectionReader, MessageMeansReader
from core.readings.positions import ActiveFeaturesReader, PredictionSimilarityReader, TopPerTokenReader
from core.readings.rankings import TopFeaturesReader
from core.readings.reader import Reader, Saes


def reader_for(question: Question, saes: Saes) -> Reader:
    """The reader of a question; `saes` holds at least the sources that the question names."""
    match question:
        case FeatureQuestion():
            return FeatureReader(question, saes[question.source])
        case VectorQuestion():
            return VectorReader(question)
        case TopFeaturesQuestion():
            return TopFeaturesReader(question, saes)
        case ActiveFeaturesQuestion():
            return ActiveFeaturesReader(question, saes[question.source])
        case TopPerTokenQuestion():
            return TopPerTokenReader(question, saes[question.source])
        case ResidualQuestion():
            return ResidualReader(question)
        case AttentionQuestion():
            return AttentionReader(question)
        case PredictionSimilarityQuestion():
            return PredictionSimilarityReader(saes[question.source])
        case MessageMeansQuestion():
            return MessageMeansReader(question)
        case DirectionQuestion():
            return DirectionReader(question)
