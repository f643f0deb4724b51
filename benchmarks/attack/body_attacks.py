"""Attacks with request bodies that are small on the network and large in memory, or slow to walk through."""

import gzip
import zlib

from ...config import zstd
from . import client
from .target import Target, get_shared_target
from .verdict import Verdict

MEGABYTE = 2**20


def run(quick: bool) -> list[Verdict]:
    """Run the attacks."""
    target, upstream = get_shared_target()
    upstream.keeps_bodies = False
    client.is_serving(target)
    verdicts = [_attack_with_bombs(target, quick=quick), _attack_with_shapes(target, quick=quick)]
    upstream.reset()
    return verdicts


def _attack_with_bombs(target: Target, *, quick: bool) -> Verdict:
    """Send packed bodies that unpack to 60 MB, all at once."""
    size, count = (8 * MEGABYTE, 4) if quick else (60 * MEGABYTE, 20)
    prefix = b'{"model":"gpt-4o","messages":[{"role":"user","content":"'
    plain = prefix + b"a" * (size - len(prefix) - 3) + b'"}]}'
    encodings = {
        "gzip": gzip.compress(plain, 1),
        "zstd": zstd.compress(plain),
        "deflate": zlib.compress(plain, 1),
    }
    before, statuses = target.read_rss_mb(), list[int]()
    target.read_holds()
    for encoding, packed in list(encodings.items())[: 1 if quick else 3]:
        statuses += [a.status for a in client.send_all(target, [packed] * count, content_encoding=encoding)]
    is_free, holds = client.describe_holds(target)
    growth = target.read_rss_mb() - before
    served, refused = statuses.count(200), statuses.count(503)
    is_bounded = growth < (400 if quick else 1000) and client.is_serving(target)
    survived = served + refused if is_free and is_bounded else 0
    detail = f"{holds}, RSS +{growth:.0f} MB, {served} served, {refused} refused"
    return Verdict(f"packed bodies of {size // MEGABYTE} MB", len(statuses), survived, detail)


def _attack_with_shapes(target: Target, *, quick: bool) -> Verdict:
    """Send JSON of awkward shapes: many tiny values, many messages, deep nesting, large names, escapes."""
    scale = 1 if quick else 6
    message = b'{"role":"user","content":"a"}'
    part = b'{"type":"text","text":"a"}'
    parts = b'{"role":"user","content":[' + (part + b",") * 20_000 * scale + part + b"]}"
    passages = [b'{"role":"tool","tool_call_id":"c","content":"%d%b"}' % (n, b" lorem 9" * 200) for n in range(1500)]
    user_text = b'{"model":"m","messages":[{"role":"user","content":"'
    shapes = {
        "objects": b'{"model":"m","messages":[' + b"{}," * 400_000 * scale + b"{}]}",
        "numbers": b'{"model":"m","messages":[],"x":[' + b"0," * 900_000 * scale + b"0]}",
        "messages": b'{"model":"m","messages":[' + (message + b",") * 15_000 * scale + message + b"]}",
        "parts": b'{"model":"m","messages":[' + parts + b"]}",
        "passages": b'{"model":"m","messages":[' + b",".join(passages * scale) + b"]}",
        "nesting": b'{"model":"m","messages":' + b"[" * 1_000_000 * scale + b"]" * 1_000_000 * scale + b"}",
        "a model that is no name": b'{"messages":[],"model":[' + b'"x",' * 100_000 * scale + b"0]}",
        "escapes": user_text + b"\\u0041" * 700_000 * scale + b'"}]}',
        "surrogates": b'{"model":"m","messages":[{"role":"user","content":"' + b"\\ud800" * 100_000 * scale + b'"}]}',
        "not UTF-8": user_text + b"\xff" * 3_000_000 * scale + b'"}]}',
    }
    survived, broken = 0, list[str]()
    for name, body in shapes.items():
        target.read_holds()
        with_tools = body[:-1] + b',"tools":[{"type":"function","function":{"name":"ls"}}]}'
        statuses = [client.send(target, variant).status for variant in ((with_tools,) if quick else (body, with_tools))]
        is_free, holds = client.describe_holds(target)
        if is_free and all(status in (200, 400, 413) for status in statuses):
            survived += 1
        else:
            broken.append(f"{name}: {holds} {statuses}")
    if not client.is_serving(target):
        survived = 0
    return Verdict("JSON of awkward shapes", len(shapes), survived, "; ".join(broken) or "loop free")
