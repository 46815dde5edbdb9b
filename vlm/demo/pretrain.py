"""Pretrain the vision tower and connector of `lensmith-demo`: `python -m vlm.demo.pretrain --fonts FOLDER ...`.

Renders everything it learns from; `RECORD.md` beside this file tells of the run whose weights are committed.
"""

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from vlm.chat import make_processor
from vlm.demo import anatomy, build, glyphs
from vlm.demo.align import Aligner, AlignSettings, align, token_accuracy
from vlm.demo.tower import Eye, Sources, TowerSettings, prepare, train

_log = logging.getLogger(__name__)
_HELD_OUT_EVERY = 7
_NUM_DIGITS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fonts:
    """Font files by split; no family is in both."""

    training: list[Path]
    held_out: list[Path]


def main() -> None:
    """Run the stages that were asked for and write weights and a record of them."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    fonts = split_fonts(arguments.fonts, reference=arguments.reference)
    sources = prepare(fonts.training, seed=arguments.seed, num_digits=_NUM_DIGITS, reference=arguments.reference)
    held_out = prepare(fonts.held_out, seed=arguments.seed + 1, num_digits=3000, reference=arguments.reference)
    record: dict[str, object] = {
        "seed": arguments.seed,
        "fonts": {"training": sources.characters.num_fonts, "held_out": held_out.characters.num_fonts},
    }
    tower = arguments.tower or arguments.out / "tower.safetensors"
    if arguments.tower is None:
        settings = TowerSettings(seconds=60 * arguments.tower_minutes, seed=arguments.seed)
        counts = train(Eye(), sources, held_out, settings, arguments.out)
        record["tower"] = {"settings": asdict(settings), **counts}
    record["alignment"] = _align(tower, sources, held_out, arguments)
    (arguments.out / "record.json").write_text(json.dumps(record, indent=2) + "\n")
    _log.info("%s", record)


def split_fonts(folders: list[Path], *, reference: Path) -> Fonts:
    """Return the fonts under `folders`: every seventh family held out (never the reference's), at most four files each."""
    families = list(glyphs.find_fonts(folders).values())
    held_out = [family for family in families[::_HELD_OUT_EVERY] if reference not in family]
    return Fonts(
        training=[path for family in families if family not in held_out for path in family[:4]],
        held_out=[path for family in held_out for path in family[:2]],
    )


def _align(tower: Path, sources: Sources, held_out: Sources, arguments: argparse.Namespace) -> dict[str, object]:
    tokenizer, decoder = build.read_decoder()
    model = build.assemble(tokenizer, decoder)
    build.put_vision(model, tower)
    processor = make_processor(tokenizer, side_px=anatomy.IMAGE_SIDE_PX, image_tokens=anatomy.IMAGE_TOKENS)
    aligner = Aligner(model, processor)
    settings = AlignSettings(
        seconds=60 * arguments.align_minutes,
        connector_rate=arguments.connector_rate,
        seed=arguments.seed + 4,
        fit=not arguments.go_on,
    )

    def keep() -> None:
        kept = {
            name: tensor.detach().to(torch.bfloat16).contiguous()
            for name, tensor in model.model.state_dict().items()
            if name.startswith(("vision_model.", "connector."))
        }
        save_file(kept, arguments.out / anatomy.WEIGHTS.name, metadata={"format": "pt"})

    counts = align(aligner, sources, settings, keep=keep)
    return {"settings": asdict(settings), **counts, **token_accuracy(aligner, held_out)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fonts", type=Path, nargs="+", required=True, help="folders with .ttf and .otf files")
    parser.add_argument("--reference", type=Path, required=True, help="a plain font, to leave out symbol fonts")
    parser.add_argument("--out", type=Path, required=True, help="where weights and the record go")
    parser.add_argument("--tower", type=Path, help="the weights of an earlier stage 1")
    parser.add_argument("--tower-minutes", type=float, default=24.0)
    parser.add_argument("--align-minutes", type=float, default=12.0)
    parser.add_argument("--go-on", action="store_true", help="`--tower` is aligned already: train it further")
    parser.add_argument("--connector-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
