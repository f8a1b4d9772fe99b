"""Teachers: frozen models or precomputed features, given as ``source:name?option=value``."""

from aft.backbones.preprocessing import Preprocessing
from aft.backbones.specs import Spec
from aft.backbones.tokenization import Tokenization
from aft.teachers.feature_table import FeatureTable
from aft.teachers.loading import load_teacher
from aft.teachers.teacher import Teacher

__all__ = ["FeatureTable", "Preprocessing", "Spec", "Teacher", "Tokenization", "load_teacher"]
