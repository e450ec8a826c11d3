"""Q-learning for language models: the token backup on text, on any causal language model of transformers."""

from qseq.errors import RequestError

try:
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise RequestError("the language family needs transformers: pip install 'qseq[language]'") from error

from qseq.language.config import (
    FilteredLanguageCloningConfig,
    GuidanceConfig,
    ILQLConfig,
    LanguageCloningConfig,
    LanguageModelConfig,
    LoraConfig,
    MonteCarloConfig,
    QRLHFConfig,
    RepeatConfig,
    TextDataConfig,
    TextObjectiveConfig,
)
from qseq.language.learner import QRLHF
from qseq.language.merging import merge_q_head
from qseq.language.model import QLanguageConfig, QLanguageModel
from qseq.language.objective import TextObjective
from qseq.language.policy import LanguagePolicy
from qseq.language.processor import QLogitsProcessor
from qseq.language.support import SupportConfig

__all__ = [
    "QRLHF",
    "FilteredLanguageCloningConfig",
    "GuidanceConfig",
    "ILQLConfig",
    "LanguageCloningConfig",
    "LanguageModelConfig",
    "LanguagePolicy",
    "LoraConfig",
    "MonteCarloConfig",
    "QLanguageConfig",
    "QLanguageModel",
    "QLogitsProcessor",
    "QRLHFConfig",
    "RepeatConfig",
    "SupportConfig",
    "TextDataConfig",
    "TextObjective",
    "TextObjectiveConfig",
    "merge_q_head",
]
