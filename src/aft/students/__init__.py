"""Students: the small models to train, specified as ``source:name?option=value``."""

from aft.students.backbone import Backbone, load_backbone
from aft.students.build import build_student, rebuild_backbone
from aft.students.saved import SavedStudent
from aft.students.student import Student, StudentOutput, new_student

__all__ = [
    "Backbone",
    "SavedStudent",
    "Student",
    "StudentOutput",
    "build_student",
    "load_backbone",
    "new_student",
    "rebuild_backbone",
]
