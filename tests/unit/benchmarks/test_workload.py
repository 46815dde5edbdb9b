"""The sets of the training benchmark: as many tiles as their titles say, and the same bytes every time."""

import pytest

from benchmarks.arms import workload
from training.images import ImageFolder
from vlm import geometry
from vlm.conversation import IMAGES_FOLDER, read_examples


@pytest.mark.parametrize(
    ("name", "tiles"), [("tiles-1", 1), ("tiles-5", 5), ("tiles-13", 13), ("text", 1), ("shared", 5)]
)
def test_a_set_has_the_tiles_that_it_is_named_for(name, tiles, tmp_path):
    each = next(each for each in workload.WORKLOADS if each.name == name)
    train, _ = workload.write(tmp_path, each)
    shape = geometry.find("smolvlm-256m")
    cutting = type(shape.cutting)(
        longest_edge_px=each.longest_edge_px, tile_px=shape.vision.side_px, is_split=True, tokens_per_tile=64
    )
    folder = ImageFolder(train)
    found = {cutting.num_tiles(*folder.size(name)) for example in read_examples(train) for name in example.images}
    assert found == {tiles}


def test_four_questions_share_a_picture_and_the_seed_decides_all(tmp_path):
    each = next(each for each in workload.WORKLOADS if each.name == "shared")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    sets = [workload.write(tmp_path / name, each)[0] for name in ("one", "two")]
    one, two = (read_examples(folder) for folder in sets)
    assert one == two
    pictures = [example.images for example in one]
    assert [pictures.count(name) for name in dict.fromkeys(pictures)] == [4] * (each.num_train // 4)
    assert len(list((sets[0] / IMAGES_FOLDER).iterdir())) == each.num_train // 4
