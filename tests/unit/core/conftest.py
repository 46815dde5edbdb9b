"""What the tests of the store share."""

import pytest

from core.storage import Storage


@pytest.fixture
def storage(tmp_path):
    return Storage.from_url((tmp_path / "objects").as_uri())
