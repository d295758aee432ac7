"What the tests of every translated command line ask of a refusal, and of the notes of a translation."
import pytest

from uncpaper.originals.engine import Refused


def refused_by(translate, line):
    with pytest.raises(Refused) as error: translate(line)
    message = str(error.value)
    assert isinstance(error.value, ValueError) and "\n" not in message
    assert message.startswith(f"{error.value.field}: got ") and message.endswith(f"; allowed: {error.value.allowed}")
    assert error.value.allowed
    return error.value


def noted(translation, *fragments):
    return all(any(fragment in note for note in translation.notes) for fragment in fragments)
