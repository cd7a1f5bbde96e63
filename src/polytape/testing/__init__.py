"""The laws that every method keeps, for the methods of this library and for yours.

from polytape.testing import certify
certify(MyMethod())     # AssertionError with method, law and matrix, or silence
"""

from polytape.testing.laws import GUARANTEES, LAWS, certify, check, laws_of
from polytape.testing.matrices import Matrix, matrices
from polytape.testing.trials import Trial

__all__ = ["GUARANTEES", "LAWS", "Matrix", "Trial", "certify", "check", "laws_of", "matrices"]
