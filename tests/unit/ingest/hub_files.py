"""What lies in a repository of the Hub that tests fetch from."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features


def parquet(rows, **features):
    schema = Features(features).arrow_schema
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, row_group_size=4)
    return out.getvalue()


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows).encode()


def pictures(make, count):
    return [{"image": {"bytes": make.image(i), "path": f"{i}.png"}, "caption": f"c{i}"} for i in range(count)]


def split(name, *texts):
    return {f"{name}.jsonl": lines(*({"text": text} for text in texts))}
