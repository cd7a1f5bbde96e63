"""Names of methods, for signatures. Type checkers know each of them: see `names.pyi`."""

from polytape.contract import Method

MethodName = str  # any spelling is found
MethodLike = Method | MethodName
